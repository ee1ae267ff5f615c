"""Which slot turns the gradient: of the methods that are off, and the strongest on each axis."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.cards import Card, method_cards
from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import OFF, assessed, name
from gradaxis.reports.format import clean_text
from gradaxis.reports.metrics import SLOT_DIRECTION
from gradaxis.reports.points import at_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import certainty_of, excludes, write_quantity

AXES = ("trajectory", "reward")


def slot_finding(results: Results) -> Finding | None:
    """The strongest slot on each axis, and the one behind the most biased method. None without slot rows.

    Only a method's own changes count: those that are undone by its parent's operators, or by the entry's own where the
    user overrode a parameter.
    """
    cards = method_cards(results)
    rows = [
        row
        for row in results.select(SLOT_DIRECTION)
        if is_number(row.estimate) and row.compared_with in _origins(cards.get(row.method, {}))
    ]
    if not rows:
        return None
    clear = sorted((row for row in rows if excludes(row, 0.0)), key=lambda row: -(row.estimate or 0.0))
    tops = [top for axis in AXES if (top := next((row for row in clear if row.axis == axis), None))]
    culprit = _culprit(results, clear)
    if not tops:
        text = "No single slot turns any method's gradient by more than the data resolve."
        return Finding("slots", text, "no finding", certainty_of(rows), remedy="more prompts (--prompts)")
    parts = [_strongest(top) for top in tops]
    parts += [
        f"On the {axis} side no slot is clear of zero."
        for axis in AXES
        if axis not in {top.axis for top in tops} and any(row.axis == axis for row in rows)
    ]
    if culprit is not None and culprit not in tops:
        parts.append(f"What moves {name(culprit)} most is its {culprit.slot}: {_undone(culprit)}.")
    shown = [*tops, *([culprit] if culprit else [])]
    return Finding(
        kind="slots",
        text=" ".join(parts),
        standing="finding",
        certainty=certainty_of(shown),
        methods=tuple(dict.fromkeys(row.method for row in shown)),
        points=tuple(dict.fromkeys(row.point for row in shown)),
        axis=shown[-1].axis if len(tops) == 1 else None,
        slot=culprit.slot if culprit else tops[0].slot,
    )


def _origins(card: Card) -> tuple[str, ...]:
    return tuple(card[key] for key in ("extends", "id") if card.get(key))


def _culprit(results: Results, clear: list[Measurement]) -> Measurement | None:
    """The strongest slot of the most biased method, at the first point where one is biased."""
    for point in results.points:
        off = [row for row in assessed(results, point) if row.verdict in OFF]
        if off:
            biased = min(off, key=lambda row: row.estimate or 0.0)
            return next((row for row in clear if row.method == biased.method and row.point == point), None)
    return None


def _strongest(row: Measurement) -> str:
    effect = f"the {row.slot} of {name(row)}: {_undone(row)}"
    return f"On the {row.axis} side the largest effect measured is that of {effect}."


def _undone(row: Measurement) -> str:
    other = clean_text(row.compared_with)
    turn = f"turns by 1 − cosine = {write_quantity(row)} {at_point(row.point)}"
    return f"with that of {other} in its place the gradient {turn}"
