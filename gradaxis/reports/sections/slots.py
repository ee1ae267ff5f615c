"""The slots that make the difference, on each axis."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Block, Cell, Paragraph, Section, Table
from gradaxis.reports.format import clean_text
from gradaxis.reports.metrics import SLOT_BIAS, SLOT_DIRECTION, SLOT_NOISE
from gradaxis.reports.results import Results
from gradaxis.reports.values import excludes, value_cell

SHOWN = 14


def slots_section(results: Results) -> Section:
    """One table an axis: what a slot does to the cosine with ∇J, the direction and the noise, the strongest first."""
    rows = [row for row in results.select(SLOT_DIRECTION) if is_number(row.estimate)]
    intro = "Each row undoes one choice: the method as it is, beside the same method with one slot as another has it. "
    intro += "The change of the cosine with ∇J is the hybrid's less the method's, so that above 0 undoing it is a fix. "
    intro += "Noise is the method's over the hybrid's, so that below 1 the slot takes noise away."
    blocks: list[Block] = [Paragraph(intro)]
    for axis in ("trajectory", "reward"):
        chosen = [row for row in rows if row.axis == axis]
        if chosen:
            blocks.append(_axis_table(results, axis, chosen))
    if len(blocks) == 1:
        blocks = [Paragraph("No slot was assessed; see the reasons under “Not assessed”.")]
    return Section("slots", "The slots that make the difference", tuple(blocks))


def _axis_table(results: Results, axis: str, rows: list[Measurement]) -> Table:
    ordered = sorted(rows, key=lambda row: (-_change(results, row), -(row.estimate or 0.0)))
    shown = ordered[:SHOWN]
    rest = len(ordered) - len(shown)
    body = [
        (
            Cell(clean_text(row.method)),
            Cell(row.slot),
            Cell(clean_text(row.compared_with)),
            Cell(row.point),
            value_cell(_beside(results, SLOT_BIAS, row)),
            value_cell(row),
            value_cell(_beside(results, SLOT_NOISE, row)),
            Cell(clean_text(row.failure)),
        )
        for row in shown
    ]
    note = f"{rest} weaker rows are left out here; the JSON report holds all." if rest else ""
    header = ("method", "slot", "as in", "point", "change of the cosine with ∇J", "1 − cosine", "noise ratio",
              "failure it addresses")  # fmt: skip
    caption = f"{axis.capitalize()} side: what one slot does to the gradient"
    return Table(f"slots-{axis}", caption, header, tuple(body), note)


def _beside(results: Results, metric: str, row: Measurement) -> Measurement | None:
    return results.find(metric, row.method, row.point, slot=row.slot, compared_with=row.compared_with)


def _change(results: Results, row: Measurement) -> float:
    """The size of the change of the cosine with ∇J; 0 where it is not clear of zero."""
    change = _beside(results, SLOT_BIAS, row)
    return abs(change.estimate or 0.0) if change is not None and excludes(change, 0.0) else 0.0
