"""Which slot turns methods away from ∇J, and what would help; where none is off, which slot turns a gradient most."""

from __future__ import annotations

from collections import defaultdict

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.cards import Card, method_cards
from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import OFF, alike, assessed, judged, more_prompts, name, names
from gradaxis.reports.format import clean_text
from gradaxis.reports.metrics import SLOT_BIAS, SLOT_DIRECTION, SQUARED_MEAN
from gradaxis.reports.points import at_point, sentence
from gradaxis.reports.results import Results
from gradaxis.reports.values import certainty_of, write_quantity

AXES = ("trajectory", "reward")
LEAST = 0.01
"""Effects smaller than this are never headlined, however clear they are."""


def slot_finding(results: Results) -> Finding | None:
    """The slots whose undoing raises the cosine of the methods that are off; None without slot rows.

    Where no method is off, or no change of the cosine was measured, the strongest slot on each axis.
    """
    for point in results.points:
        off = [row.method for row in judged(results, assessed(results, point)) if row.verdict in OFF]
        changes = [row for row in results.select(SLOT_BIAS, point=point) if row.method in off]
        known = [row for row in changes if is_number(row.estimate)]
        if known:
            return _causes(results, point, off, known)
        if off and changes:
            return _no_cause(results, point, off, changes)
    return _strongest(results)


def _causes(results: Results, point: str, off: list[str], rows: list[Measurement]) -> Finding:
    """What the best single change of each method that is off would do; `rows` are the changes of their cosines."""
    rises = sorted((row for row in rows if _is_clear(results, row)), key=lambda row: -(row.estimate or 0.0))
    best = list({row.method: row for row in reversed(rises)}.values())
    if not best:
        return _no_cause(results, point, off, rows)
    shared: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for row in sorted(best, key=lambda row: off.index(row.method)):
        shared[row.slot, row.compared_with].append(row)
    groups = sorted(shared.values(), key=lambda group: (-len(group), -max(row.estimate or 0.0 for row in group)))
    parts = [_blamed(group, point if not place else "") for place, group in enumerate(groups[:3])]
    shown, axes = [row for group in groups[:3] for row in group], {row.axis for row in best}
    for axis in AXES:
        if axis not in axes:
            other = next((row for row in rises if row.axis == axis), None)
            if other is None:
                parts.append(f"On the {axis} side no rise is clear of zero.")
            else:
                largest = f"the {other.slot} of {name(other)}: {_undone([other])}"
                parts.append(f"On the {axis} side the largest is {largest}.")
                shown.append(other)
    open_ones = [label for label in off if label not in {row.method for row in best}]
    if open_ones:
        parts.append(f"No single slot is shown to turn {_labels(open_ones)} away.")
    return Finding(
        kind="slots",
        text=" ".join(parts),
        standing="finding",
        certainty=certainty_of(shown),
        methods=tuple(dict.fromkeys(row.method for row in shown)),
        points=(point,),
        axis=groups[0][0].axis,
        slot=groups[0][0].slot,
    )


def _is_clear(results: Results, row: Measurement) -> bool:
    """A rise that is large enough to speak of and clear of zero when all statements are counted."""
    return (row.estimate or 0.0) >= LEAST and results.family.clear(row, 0.0)


def _blamed(group: list[Measurement], point: str) -> str:
    """The sentence on methods that the same change would help; `point` is named where it is not empty."""
    row, several = group[0], len(group) > 1
    where = f"{sentence(at_point(point))} what" if point else "What"
    text = f"{where} turns {names(group)} away from ∇J is {'their' if several else 'its'} {row.slot}: {_undone(group)}"
    return f"{text}; a fix on the {row.axis} side."


def _undone(group: list[Measurement]) -> str:
    same = alike(group)
    rises = [f"by {write_quantity(rows[0])}" + (f" for {names(rows)}" if len(same) > 1 else "") for rows in same]
    return f"with that of {_other(group[0])} in its place the cosine rises {' and '.join(rises)}"


def _no_cause(results: Results, point: str, off: list[str], rows: list[Measurement]) -> Finding:
    text = f"{sentence(at_point(point))} no single slot is shown to turn {_labels(off)} away from ∇J: no change of the "
    text += f"cosine is clear of zero and {LEAST} or more."
    groups = any("groups" in row.interval for row in rows)
    remedy = "more groups a prompt (--groups)." if groups else more_prompts(results, point)
    return Finding("slots", text, "no finding", certainty_of(rows), points=(point,), remedy=remedy)


def _labels(labels: list[str]) -> str:
    return names([Measurement("", "", label) for label in labels])


def _other(row: Measurement) -> str:
    return clean_text(row.compared_with)


def _strongest(results: Results) -> Finding | None:
    """The slot that turns a gradient most, on each axis, whether towards ∇J or away from it.

    Only a method's own changes count: those that are undone by its parent's operators, or by the entry's own where the
    user overrode a parameter.
    """
    cards = method_cards(results)
    rows = [
        row
        for row in results.select(SLOT_DIRECTION)
        if is_number(row.estimate)
        and row.compared_with in _origins(cards.get(row.method, {}))
        and not _is_noise(results, row)
    ]
    if not rows:
        return None
    clear = sorted((row for row in rows if _is_clear(results, row)), key=lambda row: -(row.estimate or 0.0))
    tops = [top for axis in AXES if (top := next((row for row in clear if row.axis == axis), None))]
    if not tops:
        text = f"No single slot turns any method's gradient by {LEAST} or more and more than the data resolve."
        return Finding("slots", text, "no finding", certainty_of(rows), remedy="more prompts (--prompts)")
    parts = [_turned(top) for top in tops]
    parts += [
        f"On the {axis} side no slot is clear of zero."
        for axis in AXES
        if axis not in {top.axis for top in tops} and any(row.axis == axis for row in rows)
    ]
    return Finding(
        kind="slots",
        text=" ".join(parts),
        standing="finding",
        certainty=certainty_of(tops),
        methods=tuple(dict.fromkeys(row.method for row in tops)),
        points=tuple(dict.fromkeys(row.point for row in tops)),
        axis=tops[0].axis if len(tops) == 1 else None,
        slot=tops[0].slot,
    )


def _is_noise(results: Results, row: Measurement) -> bool:
    """Whether the method's gradient is not told from noise there: what turns it is then no news."""
    size = results.find(SQUARED_MEAN, row.method, row.point)
    return size is not None and not results.family.clear(size, 0.0)


def _origins(card: Card) -> tuple[str, ...]:
    return tuple(card[key] for key in ("extends", "id") if card.get(key))


def _turned(row: Measurement) -> str:
    effect = f"the {row.slot} of {name(row)}: with that of {_other(row)} in its place the gradient turns by"
    value = f"1 − cosine = {write_quantity(row)} {at_point(row.point)}"
    return f"On the {row.axis} side the largest effect measured is that of {effect} {value}."
