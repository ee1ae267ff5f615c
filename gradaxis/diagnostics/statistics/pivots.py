"""Intervals for statistics whose studentised error is skewed, from their expansion to second order.

Letters as in `expansions`: n units, influences L [n] and Q [n, n], σ² the mean of L². The studentised statistic
T = √n (θ̂ − θ)/σ̂ has, to order 1/√n, mean −(μ/2 + ρ) and third cumulant −(2μ + 3ρ) with

    μ = mean(L³) / (σ³ √n)          ρ = Σ_jk L_j Q_jk L_k / (n² σ³ √n)

(Hall, 1992, sections 2.4 and 2.6), so that by Cornish and Fisher's expansion its quantiles are those of the normal law
moved by −shift, shift = μ/2 + ρ + (2μ + 3ρ)(z² − 1)/6. A statistic that is low together with its own standard error
(a squared norm, a mean of heavy-tailed values) has shift > 0: its plain interval ends too low.

The end toward which T is skewed is moved out by the shift, scaled from the normal to Student's quantile. The other end
is left where it is, not moved in: with few units L, Q and σ are themselves estimates, and a verdict that rests on that
end ("clear of zero") must hold among the batches that it is given for.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import stats

from gradaxis.diagnostics.statistics.expansions import Expansion
from gradaxis.diagnostics.statistics.intervals import LEVEL, Interval, solve_fieller, student
from gradaxis.diagnostics.statistics.moments import Array

ROUNDS = 8
"""Times that the quantile at the end of a ratio's interval is put in anew; each moves the end further out, and less."""


def skewed_interval(statistic: Expansion, units: float | None = None, level: float = LEVEL) -> Interval:
    """θ̂ ± Student quantile · standard error, the end toward which the error is skewed moved out.

    Args:
        units: degrees of freedom of the standard error, and one; n by default.
    """
    n = len(statistic.first)
    if n < 3 or not (math.isfinite(statistic.value) and np.all(np.isfinite(statistic.first))):
        return Interval(-math.inf, math.inf, False)
    square = float(statistic.first @ statistic.first)
    quantile, error = student(units or n, level), math.sqrt(square / (n * (n - 1)))
    if square > 0:
        third = float((statistic.first**3).sum()), float(statistic.first @ statistic.second @ statistic.first)
        shift = float(_shift(np.array(third), n, level)) * quantile / square**1.5
    else:
        shift = 0.0
    return Interval(
        statistic.value - error * (quantile + max(-shift, 0.0)), statistic.value + error * (quantile + max(shift, 0.0))
    )


def ratio_interval(
    numerator: Expansion,
    denominator: Expansion,
    floor: float = -math.inf,
    units: float | None = None,
    level: float = LEVEL,
) -> Interval:
    """Fieller's interval for a ratio θ_a / θ_b, its ends moved out for skewness.

    Every β is tested by the statistic θ̂_a − β θ̂_b, whose μ and ρ are polynomials in β; where its T is skewed toward an
    end, that end is solved for anew with the moved quantile. What bounds the set is the denominator's T, as in
    `fieller`. `units` as for `skewed_interval`.
    """
    n = len(numerator.first)
    values = numerator.value, denominator.value
    influence = np.stack([numerator.first, denominator.first])
    if n < 3 or not (np.all(np.isfinite(values)) and np.all(np.isfinite(influence))):
        return Interval(floor, math.inf, False)
    squares, (a, b) = influence @ influence.T, influence
    covariance = squares / (n * (n - 1))
    bent_a, bent_b = (influence @ part.second @ influence.T for part in (numerator, denominator))
    cubes = (a**3).sum(), -3 * (a * a * b).sum(), 3 * (a * b * b).sum(), -(b**3).sum()
    bends = bent_a[0, 0], -2 * bent_a[0, 1] - bent_b[0, 0], bent_a[1, 1] + 2 * bent_b[0, 1], -bent_b[1, 1]
    usual = student(units or n, level)
    polynomial = _shift(np.array([cubes, bends]), n, level) * usual

    def quantile(ratio: float) -> float:
        """Of the test at an end."""
        square = squares[0, 0] - 2 * ratio * squares[0, 1] + ratio**2 * squares[1, 1]
        if square <= 1e-12 * (squares[0, 0] + ratio**2 * squares[1, 1]):  # one is a multiple of the other: no error
            return usual
        shift = float(polynomial @ ratio ** np.arange(4)) / square**1.5
        return usual + max(shift if values[0] < ratio * values[1] else -shift, 0.0)

    plain = solve_fieller(*values, covariance, usual, floor)
    ends = []
    for side in (0, 1):
        kept, end = usual, plain[side]
        for _ in range(ROUNDS):
            wider = quantile(end) if math.isfinite(end) and end > floor else usual
            if wider <= kept * (1 + 1e-6):
                break
            kept = wider
            end = solve_fieller(*values, covariance, kept, floor)[side]
        ends.append(end)
    return Interval(ends[0], ends[1], plain.bounded and bool(np.all(np.isfinite(ends))))


def recovered_ratio(
    numerator: tuple[float, Interval], denominator: tuple[float, Interval], correlation: float, floor: float = 0.0
) -> Interval:
    """A ratio's interval from the estimate and the interval of each part, where these are skewed in ways of their own.

    Fieller's set, with (limit − estimate)² of the limits in question in place of t² times the variances (MOVER; Donner
    and Zou, 2012): for symmetric intervals it is Fieller's. Half-open where the denominator's interval holds 0.
    """
    (a, ends_a), (b, ends_b) = numerator, denominator

    def solve(reach_a: float, reach_b: float) -> Interval:
        if not (math.isfinite(reach_a) and math.isfinite(reach_b)):
            return Interval(floor, math.inf, False)
        shared = correlation * reach_a * reach_b
        return solve_fieller(a, b, np.array([[reach_a**2, shared], [shared, reach_b**2]]), 1.0, floor)

    low, high = solve(a - ends_a.low, ends_b.high - b), solve(ends_a.high - a, b - ends_b.low)
    return Interval(low.low, high.high, high.bounded)


def _shift(third: Array, n: int, level: float) -> Array:
    """Σ L³ and Σ L Q L (along the first axis) -> what over (Σ L²)^1.5 is the shift as a share of the quantile.

    μ is made from the unbiased third cumulant and variance, its factor √(n (n − 1)) / (n − 2).
    """
    normal = _normal(level)
    bend = (normal**2 - 1) / 6
    cubes, bends = third[0] * math.sqrt(n * (n - 1)) / (n - 2), third[1] / n
    return ((0.5 + 2 * bend) * cubes + (1 + 3 * bend) * bends) / normal


@cache
def _normal(level: float) -> float:
    """The two-sided normal quantile."""
    return float(stats.norm.ppf(0.5 + level / 2))
