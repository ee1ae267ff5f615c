"""Which methods are the same update, and what would tell them apart."""

from __future__ import annotations

from collections.abc import Iterable

from gradaxis.reports.document import Finding
from gradaxis.reports.format import clean_text, format_list
from gradaxis.reports.metrics import BETWEEN_METHODS, COINCIDING
from gradaxis.reports.points import FRESH, at_point, name_point, sentence
from gradaxis.reports.results import Results

Pair = frozenset[str]


def coincidence_finding(results: Results) -> Finding | None:
    """Groups of methods with parallel gradients at the first point, and where they part. None without such rows."""
    if not results.select(BETWEEN_METHODS):
        return None
    point = results.points[0]
    pairs = coinciding_pairs(results, point)
    compared = results.select(BETWEEN_METHODS, point=point)
    how = "parallel: cosine above 1 − 10⁻⁶ for the gradients of this very batch."
    if not pairs:
        text = f"{sentence(at_point(point))} no two of the methods compared are the same update."
        return Finding("coincidence", text, "no finding", how, points=(point,)) if compared else None
    groups = connected(pairs)
    named = "; ".join(format_list([clean_text(label) for label in group]) for group in groups)
    reason = " because every ratio is 1 there" if point == FRESH and _through_ratio(results, point) else ""
    text = f"{sentence(at_point(point))} these are one and the same update up to its length{reason}: {named}."
    later = [other for other in results.points if other != point]
    if later:
        left = connected(pairs & coinciding_pairs(results, later[-1]))
        if left:
            still = "; ".join(format_list([clean_text(label) for label in group]) for group in left)
            text += f" On {name_point(later[-1])} only {still} stay together."
        else:
            text += f" {sentence(at_point(later[-1]))} all of them part."
    flag = "Add --behavior MODEL or --inner-step K to tell them apart." if point == FRESH and not later else ""
    return Finding(
        kind="coincidence",
        text=text,
        standing="finding",
        certainty=sentence(how),
        methods=tuple(label for group in groups for label in group),
        points=(point, *later[-1:]),
        axis="trajectory" if reason else None,
        advice=flag,
    )


def coinciding_pairs(results: Results, point: str) -> frozenset[Pair]:
    """Pairs of methods with parallel gradients at a point."""
    return frozenset(frozenset((row.method, row.compared_with)) for row in results.select(COINCIDING, point=point))


def connected(pairs: Iterable[Pair]) -> list[list[str]]:
    """Groups of labels joined by pairs, each sorted, in the order of their first label.

    >>> connected([frozenset("ab"), frozenset("bc"), frozenset("xy")])
    [['a', 'b', 'c'], ['x', 'y']]
    """
    groups: list[set[str]] = []
    for pair in pairs:
        touching = [group for group in groups if group & pair]
        groups = [group for group in groups if not group & pair]
        groups.append(set(pair).union(*touching))
    return sorted(sorted(group) for group in groups)


def _through_ratio(results: Results, point: str) -> bool:
    return any("act on stale rollouts only" in row.advice for row in results.select(COINCIDING, point=point))
