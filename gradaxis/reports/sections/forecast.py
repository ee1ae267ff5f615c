"""What one step of each method does, to first order, to numbers that somebody cares about."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Block, Cell, Items, Paragraph, Section, Table
from gradaxis.reports.format import clean_text
from gradaxis.reports.html import slug
from gradaxis.reports.metrics import FORECAST, FORECAST_PER_REWARD, FUNCTIONAL
from gradaxis.reports.points import at_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import value_cell

REWARD = "reward"
INTRO = (
    "⟨∇Φ, E ĝ⟩ is the slope of a number Φ of the policy along a method's expected step. Reward: for each unit of "
    "learning rate. Every other number: for each unit of reward gained, so that no learning rate enters. A dash is a "
    "change whose interval leaves everything open; a small step is meant, and nothing is said about a long run."
)


def forecast_section(results: Results) -> Section:
    """One table a point: functionals across, methods down, the present value on top; then each functional's law."""
    tables: list[Block] = [table for point in results.points if (table := _table(results, point)) is not None]
    if not tables:
        return Section("forecast", "What a step does", (Paragraph("No change was forecast; see “Not assessed”."),))
    laws = {row.part: row.reason for row in results.select(FUNCTIONAL) if row.part and row.reason}
    law = Items(tuple((clean_text(part), clean_text(reason)) for part, reason in laws.items()))
    return Section("forecast", "What a step does", (Paragraph(INTRO), *tables, law))


def _table(results: Results, point: str) -> Table | None:
    values = {row.part: row for row in results.select(FUNCTIONAL, point=point)}
    rows: dict[tuple[str, str], Measurement] = {}
    for row in results.select((FORECAST, FORECAST_PER_REWARD), point=point):
        if (row.metric == FORECAST) == (row.part == REWARD):
            rows[row.method, row.part] = row
    parts = [part for part in values if any(_shown(rows.get((label, part))) for label in results.methods)]
    if not parts:
        return None
    body = [(Cell("as it is"), *(value_cell(values[part]) for part in parts))]
    for label in results.methods:
        cells = [value_cell(rows.get((label, part))) for part in parts]
        if any((label, part) in rows for part in parts):
            body.append((Cell(clean_text(label)), *cells))
    header = ("method", *(_heading(values[part]) for part in parts))
    return Table(f"forecast-{slug(point)}", f"First-order changes {at_point(point)}", header, tuple(body))


def _shown(row: Measurement | None) -> bool:
    return row is not None and is_number(row.estimate)


def _heading(row: Measurement) -> str:
    name, unit = clean_text(row.part), clean_text(row.unit)
    return f"{name} ({unit})" if unit and unit != name else name
