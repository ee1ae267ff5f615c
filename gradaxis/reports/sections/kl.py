"""How far the policy is from its reference, and what each choice of a KL penalty really pulls toward."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Block, Cell, Paragraph, Section, Table
from gradaxis.reports.format import clean_text
from gradaxis.reports.html import slug
from gradaxis.reports.metrics import KL_COSINE, KL_ESTIMATES, KL_GAIN, KL_SIZE
from gradaxis.reports.points import at_point, name_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import value_cell

INTRO = (
    "A KL penalty is chosen three times: how its value is estimated, what is differentiated, and where it stands. The "
    "pull of a choice is what it adds to the gradient per unit of its coefficient, with the sign turned. Its gain is 1 "
    "along the KL whose gradient it is; a choice whose cosine with the reverse KL is below 1 pulls elsewhere."
)
DIRECTIONS = ("reverse", "forward")


def kl_section(results: Results) -> Section:
    """The estimates of the KL beside one another, then the pull of every choice and of every method's own operator."""
    found = [_estimates(results), *(_pulls(results, point) for point in results.points)]
    blocks: list[Block] = [table for table in found if table is not None]
    if not blocks:
        return Section("kl", "The KL to the reference", (Paragraph("No KL was measured; see “Not assessed”."),))
    return Section("kl", "The KL to the reference", (Paragraph(INTRO), *blocks))


def _estimates(results: Results) -> Table | None:
    rows = [row for row in results.select(KL_ESTIMATES) if is_number(row.estimate)]
    kinds = list(dict.fromkeys((row.metric, row.part, row.unit) for row in rows))
    body = []
    for metric, part, unit in kinds:
        values = [results.find(metric, point=point, part=part) for point in results.points]
        reason = next((row.reason for row in values if row is not None and row.reason), "")
        body.append((Cell(clean_text(part or metric.replace("_", " "))), Cell(unit), *map(value_cell, values),
                     Cell(clean_text(reason))))  # fmt: skip
    if not body:
        return None
    header = ("estimate", "unit", *(name_point(point) for point in results.points), "what it estimates")
    return Table("kl-estimates", "Estimates of the KL", header, tuple(body))


def _pulls(results: Results, point: str) -> Table | None:
    rows = results.select((KL_GAIN, KL_COSINE, KL_SIZE), point=point)
    choices = list(dict.fromkeys((row.method, row.part) for row in rows if row.part))
    body = []
    for method, part in choices:
        mine = [row for row in rows if (row.method, row.part) == (method, part)]
        if not any(is_number(row.estimate) for row in mine):
            continue
        cells = [value_cell(_toward(mine, metric, direction)) for direction in DIRECTIONS
                 for metric in (KL_GAIN, KL_COSINE)]  # fmt: skip
        size = value_cell(_toward(mine, KL_SIZE, "reverse"))
        body.append((Cell(clean_text(method or part), note=clean_text(part) if method else ""), *cells, size))
    if not body:
        return None
    header = ("choice", "gain, reverse KL", "cosine, reverse KL", "gain, forward KL", "cosine, forward KL",
              "size beside the reverse KL's")  # fmt: skip
    return Table(f"kl-pulls-{slug(point)}", f"What each choice pulls toward {at_point(point)}", header, tuple(body))


def _toward(rows: list[Measurement], metric: str, direction: str) -> Measurement | None:
    return next((row for row in rows if row.metric == metric and direction in row.compared_with), None)
