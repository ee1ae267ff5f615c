"""What the rollouts themselves are like: reward, length, staleness, silent groups, entropy, at every point."""

from __future__ import annotations

from gradaxis.reports.document import Block, Cell, Paragraph, Section, Table
from gradaxis.reports.format import clean_text
from gradaxis.reports.metrics import OF_ROLLOUTS, REWARD_VARIANCE, Metric
from gradaxis.reports.points import name_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import value_cell

_EXPLAINED = {
    "together": "by length and form together",
    "truncated": "by truncation",
    "by chance": "by chance alone",
}


def rollouts_section(results: Results) -> Section:
    """One table with a column for each point."""
    rows = []
    for metric in OF_ROLLOUTS:
        parts = list(dict.fromkeys(row.part for row in results.select(metric.name, method="")))
        for part in parts:
            found = [results.find(metric.name, point=point, part=part) for point in results.points]
            if any(row is not None and (row.estimate is not None or row.verdict != "not applicable") for row in found):
                cells = [value_cell(row, metric.share) for row in found]
                rows.append((Cell(_heading(metric, part)), *cells))
    blocks: list[Block] = []
    if rows:
        header = ("quantity", *(name_point(point) for point in results.points))
        note = "Shares of the variance within prompts. They overlap and need not add up; chance alone is what anything "
        note += "that has nothing to do with the reward would explain."
        has_shares = bool(results.select(REWARD_VARIANCE))
        blocks.append(Table("rollout-facts", "The rollouts", header, tuple(rows), note if has_shares else ""))
    else:
        blocks.append(Paragraph("No row speaks of the rollouts themselves."))
    return Section("rollouts", "The rollouts, and where the reward varies", tuple(blocks))


def _heading(metric: Metric, part: str) -> str:
    if metric.name == REWARD_VARIANCE:
        return f"{metric.heading} {_EXPLAINED.get(part, f'by {clean_text(part)}')}"
    return f"{metric.heading}, {clean_text(part)}" if part not in {"", "tokens"} else metric.heading
