"""Intervals from leave-one-unit-out values: the jackknife, and Fieller's interval for a ratio."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradaxis.diagnostics.statistics.moments import Array

LEVEL = 0.95


class Interval(NamedTuple):
    """Both ends of an interval; an end that the data do not bound is ±infinity. `bounded` is the gate of a ratio."""

    low: float
    high: float
    bounded: bool = True


@cache
def student(n: float, level: float = LEVEL) -> float:
    """The two-sided Student quantile for n units (n − 1 degrees of freedom, whole or not)."""
    return float(stats.t.ppf(0.5 + level / 2, n - 1))


def mean_interval(values: Array, level: float = LEVEL) -> Interval:
    """Student's interval for the mean of n independent values. Unbounded for fewer than two values."""
    n = len(values)
    if n < 2:
        return Interval(-math.inf, math.inf, False)
    half = student(n, level) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(float(np.mean(values)) - half, float(np.mean(values)) + half)


def share_interval(shares: Array, sizes: NDArray[Any], level: float = LEVEL) -> Interval:
    """Wilson's interval for a share, with clusters as the units of independence (Korn and Graubard, 1998). In [0, 1].

    Wilson's formula at the effective number of answers n = p (1 − p) / Var(p̂), with p̂ the mean of the n_c clusters'
    shares and Var(p̂) from their spread; never less than the clusters and never more than the answers. Where all
    shares are 0 or all are 1 nothing is known of the spread, and n is the number of clusters.

    Args:
        shares: of each cluster, [n_c]. sizes: its answers, [n_c].
    """
    clusters = len(shares)
    if clusters < 2:
        return Interval(0.0, 1.0, False)
    share, variance = float(np.mean(shares)), float(np.var(shares, ddof=1)) / clusters
    effective = share * (1 - share) / variance if variance > 0 else 0.0
    n = min(max(effective, clusters), float(np.sum(sizes)))
    square = student(clusters, level) ** 2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = math.sqrt(square * share * (1 - share) / n + square**2 / (4 * n**2)) / (1 + square / n)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


def jackknife_covariance(leave_out: Array) -> Array:
    """Covariance of k statistics from their n leave-one-out values, shape [n, k] -> [k, k].

        (n − 1)/n · Σ_j (θ₍₋ⱼ₎ − mean)(θ₍₋ⱼ₎ − mean)ᵀ

    For U-statistics it is conservative: the part of the variance of second order is counted about twice (Efron and
    Stein, 1981), so intervals are too wide rather than too narrow where noise dominates.
    """
    n = len(leave_out)
    centred = leave_out - leave_out.mean(axis=0)
    return (n - 1) / n * centred.T @ centred


def jackknife_interval(estimate: float, leave_out: Array, level: float = LEVEL) -> Interval:
    """estimate ± Student quantile · jackknife standard error; `leave_out` has shape [n]."""
    n = len(leave_out)
    if n < 3 or not np.all(np.isfinite(leave_out)) or not math.isfinite(estimate):
        return Interval(-math.inf, math.inf, False)
    half = student(n, level) * math.sqrt(float(jackknife_covariance(leave_out[:, None])[0, 0]))
    return Interval(estimate - half, estimate + half)


def p_value(estimate: float, leave_out: Array, null: float = 0.0) -> float:
    """Two-sided p of `estimate` = `null` from leave-one-out values [n].

    Below .05 where `jackknife_interval` excludes the null; 1 for fewer than 3 units or values that are not finite.

    >>> round(p_value(2.0, np.array([1.5, 2.0, 2.5])), 4)  # t = 2√3, two degrees of freedom
    0.0742
    """
    n = len(leave_out)
    if n < 3 or not np.all(np.isfinite(leave_out)) or not math.isfinite(estimate):
        return 1.0
    return tail(estimate - null, math.sqrt(float(jackknife_covariance(leave_out[:, None])[0, 0])), n)


def tail(difference: float, error: float, n: float) -> float:
    """Two-sided p of a difference from its standard error with n − 1 degrees of freedom."""
    if not error > 0:
        return 0.0 if difference else 1.0
    return float(2 * stats.t.sf(abs(difference) / error, n - 1))


def fieller(
    numerator: float, denominator: float, covariance: Array, n: float, floor: float = -math.inf, level: float = LEVEL
) -> Interval:
    """All ratios β that a test of numerator − β·denominator = 0 does not reject (Fieller, 1954).

        (a − β b)² ≤ t² (V_aa − 2 β V_ab + β² V_bb)

    Args:
        numerator, denominator: estimates a and b. covariance: V, shape [2, 2], of (a, b). n: units behind V,
            its degrees of freedom and one.
        floor: the smallest ratio with a meaning (0 for a ratio of two squares).

    Returns the hull of that set above `floor`. When b is not clear of zero the set has no upper (or lower) end:
    `bounded` is False and the open end is infinite. Linear in a and b, so it covers where a ratio's own standard
    error does not.
    """
    if n < 3 or not (math.isfinite(numerator) and math.isfinite(denominator) and np.all(np.isfinite(covariance))):
        return Interval(floor, math.inf, False)
    return solve_fieller(numerator, denominator, covariance, student(n, level), floor)


def solve_fieller(
    numerator: float, denominator: float, covariance: Array, quantile: float, floor: float = -math.inf
) -> Interval:
    """The hull above `floor` of all ratios whose test stays within `quantile`, as in `fieller`."""
    square = quantile**2
    a = denominator**2 - square * float(covariance[1, 1])
    b = numerator * denominator - square * float(covariance[0, 1])
    c = numerator**2 - square * float(covariance[0, 0])
    discriminant = b * b - a * c
    if a > 0:
        root = math.sqrt(max(discriminant, 0.0))
        return Interval(max((b - root) / a, floor), max((b + root) / a, floor))
    if a == 0 or discriminant < 0:
        return Interval(floor, math.inf, False)
    root = math.sqrt(discriminant)
    upper = (b - root) / a  # a < 0: the accepted set is everything below the smaller root and above the larger one
    lower = (b + root) / a
    below_counts = lower > floor
    return Interval(floor if below_counts else max(upper, floor), math.inf, False)
