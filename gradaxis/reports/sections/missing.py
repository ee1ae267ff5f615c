"""What was not assessed, and what was measured but not resolved, each with what would change that."""

from __future__ import annotations

from collections.abc import Iterable

from gradaxis.diagnostics.measurements import Measurement
from gradaxis.reports.document import NO_REMEDY, Block, Cell, Paragraph, Section, Table
from gradaxis.reports.format import clean_text, format_list
from gradaxis.reports.metrics import in_words
from gradaxis.reports.results import Results
from gradaxis.reports.values import remedy_of, subject_of, write_interval


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


def _absent_table(rows: list[Measurement]) -> Table:
    body = [
        (
            Cell(format_list(_distinct(subject_of(row) for row in group))),
            Cell(format_list(_distinct(in_words(row.metric) for row in group), limit=4)),
            Cell(format_list(_distinct(row.point for row in group))),
            Cell(reason),
            Cell(remedy or NO_REMEDY),
        )
        for (reason, remedy), group in _groups(rows).items()
    ]
    header = ("method", "quantity", "point", "reason", "remedy")
    return Table("not-assessed", "Not assessed: nothing is claimed about these, good or bad", header, tuple(body))


def _open_table(rows: list[Measurement]) -> Table:
    body = []
    alike: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        alike.setdefault((row.point, clean_text(row.reason)), []).append(row)
    for (point, reason), group in alike.items():
        example = write_interval(group[0]) if len(group) == 1 else ""
        body.append(
            (
                Cell(format_list(_distinct(in_words(row.metric) for row in group), limit=6), note=example),
                Cell(point),
                Cell(format_list(_distinct(subject_of(row) for row in group), limit=6)),
                Cell(reason or "the interval holds values on both sides of the threshold"),
                Cell(_best_remedy(group)),
            )
        )
    header = ("quantity", "point", "methods", "why", "what would help")
    return Table("unresolved", "Measured, but not resolved by these data", header, tuple(body))


def _best_remedy(group: list[Measurement]) -> str:
    """The remedies of a group; of many that differ in a number only, the last, which asks for the most."""
    remedies = sorted({remedy_of(row) for row in group if remedy_of(row)}, key=lambda text: (len(text), text))
    return remedies[-1] if remedies else "more prompts"


def _groups(rows: list[Measurement]) -> dict[tuple[str, str], list[Measurement]]:
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        groups.setdefault((clean_text(row.reason), remedy_of(row)), []).append(row)
    return groups


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
