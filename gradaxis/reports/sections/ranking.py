"""Methods in the order of what an update of each is worth: at equal sampled tokens, and in the user's own run."""

from __future__ import annotations

import math
from typing import NamedTuple

from gradaxis.diagnostics.measurements import is_number
from gradaxis.reports.document import Block, Cell, Paragraph, Section, Table
from gradaxis.reports.format import clean_text, format_number
from gradaxis.reports.html import slug
from gradaxis.reports.points import at_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import value_cell


class Ranked(NamedTuple):
    """One kind of ranking: its name in captions, and the metrics behind its columns."""

    name: str
    caption: str
    rank: str
    shares: tuple[tuple[str, str], ...]
    cost: tuple[str, str]


RANKED = (
    Ranked(
        "tokens", "at equal sampled tokens", "efficiency_rank",
        (("efficiency", "efficiency"), ("efficiency_direction", "direction (cosine²)"), ("efficiency_noise", "noise")),
        ("sampling_cost", "tokens it needs, beside these rollouts"),
    ),
    Ranked(
        "geometry", "for one update of your own run", "geometry_rank",
        (("geometry_efficiency", "efficiency"), ("geometry_direction", "direction (cosine²)"),
         ("geometry_noise", "noise")),
        ("geometry_tokens", "tokens an update"),
    ),
)  # fmt: skip


def ranking_section(results: Results) -> Section:
    """One table a point and kind of ranking that has rows."""
    intro = "Efficiency is the share of the best first-order improvement that an update gets: the square of the cosine "
    intro += "of its direction times a factor for noise. Methods that these rollouts do not tell apart share a rank; "
    intro += "all pairs are compared at once."
    tables = [_table(results, kind, point) for point in results.points for kind in RANKED]
    found: list[Block] = [table for table in tables if table is not None]
    return Section("ranking", "Methods ranked", (Paragraph(intro), *found) if found else _nothing())


def _nothing() -> tuple[Block, ...]:
    return (Paragraph("No method could be ranked; see the reasons under “Not assessed”."),)


def _table(results: Results, kind: Ranked, point: str) -> Table | None:
    ranks = [row for row in results.select(kind.rank, point=point) if is_number(row.estimate)]
    if not ranks:
        return None
    ranks.sort(key=lambda row: (row.estimate or math.inf, row.high or math.inf))
    body = []
    for row in ranks:
        shares = [value_cell(results.find(metric, row.method, point), share=True) for metric, _ in kind.shares]
        cost = value_cell(results.find(kind.cost[0], row.method, point))
        open_to = "" if row.low == row.high else f"{format_number(row.low, 1)} to {format_number(row.high, 1)}"
        rank = Cell(f"{row.estimate:.0f}", note=open_to)
        body.append(
            (
                Cell(clean_text(row.method)),
                rank,
                *shares,
                cost,
                Cell(clean_text(row.reason.removeprefix("not told apart from "))),
            )
        )
    header = ("method", "rank", *(heading for _, heading in kind.shares), kind.cost[1], "not told apart from")
    note = f"Ranks: {clean_text(ranks[0].interval)}."
    return Table(f"ranking-{kind.name}-{slug(point)}", f"Ranks {kind.caption}, {at_point(point)}", header,
                 tuple(body), note)  # fmt: skip
