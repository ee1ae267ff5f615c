"""What only a resolved method shows: requirements, teachers, streams, and the keys of `sources`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradaxis.taxonomy.axes import AXES
from gradaxis.taxonomy.entries import Change, Entry
from gradaxis.taxonomy.methods import Method, Placed
from gradaxis.taxonomy.placing import Report, slot_path


def check_consistency(method: Method, report: Report) -> None:
    """Report what does not fit together, at the line of the entry that causes it."""
    for key, items in method.all_slots().items():
        stream, slot = key.split(".") if "." in key else (None, key)
        for placed in items:
            at = _item_path(method.entry, slot, stream, placed)
            _check_requirements(method, placed, stream, at, report)
            _check_teacher(method, placed, at, report)
            if "streams" in placed.declaration.reads:
                _check_streams(method, placed, at, report)
    for source in method.entry.sources:
        if not _names_parameter(method, source):
            placed_in = method.all_slots().items()
            keys = [f"{key}.{name}" for key, items in placed_in for placed in items for name in placed.parameters]
            report.add(("sources", source), f"{source!r} is no parameter of {method.id}", keys, source, key=True)


def _check_streams(method: Method, placed: Placed, at: Sequence[Any], report: Report) -> None:
    known = ["main", *method.streams]
    for name, value in placed.parameters.items():
        for stream in value if isinstance(value, Mapping) else ():
            if stream not in known:
                report.add((*at, name, stream), f"no stream {stream!r}", known, stream, key=True)


def _check_requirements(method: Method, placed: Placed, stream: str | None, at: Sequence[Any], report: Report) -> None:
    for required in placed.declaration.requires:
        slot, operator = required.split(".")
        held = (*method.slots[slot], *(method.streams[stream].get(slot, ()) if stream else ()))
        if all(other.operator != operator for other in held):
            here = at if placed.inherited_from is None else slot_path(slot)
            report.add(here, f"{placed.operator} requires {required}, which {method.id} does not have")


def _check_teacher(method: Method, placed: Placed, at: Sequence[Any], report: Report) -> None:
    for name in named_teachers(placed):
        if name not in method.teachers:
            parameter = next((p for p, value in placed.parameters.items() if value == name), "operator")
            message = f"{placed.operator} reads the teacher {name!r}, which `teachers` does not declare"
            report.add((*at, parameter), message, list(method.teachers), name)


def named_teachers(placed: Placed) -> tuple[str, ...]:
    """The teachers that an operator refers to: by its parameter `teacher`, or by `to` or `anchor` being `teacher`."""
    names = [placed.parameters.get("teacher")]
    names += ["teacher" for key in ("to", "anchor") if placed.parameters.get(key) == "teacher"]
    return tuple(str(name) for name in names if name)


def _names_parameter(method: Method, source: str) -> bool:
    slots = method.all_slots()
    key = max((k for k in slots if source == k or source.startswith(f"{k}.")), key=len, default=None)
    if key is None:
        return False
    rest = source[len(key) + 1 :].split(".") if source != key else []
    match rest:
        case []:
            return True
        case [name]:
            return any(name in placed.parameters or name == placed.label for placed in slots[key])
        case [label, name]:
            return any(placed.label == label and name in placed.parameters for placed in slots[key])
    return False


def _item_path(entry: Entry, slot: str, stream: str | None, placed: Placed) -> tuple[Any, ...]:
    """Where the entry itself places this operator; the slot when it does not."""
    path = slot_path(slot, stream)
    main = entry.trajectory if slot in AXES["trajectory"] else entry.reward
    block = entry.streams.get(stream) if stream else main
    change: Change | None = getattr(block, slot, None)
    if change is None:
        return path
    for key, items in (("set", change.replace), ("add", change.add)):
        if isinstance(items, Mapping) and placed.label in items:
            return (*path, key, placed.label)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if item.label == placed.label:
                return (*path, key, index)
    return path
