"""Slot by slot, what one method does differently from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gradaxis.taxonomy.axes import AXES, SLOTS
from gradaxis.taxonomy.methods import Method, Placed, Side


@dataclass(frozen=True)
class Difference:
    """One operator that differs. `slot` is a key such as `baseline` or, in a stream, `step.baseline`.

    `parameters` holds the values that changed, name -> (before, after), with `where`, `over` and `stage` among them.
    """

    axis: str
    slot: str
    label: str
    change: Literal["added", "removed", "changed", "moved"]
    before: Placed | None
    after: Placed | None
    parameters: Mapping[str, tuple[Any, Any]]


def compare(before: Method, after: Method) -> list[Difference]:
    """The operators in which `after` differs from `before`, in slot order."""
    found: list[Difference] = []
    first, second = before.all_slots(), after.all_slots()
    for key in [*SLOTS, *sorted((first.keys() | second.keys()) - SLOTS.keys(), key=_stream_order)]:
        axis = SLOTS[key.split(".")[-1]].axis
        found += _compare_slot(axis, key, first.get(key, ()), second.get(key, ()))
    return found


def side_of(method: Method, reference: Method | None) -> Side:
    """The side of a method relative to a reference; `origin` when there is none."""
    if reference is None:
        return Side("origin", None)
    differences = compare(reference, method)
    axes = {difference.axis for difference in differences}
    whole = method.link != reference.link or method.mixed != reference.mixed
    side = "both" if whole or len(axes) == 2 else (axes.pop() if axes else "none")
    slots = tuple(dict.fromkeys(difference.slot for difference in differences))
    numbers = bool(differences) and not whole and all(_is_numeric(difference) for difference in differences)
    return Side(side, reference.label, slots, numbers)


def _stream_order(key: str) -> tuple[str, int]:
    stream, slot = key.split(".")
    return stream, AXES["reward"].index(slot)


def _compare_slot(axis: str, key: str, first: tuple[Placed, ...], second: tuple[Placed, ...]) -> list[Difference]:
    found: list[Difference] = []
    old, new = {placed.label: placed for placed in first}, {placed.label: placed for placed in second}
    for label, placed in old.items():
        if label not in new:
            found.append(Difference(axis, key, label, "removed", placed, None, {}))
    for label, placed in new.items():
        if label not in old:
            found.append(Difference(axis, key, label, "added", None, placed, {}))
        elif old[label].computes != placed.computes:
            found.append(Difference(axis, key, label, "changed", old[label], placed, _changes(old[label], placed)))
    kept_old, kept_new = [label for label in old if label in new], [label for label in new if label in old]
    for label, other in zip(kept_old, kept_new, strict=True):
        if label != other:
            found.append(Difference(axis, key, other, "moved", old[other], new[other], {}))
    return found


def _changes(before: Placed, after: Placed) -> dict[str, tuple[Any, Any]]:
    first = {"operator": before.operator, **before.parameters, "where": before.where, "over": before.over,
             "stage": before.stage}  # fmt: skip
    second = {"operator": after.operator, **after.parameters, "where": after.where, "over": after.over,
              "stage": after.stage}  # fmt: skip
    names = dict.fromkeys([*first, *second])
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def _is_numeric(difference: Difference) -> bool:
    """Whether the same operator stands there with other numbers; another choice is another formula."""
    if difference.change != "changed" or difference.after is None:
        return False
    declared = difference.after.declaration.parameters
    return all(name in declared and declared[name].type in ("number", "integer") for name in difference.parameters)
