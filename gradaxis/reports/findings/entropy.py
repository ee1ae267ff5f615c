"""What a step of each method does to the policy's entropy, and what reward costs in entropy."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import more_prompts, name
from gradaxis.reports.format import format_list
from gradaxis.reports.metrics import ENTROPY_CHANGE, ENTROPY_PRICE
from gradaxis.reports.points import at_point, sentence
from gradaxis.reports.results import Results
from gradaxis.reports.values import certainty_of, write_quantity


def entropy_finding(results: Results) -> Finding | None:
    """The sign of the first-order change at the first point, and the dearest and cheapest reward. None without rows."""
    rows = next((found for point in results.points if (found := _known(results, ENTROPY_CHANGE, point))), [])
    if not rows:
        return None
    point = rows[0].point
    falls = [row for row in rows if results.family.clear(row, 0.0) and (row.estimate or 0.0) < 0]
    rises = [row for row in rows if results.family.clear(row, 0.0) and (row.estimate or 0.0) > 0]
    if not falls and not rises:
        text = f"{sentence(at_point(point))} no method's effect on the entropy is clear of zero."
        remedy = more_prompts(results, point)
        return Finding("entropy", text, "no finding", certainty_of(rows), points=(point,), remedy=remedy)
    parts = []
    if falls:
        parts.append(f"a step lowers the entropy for {len(falls)} of {len(rows)} methods")
    if rises:
        names = format_list([name(row) for row in rises], limit=5)
        parts.append(f"and raises it for {names}" if falls else f"a step raises the entropy for {names}")
    text = f"{sentence(at_point(point))} {' '.join(parts)} (first order)."
    priced = [row for row in _known(results, ENTROPY_PRICE, point) if results.family.clear(row, 0.0)]
    prices = sorted(priced, key=_value)
    if prices and (prices[0].high or 0.0) < (prices[-1].low or 0.0):
        dear, cheap = prices[-1], prices[0]
        text += f" A unit of reward costs more entropy under {name(dear)} ({write_quantity(dear)} nats a token) than "
        text += f"under {name(cheap)} ({write_quantity(cheap)})."
    return Finding(
        kind="entropy",
        text=text,
        standing="finding",
        certainty=certainty_of([*falls, *rises]),
        methods=tuple(row.method for row in (*falls, *rises)),
        points=(point,),
    )


def _known(results: Results, metric: str, point: str) -> list[Measurement]:
    return [row for row in results.select(metric, point=point) if is_number(row.estimate)]


def _value(row: Measurement) -> float:
    return row.estimate or 0.0
