"""The figures of a report, from rows."""

from __future__ import annotations

import math

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Figure, Panel, Paragraph, Section
from gradaxis.reports.figures.intervals import dumbbells, forest, forest_size
from gradaxis.reports.figures.lines import LINES_SIZE, lines, shares_size, stacked_shares
from gradaxis.reports.figures.marks import Line, Mark, PlaneMark
from gradaxis.reports.figures.matrix import cosine_matrix, matrix_size
from gradaxis.reports.figures.plane import plane, plane_size
from gradaxis.reports.format import clean_text, format_list, format_number, format_share
from gradaxis.reports.metrics import (
    BETWEEN_METHODS,
    COSINE,
    CRITICAL_BATCH,
    EFFICIENCY,
    ENTROPY_BY_POSITION,
    SILENT,
)
from gradaxis.reports.points import FRESH, at_point, name_point
from gradaxis.reports.results import Results


def charts_section(results: Results) -> Section:
    """Every figure that has something to show."""
    makers = (_plane, _critical, _staleness, _matrix, _entropy, _silent)
    figures = tuple(figure for make in makers if (figure := make(results)) is not None)
    return Section("figures", "Figures", figures or (Paragraph("No row can be drawn."),))


def mark_of(row: Measurement, label: str = "") -> Mark:
    """The row as a mark; a missing estimate is NaN, so that only its interval is drawn."""
    value = row.estimate if row.estimate is not None else math.nan
    return Mark(label or clean_text(row.method), value, row.low, row.high, row.verdict != "unresolved")


def _plane(results: Results) -> Figure | None:
    panels = []
    for point in results.points:
        marks = []
        for row in results.select(COSINE, point=point):
            share = results.find(EFFICIENCY, row.method, point)
            if share is not None and is_number(row.estimate) and is_number(share.estimate):
                marks.append(PlaneMark(mark_of(row), mark_of(share)))
        if marks:
            alt = f"Bias and noise {at_point(point)}. Cosine with the target, then efficiency: "
            alt += "; ".join(f"{m.label} {format_number(m.x.value)}, {format_number(m.y.value)}" for m in marks)
            drawing = plane(marks, "cosine with ∇J", "efficiency of one update", limit=lambda cosine: cosine**2)
            panels.append(Panel(name_point(point), alt, plane_size(len(marks)), drawing))
    caption = "Right is a better direction, up is a better use of the rollouts. The broken line is what the direction "
    caption += "alone allows (cosine²); what a method lacks below it is lost to noise. Bars are 95 % intervals, cut at "
    caption += "the frame; a hollow mark is not resolved."
    return Figure("figure-plane", "Bias and noise", caption, tuple(panels)) if panels else None


def _critical(results: Results) -> Figure | None:
    panels = []
    for point in results.points:
        found = results.select(CRITICAL_BATCH, point=point)
        rows = [row for row in found if is_number(row.estimate) or is_number(row.low)]
        if rows:
            marks = [mark_of(row) for row in rows]
            n = next((row.n for row in rows if row.n), None)
            alt = f"Critical batch size in prompts {at_point(point)}: "
            alt += "; ".join(f"{mark.label} {_reading(mark)}" for mark in marks)
            drawing = forest(marks, "prompts", log=True, reference=float(n) if n else None)
            panels.append(Panel(name_point(point), alt, forest_size(len(marks)), drawing))
    caption = "The number of prompts at which noise and signal are equal, with 95 % intervals. An arrow is an interval "
    caption += "without an end: the signal is not clear of zero. Dots: nothing is known. The broken line is the number "
    caption += "of prompts measured."
    return Figure("figure-critical", "Critical batch size", caption, tuple(panels)) if panels else None


def _reading(mark: Mark) -> str:
    if math.isnan(mark.value):
        return f"at least {format_number(mark.low)}" if mark.low and mark.low > 0 else "not resolved"
    return format_number(mark.value)


def _staleness(results: Results) -> Figure | None:
    others = [point for point in results.points if point != FRESH]
    panels = []
    for point in others:
        for metric, words in ((COSINE, "cosine with ∇J"), (EFFICIENCY, "efficiency of one update")):
            pairs = []
            for row in results.select(metric, point=FRESH):
                after = results.find(metric, row.method, point)
                if after is not None and is_number(row.estimate) and is_number(after.estimate):
                    pairs.append((mark_of(row), mark_of(after)))
            if pairs:
                alt = f"{words}, {FRESH} then {point}: "
                alt += "; ".join(f"{a.label} {format_number(a.value)}, {format_number(b.value)}" for a, b in pairs)
                title = f"{words}, {FRESH} and {point}"
                panels.append(Panel(title, alt, forest_size(len(pairs)), dumbbells(pairs, words, (FRESH, point))))
    caption = "What a method loses when the rollouts are not the policy's own. Intervals stand in the tables."
    return Figure("figure-staleness", "Fresh beside stale", caption, tuple(panels)) if panels else None


def _matrix(results: Results) -> Figure | None:
    panels = []
    for point in results.points:
        rows = results.select(BETWEEN_METHODS, point=point)
        known = {frozenset((row.method, row.compared_with)): row.estimate for row in rows if is_number(row.estimate)}
        labels = [label for label in results.methods if any(label in pair for pair in known)]
        if len(labels) < 2:
            continue
        values = [[1.0 if a == b else known.get(frozenset((a, b))) for b in labels] for a in labels]
        lowest = min(known, key=lambda pair: known[pair] or 0.0)
        alt = f"Cosines between the gradients of {len(labels)} methods {at_point(point)}; the smallest, "
        pair = format_list([clean_text(label) for label in sorted(lowest)])
        alt += f"{format_number(known[lowest])}, is between {pair}."
        drawing = cosine_matrix([clean_text(label) for label in labels], values)
        panels.append(Panel(name_point(point), alt, matrix_size(len(labels)), drawing))
    caption = "Cosine between every two methods' gradients of this very batch, their declared terms included. 1 stands "
    caption += "for 0.995 and more; blue agrees, vermilion opposes."
    return Figure("figure-matrix", "Which methods agree", caption, tuple(panels)) if panels else None


def _entropy(results: Results) -> Figure | None:
    series = []
    for point in results.points:
        rows = [row for row in results.select(ENTROPY_BY_POSITION, point=point) if is_number(row.estimate)]
        if rows:
            marks = tuple(mark_of(row, row.part.removeprefix("position ")) for row in rows)
            series.append(Line(point, marks))
    if not series:
        return None
    alt = "Entropy by position. " + ". ".join(
        f"{line.label}: {', '.join(format_number(mark.value) for mark in line.marks)}" for line in series
    )
    panel = Panel("", alt, LINES_SIZE, lines(series, "position in the answer (tokens, from 0)", "entropy (nats)"))
    caption = "Entropy of the next token by position in the answer, with 95 % intervals over prompts."
    return Figure("figure-entropy", "Entropy by position", caption, (panel,))


def _silent(results: Results) -> Figure | None:
    rows = {row.point: row.estimate for row in results.select(SILENT) if row.estimate is not None}
    if not rows:
        return None
    shares = {point: {"silent": value, "with a signal": 1.0 - value} for point, value in rows.items()}
    alt = "Share of silent groups: " + "; ".join(f"{point} {format_share(value)}" for point, value in rows.items())
    panel = Panel("", alt, shares_size(len(rows)), stacked_shares(shares, "share of groups"))
    caption = "A silent group is one whose answers all earn the same; a comparison within it says nothing."
    return Figure("figure-silent", "Silent groups", caption, (panel,))
