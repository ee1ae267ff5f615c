"""Ranks that only differences which are clear of chance set apart, all pairs of methods counted at once.

Letters: M methods, n units, k = M(M − 1)/2 pairs.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.statistics import Array, Strata, holm, max_t, student
from gradaxis.diagnostics.unit_spread import effective_units, two_sided

RATE = 0.05
"""The chance of any wrong pair, over the whole ranking."""

SAME = 1e-5
"""Scores that differ by less than this share of themselves are one score, whatever their spread."""

MOST_PAIRS = 600
"""Pairs whose joint law is drawn from. Beyond it Holm's adjustment takes its place: it is wider, and costs nothing."""


class Ranking(NamedTuple):
    """For each method 1 + those that are clearly better, and the ranks that the comparisons leave open, int [M].

    `low` is that rank and `high` is M less those that are clearly worse. `apart` [M, M] says which two can be told
    apart, and `how` in words how many comparisons were made, and how they were adjusted.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    apart: NDArray[np.bool_]
    how: str


def rank_methods(scores: Array, without: Array, strata: Strata | None = None) -> Ranking:
    """Ranks of methods measured on the same units; the highest score is the first.

    Every pair is compared by its difference, whose spread over units left out holds what the two share, and the
    p-values of all pairs are adjusted so that any pair is set apart by chance in 5 % of rankings at most. Two methods
    that cannot be told apart may still differ in rank where a third is clearly better than one of them only.

    Args:
        scores: finite, [M]. without: the same without each unit in turn, [n, M].
        strata: of the units, where they have some (see `unit_spread`).
    """
    count, n = len(scores), len(without)
    pairs = list(combinations(range(count), 2))
    apart = np.zeros((count, count), dtype=bool)
    if pairs and n > 2:
        first, second = np.array(pairs).T
        difference, left = scores[first] - scores[second], without[:, first] - without[:, second]
        scale = SAME * np.maximum(np.abs(scores[first]), np.abs(scores[second]))
        same = (np.abs(difference) <= scale) & np.all(np.abs(left) <= scale, axis=0)
        difference, left = np.where(same, 0.0, difference), np.where(same, 0.0, left)
        clear = _adjusted(difference, left, strata) < RATE
        apart[first[clear], second[clear]] = apart[second[clear], first[clear]] = True
    above = scores[None, :] > scores[:, None]
    low = 1 + (apart & above).sum(axis=1)
    high = count - (apart & above.T).sum(axis=1)
    adjustment = "max-t" if len(pairs) <= MOST_PAIRS else "Holm"
    how = f"95 % for all {len(pairs)} pairs of {count} methods at once ({adjustment}), paired on the same rollouts"
    return Ranking(low, high, apart, how)


def _adjusted(difference: Array, left: Array, strata: Strata | None) -> Array:
    columns = list(zip(difference.tolist(), left.T, strict=True))
    if len(columns) > MOST_PAIRS:
        return holm(np.array([two_sided(value, column, strata) for value, column in columns]))
    if strata is not None:  # fewer degrees of freedom: the spread that gives n units the same quantile at this level
        level, n = 1 - RATE / len(columns), len(left)
        units = [effective_units(value, column, strata) for value, column in columns]
        wider = np.array([student(count, level) for count in units]) / student(n, level)
        left = difference + (left - difference) * np.maximum(wider, 1.0)
    return max_t(difference, left).p
