"""Where the noise of each method's gradient sits: between prompts or within them, in which layers and positions."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import is_number
from gradaxis.reports.document import Block, Cell, Section, Table
from gradaxis.reports.format import clean_text
from gradaxis.reports.html import slug
from gradaxis.reports.metrics import EFFECTIVE_RANK, NOISE_WITHIN, PLACES
from gradaxis.reports.points import at_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import value_cell

LARGEST = 12
"""Layers or positions of a table; those with the most noise."""


def places_section(results: Results) -> Section | None:
    """None where no share was measured."""
    found = [_prompts(results, point) for point in results.points]
    found += [_table(results, point, *place) for point in results.points for place in PLACES]
    blocks: list[Block] = [table for table in found if table is not None]
    return Section("places", "Where the noise sits", tuple(blocks)) if blocks else None


def _prompts(results: Results, point: str) -> Table | None:
    body = []
    for label in results.methods:
        rows = results.find(NOISE_WITHIN, label, point), results.find(EFFECTIVE_RANK, label, point)
        if any(row is not None and is_number(row.estimate) for row in rows):
            body.append((Cell(clean_text(label)), value_cell(rows[0], share=True), value_cell(rows[1])))
    header = ("method", "noise within prompts", "effective rank (directions)")
    note = (
        "Noise within prompts falls with more rollouts a prompt, the rest only with more prompts. The effective rank "
    )
    note += "is (tr Σ)² / tr Σ²: over how many directions the noise spreads."
    caption = f"Within prompts or between them, {at_point(point)}"
    return Table(f"prompts-{slug(point)}", caption, header, tuple(body), note) if body else None


def _table(results: Results, point: str, metric: str, heading: str) -> Table | None:
    rows = [row for row in results.select(metric, point=point) if is_number(row.estimate)]
    if not rows:
        return None
    parts = list(dict.fromkeys(row.part for row in rows))
    largest = sorted(parts, key=lambda part: -max(row.estimate or 0.0 for row in rows if row.part == part))[:LARGEST]
    shown = [part for part in parts if part in largest]
    values = {(row.method, row.part): row for row in rows}
    body = [
        (Cell(clean_text(label)), *(value_cell(values.get((label, part)), share=True) for part in shown))
        for label in results.methods
        if any((label, part) in values for part in shown)
    ]
    rest = len(parts) - len(shown)
    note = f"{rest} with less are left out here; the JSON report holds all." if rest else ""
    caption = f"Share of the noise by {heading}, {at_point(point)}"
    return Table(f"{slug(metric)}-{slug(point)}", caption, ("method", *map(clean_text, shown)), tuple(body), note)
