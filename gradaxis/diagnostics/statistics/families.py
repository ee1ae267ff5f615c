"""Families of tests: p-values adjusted for how many questions were asked at once.

Letters: k tests, n units. The family is the caller's to choose and to state; rows without a p-value are no part of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from gradaxis.diagnostics.statistics.intervals import LEVEL
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.errors import InputError

DRAWS = 4000
"""Points of the integral over the joint law: a probability of .05 has a standard error of .0035. A quarter of them,
and twice that error, for the largest families."""


class Simultaneous(NamedTuple):
    """Adjusted p-values [k], and half widths [k] of intervals that all hold at once at the stated level."""

    p: Array
    half: Array


def holm(p: Array) -> Array:
    """Adjusted p-values [k] that bound the chance of any false rejection, whatever the dependence (Holm, 1979).

        p̃₍ᵢ₎ = max over j ≤ i of min(1, (k − j + 1) p₍ⱼ₎),   p₍₁₎ ≤ … ≤ p₍ₖ₎

    Raises InputError where a p-value is not a number from 0 to 1.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = _checked(p)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]), 1.0)
    return adjusted


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values [k] that bound the expected share of false ones among the rejections.

        p̃₍ᵢ₎ = min over j ≥ i of min(1, k p₍ⱼ₎ / j)

    For independent tests and for those that depend positively on one another (Benjamini and Hochberg, 1995; Benjamini
    and Yekutieli, 2001). Raises InputError where a p-value is not a number from 0 to 1.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    p = _checked(p)
    order = np.argsort(p)[::-1]
    adjusted = np.empty_like(p)
    ranks = np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.minimum.accumulate(len(p) / ranks * p[order]), 1.0)
    return adjusted


def max_t(
    estimates: Array, leave_out: Array, level: float = LEVEL, generator: np.random.Generator | None = None
) -> Simultaneous:
    """Single-step max-t: tests of k statistics that are 0 under the null, and intervals that hold all at once.

        p̃ⱼ = P( max over i of |Tᵢ| ≥ |estimateⱼ| / seⱼ )          halfⱼ = the level's quantile of that maximum · seⱼ

    with se from the jackknife and T the Student ratios of n normal units that have the covariance of the pseudo-values
    (Westfall and Young, 1993, section 2; a parametric bootstrap). What the tests share lowers the price: k copies of
    one test cost nothing. Never below a test's own p-value and never above Bonferroni's.

    Args:
        estimates: [k]. leave_out: without each unit in turn, [n, k]; n ≥ 3.
        generator: of the points of the integral; by default a fixed set, so that equal input gives equal output.

    A statistic without spread has p-value 0, or 1 where it is 0 itself; one that is not finite has p-value 1 and an
    infinite half width. Raises InputError on shapes that do not fit or fewer than 3 units.
    """
    estimates, leave_out = np.asarray(estimates, dtype=float), np.asarray(leave_out, dtype=float)
    if estimates.ndim != 1 or leave_out.ndim != 2 or leave_out.shape[1] != len(estimates) or len(leave_out) < 3:
        got = f"shapes {estimates.shape} and {leave_out.shape}"
        raise InputError("estimates and leave_out", got, "[k] and [n, k] with n of 3 or more", "give one row a unit")
    n, count = leave_out.shape
    finite = np.isfinite(estimates) & np.isfinite(leave_out).all(axis=0)
    centred = leave_out - leave_out.mean(axis=0)
    error = np.sqrt((n - 1) / n * (centred**2).sum(axis=0))
    p = np.where(finite & (error == 0) & (estimates != 0), 0.0, 1.0)
    half = np.where(finite, 0.0, np.inf)
    live = finite & (error > 0)
    if not live.any():
        return Simultaneous(p, half)
    largest = _largest(centred[:, live] / error[live], generator or np.random.default_rng(0))
    ratio = np.abs(estimates[live]) / error[live]
    alone = 2 * stats.t.sf(ratio, n - 1)
    # The share of draws at or above the ratio, with the observed one among them, so that it is never 0.
    beyond = (1 + len(largest) - np.searchsorted(largest, ratio)) / (1 + len(largest))
    p[live] = np.clip(np.minimum(beyond, count * alone), alone, 1.0)
    quantile = float(np.quantile(largest, level))
    quantile = np.clip(quantile, *(stats.t.isf((1 - level) / 2 / tests, n - 1) for tests in (1, count)))
    half[live] = quantile * error[live]
    return Simultaneous(p, half)


def _largest(units: Array, generator: np.random.Generator) -> Array:
    """Sorted draws of max |T| over the columns of n normal units that are correlated as those of `units` [n, k] are.

    The correlations are shrunk toward 0 by as much as chance alone puts into them: n units leave k tests in n − 1
    dimensions, which would hide how many there are.
    """
    n, count = units.shape
    units = units / np.sqrt((units**2).sum(axis=0))
    share = _chance_in_correlations(units)
    _, size, rows = np.linalg.svd(units, full_matrices=False)
    kept = size > size[0] * 1e-10
    loadings = np.sqrt(1 - share) * size[kept, None] * rows[kept]
    draws = int(np.clip(3e8 / (n * count), DRAWS / 4, DRAWS))
    step = max(1, int(1e7 / (n * count)))
    found = []
    for start in range(0, draws, step):
        shape = min(step, draws - start), n
        drawn = generator.standard_normal((*shape, len(loadings))) @ loadings
        if share > 0:
            drawn += np.sqrt(share) * generator.standard_normal((*shape, count))
        found.append((np.abs(drawn.mean(axis=1)) * np.sqrt(n) / drawn.std(axis=1, ddof=1)).max(axis=1))
    return np.sort(np.concatenate(found))


def _chance_in_correlations(units: Array) -> float:
    """The share λ by which correlations are shrunk to lose least, Σ Var(rᵢⱼ) / Σ rᵢⱼ² over i ≠ j, in [0, 1].

    Schäfer and Strimmer (2005), table 2, target D. `units` [n, k] are centred columns of length 1.
    """
    n = len(units)
    correlation = units.T @ units
    fourth = (units**2).T @ (units**2)
    spread = n / (n - 1) * (fourth - correlation**2 / n)
    aside = ~np.eye(len(correlation), dtype=bool)
    squares = float((correlation[aside] ** 2).sum())
    return float(np.clip(spread[aside].sum() / squares, 0.0, 1.0)) if squares > 0 else 0.0


def _checked(p: Array) -> Array:
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise InputError("p", repr(p), "a vector of numbers from 0 to 1", "leave rows without a p-value out")
    return p
