"""How the noise of unit gradients spreads over directions, and what that means for resolving their mean.

Letters as in `moments`: n units, G = E[g], Σ = Cov[g], H the inner products [n, n].
"""

from __future__ import annotations

import math

import numpy as np

from gradaxis.diagnostics.statistics.expansions import from_leave_out
from gradaxis.diagnostics.statistics.intervals import Interval
from gradaxis.diagnostics.statistics.moments import Array, inner_of_means
from gradaxis.diagnostics.statistics.pivots import skewed_interval
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
    own = np.diagonal(centred)
    found = _unbiased(np.square(centred).sum(), own.sum(), np.square(own).sum(), n)
    return float(found[0]), float(found[1])


def _unbiased(square: Array, trace: Array, fourth: Array, n: int) -> tuple[Array, Array]:
    """The two squares from Σ_jk C_jk², Σ_j C_jj and Σ_j C_jj² of n centred units."""
    square, trace, fourth = square / (n - 1) ** 2, trace / (n - 1), fourth / (n - 1)
    factor = (n - 1) / (n * (n - 2) * (n - 3))
    return (
        factor * ((n - 1) * (n - 2) * square + trace**2 - n * fourth),
        factor * (2 * square + (n**2 - 3 * n + 1) * trace**2 - n * fourth),
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

    The interval is made on the logarithm, for skewed errors. No estimate where either square is not above zero.
    """
    n = len(products)
    hidden = Estimate(math.nan, Interval(1.0, math.inf, False))
    if n < FEWEST:
        return hidden
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    whole, (without_square, without_trace) = squares_of_noise(products), _leave_out_squares(centred)
    if not (min(whole) > 0 and np.all(without_trace > 0)):
        return hidden
    pairs = np.square(centred)
    rows = pairs.mean(axis=1)
    bent = 2 * (pairs - rows[:, None] - rows[None, :] + rows.mean()) - 4 * centred @ centred / n
    trace = from_leave_out(math.sqrt(whole[1]), np.sqrt(without_trace), -2 * centred)
    logarithm = trace.log() * 2.0 - from_leave_out(whole[0], without_square, bent).log()
    low, high, bounded = skewed_interval(logarithm)
    high = math.exp(high) if high < 700 else math.inf
    return Estimate(max(math.exp(logarithm.value), 1.0), Interval(max(math.exp(low), 1.0), max(high, 1.0), bounded))


def _leave_out_squares(centred: Array) -> tuple[Array, Array]:
    """`squares_of_noise` without each unit, two arrays [n], from products of centred units C [n, n].

    Without unit j the others' mean moves by −c_j / (n − 1), so that C_kl becomes C_kl + (C_kj + C_jl) / (n − 1) +
    C_jj / (n − 1)².
    """
    n = len(centred)
    rest, own = 1 / (n - 1), np.diagonal(centred)
    columns = np.square(centred).sum(axis=0) - own**2
    square = np.square(centred).sum() - 2 * columns - own**2 - 2 * rest * columns + rest**2 * own**2
    trace = own.sum() - own - rest * own
    moved = own[:, None] + 2 * rest * centred + rest**2 * own[None, :]
    fourth = np.square(moved).sum(axis=0) - np.square(np.diagonal(moved))
    return _unbiased(square, trace, fourth, n - 1)


def units_to_resolve(products: Array) -> Estimate:
    """How many units bring |G|² to `RESOLVED` standard deviations of its estimate above zero.

        sd² = 2 tr(Σ²) / (n (n − 1)) + 4 GᵀΣG / n

    is solved for n. The interval joins that of |G|² with that of tr(Σ²), by whose factor GᵀΣG is moved too; its upper
    end is open where |G|² is not clear of zero, and then there is an estimate only where |G|² is positive.
    """
    if len(products) < FEWEST:
        return Estimate(math.nan, Interval(2.0, math.inf, False))
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    square, without = squares_of_noise(products)[0], _leave_out_squares(centred)[0]
    along = noise_along_mean(products)

    def need(signal: float, factor: float = 1.0) -> float:
        return _solve(signal, factor * max(square, 0.0), factor * max(along, 0.0))

    shrunk, grown = 0.0, math.inf
    if square > 0 and np.all(without > 0):
        ends = skewed_interval(from_leave_out(0.0, np.log(without / square)))
        shrunk, grown = math.exp(ends.low), math.exp(min(ends.high, 700.0))
    value, (low, high, _) = inner_of_means(products), squared_mean(products).interval
    interval = Interval(need(high, shrunk), need(low, grown), low > 0 and math.isfinite(grown))
    return Estimate(need(value) if value > 0 else math.nan, interval)


def _solve(signal: float, square: float, along: float) -> float:
    """The n at which |G|² is `RESOLVED` standard deviations; infinity where it is zero or less, never below 2."""
    if not signal > 0 or math.isinf(square):
        return math.inf
    if math.isinf(signal):
        return 2.0
    # |G|⁴ n (n − 1) = k² ( 2 tr(Σ²) + 4 GᵀΣG (n − 1) )
    first, second = 2 * RESOLVED**2 * square / signal**2, 4 * RESOLVED**2 * along / signal**2
    half = (1 + second) / 2
    return max(half + math.sqrt(max(half**2 + first - second, 0.0)), 2.0)
