"""The family of statements that a report makes, and what stays clear when all of them are counted.

A report asks many questions of one batch: every cosine, every slot, every price. Taken one by one at 5 %, some answers
would be chance. The false discovery rate over all of them is held at 5 % instead (Benjamini and Hochberg, 1995): of the
statements that a verdict makes, at most 5 % are expected to be chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gradaxis.diagnostics.measurements import FINDINGS, Measurement, is_number
from gradaxis.diagnostics.statistics import benjamini_hochberg, student
from gradaxis.reports.metrics import (
    COSINE,
    ENTROPY_CHANGE,
    ENTROPY_PRICE,
    EQUAL_GAIN,
    GAIN,
    SLOT_BIAS,
    SLOT_DIRECTION,
    SQUARED_MEAN,
)

RATE = 0.05
NULLS = {SLOT_BIAS: 0.0, SLOT_DIRECTION: 0.0, EQUAL_GAIN: 1.0, ENTROPY_CHANGE: 0.0, ENTROPY_PRICE: 0.0,
         SQUARED_MEAN: 0.0}  # fmt: skip
"""What a verdict tests a row of a metric against; a cosine is tested against the threshold of its verdict."""

MOVING = (COSINE, GAIN)
"""Metrics that are compared between points of the update."""


@dataclass(frozen=True)
class Family:
    """`tests` statements were asked for, and one is made where its p-value is at most `cut`."""

    tests: int
    cut: float

    def clear(self, row: Measurement, null: float) -> bool:
        """Whether the row differs from `null` when all statements are counted."""
        return p_against(row, null) <= self.cut

    def fell(self, before: Measurement, after: Measurement) -> bool:
        """Whether a quantity is lower at a later point of the update, measured on other rollouts."""
        return (after.estimate or 0.0) < (before.estimate or 0.0) and p_between(before, after) <= self.cut

    @property
    def text(self) -> str:
        """The family in words."""
        if not self.tests:
            return "No statement was tested."
        return (
            f"Of {self.tests} questions asked of these rows, answers are given where the false discovery rate over all "
            f"of them stays at {RATE:.0%} (Benjamini and Hochberg): a p-value of {self.cut:.2g} or less."
        )


def family_of(rows: Sequence[Measurement]) -> Family:
    """The family of all that a verdict could say about these rows."""
    p = [p_against(row, null) for row in rows if (null := null_of(row)) is not None]
    p += [p_between(before, after) for before, after in moves(rows)]
    if not p:
        return Family(0, 0.0)
    adjusted = benjamini_hochberg(np.array(p))
    made = [value for value, after in zip(p, adjusted, strict=True) if after <= RATE]
    return Family(len(p), max(made, default=RATE / len(p)))


def null_of(row: Measurement) -> float | None:
    """What the row is tested against; None for one that no statement tests, or without an estimate."""
    if not is_number(row.estimate):
        return None
    if row.metric == COSINE:
        return row.threshold if row.verdict in FINDINGS else None
    return NULLS.get(row.metric)


def moves(rows: Iterable[Measurement]) -> list[tuple[Measurement, Measurement]]:
    """Pairs of rows of one method and metric: at the first point, and at each later one."""
    first: dict[tuple[str, str], Measurement] = {}
    found = []
    for row in rows:
        if row.metric in MOVING and is_number(row.estimate):
            before = first.setdefault((row.metric, row.method), row)
            if before.point != row.point:
                found.append((before, row))
    return found


def p_against(row: Measurement, null: float) -> float:
    """Two-sided p of `estimate` = `null` from the 95 % interval, by the half width on the side of the null.

    It is below .05 exactly where the interval excludes the null (Altman and Bland, 2011). 1 without an interval.
    """
    if not is_number(row.estimate):
        return 1.0
    assert row.estimate is not None
    half = _half(row, null < row.estimate)
    if math.isinf(half):
        return 1.0
    return _tail(row.estimate - null, half, row.n)


def p_between(before: Measurement, after: Measurement) -> float:
    """Two-sided p that two independent estimates are of one value, by the half widths that face each other."""
    gap = (after.estimate or 0.0) - (before.estimate or 0.0)
    half = math.hypot(_half(before, gap < 0), _half(after, gap > 0))
    counts = [row.n for row in (before, after) if row.n is not None]
    return 1.0 if math.isinf(half) else _tail(gap, half, min(counts, default=None))


def _half(row: Measurement, below: bool) -> float:
    end = row.low if below else row.high
    return math.inf if end is None or row.estimate is None else abs(row.estimate - end)


def _tail(difference: float, half: float, n: int | None) -> float:
    if difference == 0:
        return 1.0
    if half == 0:
        return 0.0
    if n is None or n < 3:
        return float(2 * stats.norm.sf(abs(difference) / half * stats.norm.isf(0.025)))
    return float(2 * stats.t.sf(abs(difference) / half * student(n), n - 1))
