"""Resolving an entry against its parent: set, drop and add, slot by slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradaxis.taxonomy.axes import AXES, SLOTS
from gradaxis.taxonomy.consistency import check_consistency
from gradaxis.taxonomy.entries import Change, Entry, RewardBlock
from gradaxis.taxonomy.methods import Method, Placed, Removed
from gradaxis.taxonomy.placing import Lookup, Report, check_addresses, patch_placed, place_item, slot_path

Placements = tuple[Placed, ...]


def resolve(entry: Entry, parent: Method | None, lookup: Lookup, report: Report) -> Method | None:
    """The method of an entry, its derived facts still empty. None when a problem was found."""
    slots, removed = {}, list(parent.removed if parent else ())
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
        check_consistency(method, report)
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
    streams: dict[str, Mapping[str, Placements]] = dict(parent.streams) if parent else {}
    if parent:
        streams = {name: {s: _from_parent(i, parent) for s, i in slots.items()} for name, slots in streams.items()}
    for name, block in entry.streams.items():
        if name in SLOTS or name == "main":
            report.add(("streams", name), f"{name!r} is taken; a stream has a name of its own", key=True)
        if block is None:
            if streams.pop(name, None) is None:
                message = f"the parent has no stream {name!r} to remove"
                report.add(("streams", name), message, list(streams), name, key=True)
            continue
        before = streams.get(name, dict.fromkeys(AXES["reward"], ()))
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
            report.add((*path, "drop"), "`set` with a list replaces the whole slot; nothing is left to drop", key=True)
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
