"""How the noise of unit gradients spreads over directions, and what that means for resolving their mean.

Letters as in `moments`: n units, G = E[g], Σ = Cov[g], H the inner products [n, n].
"""

from __future__ import annotations

import math

import numpy as np

from gradaxis.diagnostics.statistics.intervals import Interval, jackknife_interval
from gradaxis.diagnostics.statistics.moments import Array, inner_of_means
from gradaxis.diagnostics.statistics.summaries import Estimate, squared_mean

FEWEST = 5
"""Units from which these moments of fourth order, and their leave-one-out values, are defined."""

RESOLVED = 2.0
"""Standard deviations of the estimate of |G|² by which it has to stand above zero."""


def squares_of_noise(products: Array) -> tuple[float, float]:
    """Unbiased tr(Σ²) and (tr Σ)². NaN for fewer than four units.

    With S the sample covariance and q = Σ_j |g_j − ḡ|⁴ / (n − 1) (Himeno and Yamada, 2014, lemma 2.1),

        tr(Σ²)  ~  c ( (n − 1)(n − 2) tr S² + (tr S)² − n q )          c = (n − 1) / (n (n − 2)(n − 3))
        (tr Σ)²  ~  c ( 2 tr S² + (n² − 3n + 1) (tr S)² − n q )
    """
    n = len(products)
    if n < 4:
        return math.nan, math.nan
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    trace, square = np.trace(centred) / (n - 1), np.square(centred).sum() / (n - 1) ** 2
    fourth = np.square(np.diagonal(centred)).sum() / (n - 1)
    factor = (n - 1) / (n * (n - 2) * (n - 3))
    return (
        float(factor * ((n - 1) * (n - 2) * square + trace**2 - n * fourth)),
        float(factor * (2 * square + (n**2 - 3 * n + 1) * trace**2 - n * fourth)),
    )


def noise_along_mean(products: Array) -> float:
    """Unbiased GᵀΣG: how much of the noise lies along the mean. NaN for fewer than four units.

    The covariance of <g₁, g₂> and <g₁, g₃>: the mean of their products over triples of different units, less that of
    <g₁, g₂> <g₃, g₄> over quadruples.
    """
    n = len(products)
    if n < 4:
        return math.nan
    apart = products - np.diag(np.diagonal(products))
    rows, squares = apart.sum(axis=1), np.square(apart).sum()
    triples = np.square(rows).sum() - squares
    quadruples = rows.sum() ** 2 - 4 * triples - 2 * squares
    count = n * (n - 1) * (n - 2)
    return float(triples / count - quadruples / (count * (n - 3)))


def effective_rank(products: Array) -> Estimate:
    """r_eff = (tr Σ)² / tr(Σ²): over how many directions the noise is spread, as if evenly. At least 1.

    The interval is a jackknife's, of the logarithm. No estimate where either square is not above zero with some unit
    left out.
    """
    n = len(products)
    if n < FEWEST:
        return Estimate(math.nan, Interval(1.0, math.inf, False))
    kept = [np.arange(n), *(np.delete(np.arange(n), unit) for unit in range(n))]
    squares = np.array([squares_of_noise(products[np.ix_(rows, rows)]) for rows in kept])
    if not np.all(squares > 0):
        return Estimate(math.nan, Interval(1.0, math.inf, False))
    logarithms = np.log(squares[:, 1] / squares[:, 0])
    low, high, bounded = jackknife_interval(float(logarithms[0]), logarithms[1:])
    high = math.exp(high) if high < 700 else math.inf
    return Estimate(max(math.exp(logarithms[0]), 1.0), Interval(max(math.exp(low), 1.0), max(high, 1.0), bounded))


def units_to_resolve(products: Array) -> Estimate:
    """How many units bring |G|² to `RESOLVED` standard deviations of its estimate above zero.

        sd² = 2 tr(Σ²) / (n (n − 1)) + 4 GᵀΣG / n

    is solved for n. The interval is that of |G|² carried over, with the noise as it was found; its upper end is open
    where |G|² is not clear of zero, and then there is an estimate only where |G|² is positive.
    """
    signal = squared_mean(products)
    square, along = squares_of_noise(products)[0], noise_along_mean(products)
    if not (math.isfinite(square) and math.isfinite(along)):
        return Estimate(math.nan, Interval(2.0, math.inf, False))

    def need(value: float) -> float:
        return _solve(value, max(square, 0.0), max(along, 0.0))

    low, high, _ = signal.interval
    ends = Interval(need(high), need(low), low > 0)
    value = inner_of_means(products)
    return Estimate(need(value) if value > 0 else math.nan, ends)


def _solve(signal: float, square: float, along: float) -> float:
    """The n at which |G|² is `RESOLVED` standard deviations; infinity where it is zero or less, never below 2."""
    if not signal > 0:
        return math.inf
    if math.isinf(signal):
        return 2.0
    # |G|⁴ n (n − 1) = k² ( 2 tr(Σ²) + 4 GᵀΣG (n − 1) )
    first, second = 2 * RESOLVED**2 * square / signal**2, 4 * RESOLVED**2 * along / signal**2
    half = (1 + second) / 2
    return max(half + math.sqrt(max(half**2 + first - second, 0.0)), 2.0)
