"""Bias and noise as curves over drift, and up to which drift each method's correction helps."""

from __future__ import annotations

from gradaxis.diagnostics.curves import UNIT, Curve, curves_of
from gradaxis.diagnostics.measurements import is_number
from gradaxis.reports.document import Block, Cell, Figure, Panel, Paragraph, Section, Table
from gradaxis.reports.figures.lines import LINES_SIZE, lines
from gradaxis.reports.figures.marks import Line
from gradaxis.reports.format import clean_text, format_number
from gradaxis.reports.html import slug
from gradaxis.reports.metrics import COSINE, CURVE_ENDS, EFFICIENCY
from gradaxis.reports.results import Results
from gradaxis.reports.sections.charts import mark_of
from gradaxis.reports.values import value_cell

INTRO = (
    "Each point of the update is placed by its drift as measured on its own rollouts, KL(μ‖π) a token. Older "
    "checkpoints, perturbed weights and other sampling engines are different things, and make curves of their own."
)
DRAWN = ((COSINE, "cosine with ∇J"), (EFFICIENCY, "efficiency of one update"))


def drift_section(results: Results) -> Section | None:
    """None where no rollouts were measured away from the policy at two points or more."""
    curves = curves_of(results.rows, [metric for metric, _ in DRAWN])
    blocks: list[Block] = [figure for metric, words in DRAWN if (figure := _figure(curves, metric, words)) is not None]
    table = _ends(results)
    if not blocks and table is None:
        return None
    return Section("drift", "Over drift", (Paragraph(INTRO), *blocks, *([table] if table is not None else [])))


def _figure(curves: list[Curve], metric: str, words: str) -> Figure | None:
    panels = []
    for kind in dict.fromkeys(curve.kind for curve in curves):
        chosen = [curve for curve in curves if curve.kind == kind and curve.metric == metric]
        series = [
            Line(clean_text(curve.method), tuple(mark_of(row, format_number(at))
                                                 for at, row in zip(curve.drift, curve.rows, strict=True)))
            for curve in chosen
            if any(is_number(row.estimate) for row in curve.rows)
        ]  # fmt: skip
        if series:
            alt = f"{words} over drift, {kind}: "
            alt += "; ".join(f"{line.label} {', '.join(format_number(m.value) for m in line.marks)}" for line in series)
            panels.append(Panel(kind, alt, LINES_SIZE, lines(series, f"measured drift ({UNIT})", words)))
    caption = f"The {words} of every method by measured drift, with 95 % intervals where all are known."
    return Figure(f"figure-drift-{slug(metric)}", f"{words} over drift", caption, tuple(panels)) if panels else None


def _ends(results: Results) -> Table | None:
    rows = [row for row in results.select(CURVE_ENDS) if row.method]
    pairs = list(dict.fromkeys((row.method, row.part) for row in rows))
    if not pairs:
        return None
    body = []
    for method, kind in pairs:
        mine = {row.metric: row for row in rows if (row.method, row.part) == (method, kind)}
        why = next((row.reason for name in CURVE_ENDS if (row := mine.get(name)) is not None and row.reason), "")
        cells = [value_cell(mine.get(name)) for name in CURVE_ENDS]
        body.append((Cell(clean_text(method)), Cell(kind), *cells, Cell(clean_text(why))))
    header = ("method", "curve", "its correction stops helping", "more efficient than without, until",
              "cosine above 0.9, until", "why not more")  # fmt: skip
    note = f"In {UNIT}. An interval lies between measured points; the value in it is interpolated."
    return Table("drift-ends", "Up to which drift each method's correction helps", header, tuple(body), note)
