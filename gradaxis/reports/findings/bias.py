"""Which methods' expected gradients point away from ∇J, and how far."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Finding
from gradaxis.reports.format import clean_text, format_list, format_number
from gradaxis.reports.metrics import COSINE, ORTHOGONAL, TO_RESOLVE
from gradaxis.reports.points import at_point, sentence
from gradaxis.reports.results import Results
from gradaxis.reports.values import certainty_of, write_quantity

OFF = ("bad", "watch")


def bias_finding(results: Results) -> Finding | None:
    """The verdict on direction at the first point that has one; None when no row speaks of it."""
    rows = next((found for point in results.points if (found := assessed(results, point))), [])
    if not rows:
        return None
    point = rows[0].point
    clear = judged(results, rows)
    off = sorted((row for row in clear if row.verdict in OFF), key=lambda row: row.estimate or 0.0)
    along = [row for row in clear if row.verdict == "ok"]
    hidden = [row for row in rows if row not in clear]
    target = "the exact ∇J" if "exact" in rows[0].compared_with else "∇J, as an unbiased reference estimates it"
    parts = []
    if off:
        worst, *rest = alike(off)
        text = f"{at_point(point)} {len(off)} of {len(rows)} methods point away from {target}, "
        text += f"the lowest cosine being that of {_described(results, worst)}"
        others = [f"{names(same)} ({write_quantity(same[0])})" for same in rest]
        parts.append(text + (f"; the others are {'; '.join(others[:3])}{_more(rest[3:])}." if others else "."))
    if along:
        limit = format_number(along[0].threshold) if along[0].threshold is not None else "the threshold"
        subject = format_list([name(row) for row in along], limit=5)
        start = "" if off else f"{at_point(point)} "
        parts.append(f"{start}{subject} {_follows(along)} {'it' if off else target} (cosine above {limit}).")
    if hidden:
        open_ones = format_list([name(row) for row in hidden], limit=5)
        if off or along:
            parts.append(f"Not resolved for {open_ones}.")
        else:
            text = f"{at_point(point)} these data do not resolve where any expected gradient points beside {target}: "
            parts.append(f"{text}noise hides the direction of {open_ones}.")
    return Finding(
        kind="bias",
        text=" ".join(sentence(part) if not index else part for index, part in enumerate(parts)),
        standing="finding" if off or along else "no finding",
        certainty=certainty_of(off or along or hidden),
        methods=tuple(row.method for row in (*off, *along)),
        points=(point,),
        remedy=_more_data(results, hidden) if hidden else "",
    )


def _more_data(results: Results, hidden: list[Measurement]) -> str:
    """Against the exact ∇J the prompts are given, and more groups of each say more; else prompts are what is drawn."""
    if "exact" in hidden[0].compared_with:
        return "more groups a prompt (--groups)."
    return more_prompts(results, hidden[0].point)


def more_prompts(results: Results, point: str) -> str:
    """How many prompts the rows say it takes to resolve every direction; a rough bound from below."""
    rows = [row for row in results.select(TO_RESOLVE, point=point) if row.verdict == "unresolved"]
    known = [row.estimate for row in rows if row.estimate is not None and is_number(row.estimate)]
    return f"more prompts (--prompts), at least {math.ceil(max(known))}." if known else "more prompts (--prompts)."


def assessed(results: Results, point: str) -> list[Measurement]:
    """Cosines with the target at a point that were assessed."""
    return [row for row in results.select(COSINE, point=point) if row.verdict != "not assessed"]


def judged(results: Results, rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows whose verdict holds when all statements of the report are counted."""
    return [row for row in rows if row.threshold is not None and results.family.clear(row, row.threshold)]


def name(row: Measurement) -> str:
    """The row's method, fit for running text."""
    return clean_text(row.method)


def names(rows: Sequence[Measurement]) -> str:
    """The rows' methods in running text."""
    return format_list([name(row) for row in rows])


def alike(rows: Sequence[Measurement]) -> list[list[Measurement]]:
    """Rows that read the same, value and interval, together; in the order of the first of each."""
    found: dict[str, list[Measurement]] = {}
    for row in rows:
        found.setdefault(write_quantity(row), []).append(row)
    return list(found.values())


def _more(groups: list[list[Measurement]]) -> str:
    count = sum(len(group) for group in groups)
    return f"; and {count} more" if count else ""


def _described(results: Results, rows: list[Measurement]) -> str:
    row = rows[0]
    across = results.find(ORTHOGONAL, row.method, row.point)
    bias = f", orthogonal bias {write_quantity(across)}" if across is not None and across.estimate is not None else ""
    return f"{names(rows)} ({write_quantity(row)}{bias})"


def _follows(rows: list[Measurement]) -> str:
    return "follows" if len(rows) == 1 else "follow"
