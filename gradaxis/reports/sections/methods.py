"""Methods side by side: one table a point, fresh beside stale, and each method's side with its reference."""

from __future__ import annotations

import statistics

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.cards import Card, changed_slots, side_text
from gradaxis.reports.document import Block, Cell, Section, Table
from gradaxis.reports.findings.staleness import clipped_shares
from gradaxis.reports.format import MISSING, clean_text, format_list, format_number, format_share
from gradaxis.reports.html import slug
from gradaxis.reports.metrics import CLIPPED, COMPARED, COSINE, CRITICAL_BATCH, EFFICIENCY, Metric
from gradaxis.reports.points import FRESH, at_point, name_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import value_cell

BESIDE = (
    Metric(COSINE, "cosine"),
    Metric(EFFICIENCY, "efficiency", share=True),
    Metric(CRITICAL_BATCH, "critical batch size (prompts)"),
)


def methods_section(results: Results) -> Section:
    """The comparison at every point, then the points beside one another."""
    blocks: list[Block] = [comparison_table(results, point) for point in results.points]
    if len(results.points) > 1:
        blocks.append(_beside_table(results))
    return Section("methods", "Methods side by side", tuple(blocks))


def cards_section(results: Results, cards: dict[str, Card]) -> Section:
    """What each method is: its parent, its side with the reference, and the slots that differ."""
    rows = []
    for label in results.methods:
        card = cards.get(label, {})
        rows.append(
            (
                Cell(clean_text(label), note=clean_text(card.get("name") or "")),
                Cell(clean_text(card.get("extends") or MISSING)),
                Cell(clean_text(side_text(card) or MISSING)),
                Cell(format_list([clean_text(slot) for slot in changed_slots(card)]) or MISSING),
                Cell(clean_text(side_text(card, "grpo") or MISSING)),
                Cell(clean_text(side_text(card, "reinforce") or MISSING)),
                Cell(clean_text(card.get("status") or MISSING)),
            )
        )
    table = Table(
        "method-cards",
        "Each method's side, derived from the slots in which it differs from a reference",
        ("method", "parent", "side", "slots that differ from the parent", "beside grpo", "beside reinforce", "status"),
        tuple(rows),
        "Trajectory: what is done to p(τ). Reward: what is done to R(τ). A side belongs to how a gradient is written.",
    )
    return Section("cards", "The methods", (table,))


def comparison_table(results: Results, point: str) -> Table:
    """All compared quantities of all methods at one point; a column that no method has is left out."""
    clipped = clipped_shares(results, point)
    columns = [metric for metric in COMPARED if any(_shown(row) for row in results.select(metric.name, point=point))]
    rows = []
    for label in results.methods:
        if not any(row.method == label for row in results.select(point=point)):
            continue
        cells = [_cell(results, metric, label, point, clipped) for metric in columns]
        absent = all(row.verdict == "not assessed" for row in results.select(method=label, point=point))
        rows.append((Cell(clean_text(label), chip="not assessed" if absent else ""), *cells))
    target = next((row.compared_with for row in results.select(COSINE, point=point) if row.compared_with), "")
    note = "Below each value its 95 % interval, [low, high]."
    if target:
        note += f" ∇J is the {clean_text(target)}; a method's own KL and entropy terms are left out before comparing."
    return Table(
        f"methods-{slug(point)}",
        f"All methods {at_point(point)}",
        ("method", *(metric.heading for metric in columns)),
        tuple(rows),
        note,
    )


def _shown(row: Measurement) -> bool:
    return is_number(row.estimate) or is_number(row.low) or row.verdict == "unresolved"


def _cell(results: Results, metric: Metric, label: str, point: str, clipped: dict[str, float]) -> Cell:
    if metric.name == CLIPPED:
        return Cell(format_share(clipped[label]) if label in clipped else MISSING)
    return value_cell(results.find(metric.name, label, point), metric.share)


def _beside_table(results: Results) -> Table:
    """For each method its direction, efficiency and critical batch size at every point in the update."""
    points = results.points
    columns = [(metric, point) for metric in BESIDE for point in points]
    rows = [
        (Cell(clean_text(label)), *(value_cell(results.find(m.name, label, p), m.share) for m, p in columns))
        for label in results.methods
        if any(is_number(row.estimate) for metric, _ in columns for row in results.select(metric.name, method=label))
    ]
    note = " ".join(filter(None, (_change(results, point) for point in points if point != FRESH)))
    return Table(
        "beside",
        f"{name_point(points[0]).capitalize()} beside {format_list([name_point(point) for point in points[1:]])}",
        ("method", *(f"{metric.heading}, {point}" for metric, point in columns)),
        tuple(rows),
        note,
    )


def _change(results: Results, point: str) -> str:
    """By how much the median cosine over methods moves from the fresh point to this one."""
    before = {row.method: row.estimate for row in results.select(COSINE, point=FRESH) if row.estimate is not None}
    after = {row.method: row.estimate for row in results.select(COSINE, point=point) if row.estimate is not None}
    both = [label for label in before if label in after]
    if not both:
        return ""
    first, second = (statistics.median(found[label] for label in both) for found in (before, after))
    return f"Median cosine over {len(both)} methods: {format_number(first)} fresh, {format_number(second)} {point}."
