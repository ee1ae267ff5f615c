"""Which methods make the most of the tokens that they sample."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import more_prompts, name
from gradaxis.reports.format import clean_text, format_list
from gradaxis.reports.metrics import EFFICIENCY, RANK
from gradaxis.reports.points import at_point, sentence
from gradaxis.reports.results import Results
from gradaxis.reports.values import write_quantity


def ranking_finding(results: Results) -> Finding | None:
    """The methods of the first rank at each point, and those that rank below it. None where nothing was ranked."""
    parts: list[str] = []
    shown: list[Measurement] = []
    told = False
    points = []
    for point in results.points:
        rows = [row for row in results.select(RANK, point=point) if is_number(row.estimate)]
        if len(rows) < 2:
            continue
        points.append(point)
        shown += rows
        below = [row for row in rows if (row.estimate or 0.0) > 1]
        told = told or bool(below)
        parts.append(_at(results, point, rows, below))
    if not parts:
        return None
    return Finding(
        kind="ranking",
        text=f"At equal sampled tokens: {'; '.join(parts)}.",
        standing="finding" if told else "no finding",
        certainty=f"{sentence(clean_text(shown[0].interval))}.",
        methods=tuple(dict.fromkeys(row.method for row in shown if row.estimate == 1)),
        points=tuple(points),
        remedy="" if told else more_prompts(results, points[0]),
    )


def _at(results: Results, point: str, rows: list[Measurement], below: list[Measurement]) -> str:
    first = [row for row in rows if row not in below]
    if not below:
        return f"{at_point(point)} no two of {len(rows)} methods are told apart"
    verb = "share the first rank" if len(first) > 1 else "ranks first"
    named = [f"{name(row)}{_efficiency(results, row)}" for row in first]
    last = max(below, key=lambda row: row.estimate or 0.0)
    rest = format_list([name(row) for row in below], limit=5)
    text = f"{at_point(point)} {format_list(named, limit=4)} {verb}, and an update of {rest} is worth less"
    return text + (f", least of all that of {name(last)}{_efficiency(results, last)}" if len(below) > 1 else "")


def _efficiency(results: Results, row: Measurement) -> str:
    share = results.find(EFFICIENCY, row.method, row.point)
    return f" ({write_quantity(share, share=True)})" if share is not None and is_number(share.estimate) else ""
