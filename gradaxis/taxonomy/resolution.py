"""Resolving an entry against its parent: set, drop and add, slot by slot, and the checks that need the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradaxis.taxonomy.axes import AXES, SLOTS
from gradaxis.taxonomy.entries import Change, Entry, RewardBlock
from gradaxis.taxonomy.methods import Method, Placed, Removed
from gradaxis.taxonomy.placing import Lookup, Report, check_addresses, patch_placed, place_item, slot_path

Placements = tuple[Placed, ...]


def resolve(entry: Entry, parent: Method | None, lookup: Lookup, report: Report) -> Method | None:
    """The method of an entry, its derived facts still empty. None when a problem was found."""
    slots, removed = {}, [r for r in (parent.removed if parent else ())]
    for slot in SLOTS:
        block = entry.trajectory if slot in AXES["trajectory"] else entry.reward
        change: Change | None = getattr(block, slot)
        before = _from_parent(parent.slots[slot], parent) if parent else ()
        slots[slot] = _change_slot(change, before, slot, slot_path(slot), entry, parent, lookup, report)
        for drop in change.drop if change else ():
            removed.append(Removed(slot, drop.operator, tuple(drop.addresses), drop.why, entry.id))
    removed = [r for r in removed if all(placed.label != r.label for placed in slots[r.slot])]
    streams = _resolve_streams(entry, parent, lookup, report)
    method = Method(
        entry=entry, file=report.document.file, label=entry.id, slots=slots, streams=streams,
        teachers={**(parent.teachers if parent else {}), **entry.teachers},
        link=entry.link.form if entry.link else (parent.link if parent else "linear"),
        removed=tuple(removed), state={**(parent.state if parent else {}), **entry.state},
        mixed=tuple((part.of, part.weight) for part in entry.mix) or (parent.mixed if parent else ()),
    )  # fmt: skip
    if not report.broken:
        _check_method(method, report)
    return None if report.broken else method


def check_items(entry: Entry, lookup: Lookup, report: Report) -> None:
    """The checks that need no parent, for an entry whose parent is missing or broken."""
    blocks: list[tuple[str | None, Any]] = [(None, entry.trajectory), (None, entry.reward)]
    blocks += [(stream, block) for stream, block in entry.streams.items() if block is not None]
    for stream, block in blocks:
        for slot in type(block).model_fields:
            change: Change | None = getattr(block, slot)
            if change is None:
                continue
            path = slot_path(slot, stream)
            for key, items in (("set", change.replace), ("add", change.add)):
                if isinstance(items, list):
                    for index, item in enumerate(items):
                        place_item(item, slot, (*path, key, index), lookup, report)


def _from_parent(items: Placements, parent: Method) -> Placements:
    return tuple(placed.inherited(parent.id) for placed in items)


def _resolve_streams(
    entry: Entry, parent: Method | None, lookup: Lookup, report: Report
) -> dict[str, Mapping[str, Placements]]:
    streams = dict(parent.streams) if parent else {}
    if parent:
        streams = {name: {s: _from_parent(i, parent) for s, i in slots.items()} for name, slots in streams.items()}
    for name, block in entry.streams.items():
        if name in SLOTS or name == "main":
            report.add(("streams", name), f"{name!r} is taken; a stream has a name of its own", key=True)
        if block is None:
            if streams.pop(name, None) is None:
                report.add(("streams", name), f"the parent has no stream {name!r} to remove", list(streams), name)
            continue
        before = streams.get(name, {slot: () for slot in AXES["reward"]})
        streams[name] = {
            slot: _change_slot(getattr(block, slot), before[slot], slot, slot_path(slot, name), entry, parent, lookup,
                               report)
            for slot in RewardBlock.model_fields
        }  # fmt: skip
    return streams


def _change_slot(
    change: Change | None,
    before: Placements,
    slot: str,
    path: tuple[str, ...],
    entry: Entry,
    parent: Method | None,
    lookup: Lookup,
    report: Report,
) -> Placements:
    if change is None:
        return before
    items, labels = list(before), [placed.label for placed in before]
    whose = f"{parent.id}, its parent," if parent else f"{entry.id} has no parent, so its {slot}"

    def require(label: str, at: Sequence[Any], verb: str, key: bool) -> bool:
        if label in labels:
            return True
        has = f"{whose} has no {label!r} in {slot} to {verb}" if parent else f"{whose} holds no {label!r} to {verb}"
        report.add(at, has, labels, label, key=key)
        return False

    if isinstance(change.replace, list):
        if change.drop:
            report.add((*path, "drop"), "`set` with a list replaces the whole slot, so nothing is left to drop", key=True)
        items = [place_item(item, slot, (*path, "set", i), lookup, report) for i, item in enumerate(change.replace)]
    elif change.replace:
        for label, patch in change.replace.items():
            at = (*path, "set", label)
            if require(label, at, "set", True):
                index = labels.index(label)
                items[index] = patch_placed(items[index], patch, at, lookup, report)
    for i, drop in enumerate(change.drop):
        check_addresses(drop.addresses, (*path, "drop", i), lookup, report)
        if not isinstance(change.replace, list) and require(drop.operator, (*path, "drop", i), "drop", False):
            items = [placed for placed in items if placed is None or placed.label != drop.operator]
    items += [place_item(item, slot, (*path, "add", i), lookup, report) for i, item in enumerate(change.add)]
    placed_items = tuple(placed for placed in items if placed is not None)
    _check_labels(placed_items, path, report)
    return placed_items


def _check_labels(items: Placements, path: tuple[str, ...], report: Report) -> None:
    seen: set[str] = set()
    for placed in items:
        if placed.label in seen:
            report.add(path, f"{placed.label!r} stands twice in one slot; give one of them another label with `as`",
                       key=True)  # fmt: skip
        seen.add(placed.label)


def _check_method(method: Method, report: Report) -> None:
    """What only the resolved method shows: requirements, teachers, streams, and the keys of `sources`."""
    for key, items in method.all_slots().items():
        stream, slot = key.split(".") if "." in key else (None, key)
        for placed in items:
            at = _item_path(method.entry, slot, stream, placed)
            _check_requirements(method, placed, stream, at, report)
            _check_teacher(method, placed, at, report)
            if "streams" in placed.declaration.reads:
                known = ["main", *method.streams]
                for name, value in placed.parameters.items():
                    for stream_name in value if isinstance(value, Mapping) else ():
                        if stream_name not in known:
                            report.add((*at, name, stream_name), f"no stream {stream_name!r}", known, stream_name, key=True)
    for source in method.entry.sources:
        if not _names_parameter(method, source):
            keys = [f"{key}.{name}" for key, items in method.all_slots().items() for p in items for name in p.parameters]
            report.add(("sources", source), f"{source!r} is no parameter of {method.id}", keys, source, key=True)


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
            known = ", ".join(method.teachers) or "none"
            parameter = next((p for p, value in placed.parameters.items() if value == name), "operator")
            message = f"{placed.operator} reads the teacher {name!r}, which `teachers` does not declare (declared: {known})"
            report.add((*at, parameter), message)


def named_teachers(placed: Placed) -> tuple[str, ...]:
    """The teachers that an operator refers to: by a parameter `teacher`, or by the value `teacher` of `to` or `anchor`."""
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
    block = (entry.streams.get(stream) if stream else (entry.trajectory if slot in AXES["trajectory"] else entry.reward))
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
