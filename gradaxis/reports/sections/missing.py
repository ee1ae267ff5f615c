"""What was not assessed, and what was measured but not resolved, each with what would change that."""

from __future__ import annotations

from collections.abc import Iterable

from gradaxis.diagnostics.measurements import Measurement
from gradaxis.reports.document import Block, Cell, Paragraph, Section, Table
from gradaxis.reports.format import clean_text, format_list
from gradaxis.reports.metrics import write_interval
from gradaxis.reports.results import Results


def missing_section(results: Results) -> Section:
    """Rows `not assessed` grouped by reason and remedy, then rows `unresolved` grouped by quantity."""
    absent = results.select(verdict="not assessed")
    open_rows = results.select(verdict="unresolved")
    blocks: list[Block] = []
    if absent:
        blocks.append(_absent_table(absent))
    else:
        blocks.append(Paragraph("Every quantity that was asked for was assessed for every method."))
    if open_rows:
        blocks.append(_open_table(open_rows))
    return Section("missing", "Not assessed, and not resolved", tuple(blocks))


def remedy_of(row: Measurement) -> str:
    """What would turn the row into a number: its advice, or else the inputs that it needs."""
    return clean_text(row.advice or (f"supply {format_list(row.needs)}" if row.needs else ""))


def subject_of(row: Measurement) -> str:
    """The method that the row speaks of; rows about the rollouts themselves name none."""
    return clean_text(row.method) or "all methods"


def _absent_table(rows: list[Measurement]) -> Table:
    body = [
        (
            Cell(format_list(_distinct(subject_of(row) for row in group))),
            Cell(format_list(_distinct(clean_text(row.metric) for row in group), limit=4)),
            Cell(format_list(_distinct(row.point for row in group))),
            Cell(reason),
            Cell(remedy or "none in this version"),
        )
        for (reason, remedy), group in _groups(rows).items()
    ]
    header = ("method", "quantity", "point", "reason", "remedy")
    return Table("not-assessed", "Not assessed: nothing is claimed about these, good or bad", header, tuple(body))


def _open_table(rows: list[Measurement]) -> Table:
    body = []
    by_quantity: dict[tuple[str, str, str], list[Measurement]] = {}
    for row in rows:
        by_quantity.setdefault((row.metric, row.point, clean_text(row.reason)), []).append(row)
    for (metric, point, reason), group in by_quantity.items():
        example = write_interval(group[0]) if len(group) == 1 else ""
        body.append(
            (
                Cell(clean_text(metric), note=example),
                Cell(point),
                Cell(format_list(_distinct(subject_of(row) for row in group), limit=6)),
                Cell(reason or "the interval holds values on both sides of the threshold"),
                Cell(format_list(_distinct(remedy_of(row) for row in group if remedy_of(row)), limit=2) or "more prompts"),
            )
        )
    header = ("quantity", "point", "methods", "why", "what would help")
    return Table("unresolved", "Measured, but not resolved by these data", header, tuple(body))


def _groups(rows: list[Measurement]) -> dict[tuple[str, str], list[Measurement]]:
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        groups.setdefault((clean_text(row.reason), remedy_of(row)), []).append(row)
    return groups


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
