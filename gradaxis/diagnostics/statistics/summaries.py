"""What one set of unit gradients, or a pair of them, says about its mean and its noise, each with an interval.

Letters as in `moments`: n units, G = E[g], Σ = Cov[g], H the inner products [n, n].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.statistics.expansions import Expansion, expand_inner, expand_trace, from_leave_out
from gradaxis.diagnostics.statistics.intervals import LEVEL, Interval, jackknife_interval, student, tail
from gradaxis.diagnostics.statistics.moments import Array, leave_out_trace, trace_covariance
from gradaxis.diagnostics.statistics.pivots import ratio_interval, recovered_ratio, skewed_interval

NOISE_POWER = -1 / 3
"""The power of tr Σ on which its interval is made."""


class Estimate(NamedTuple):
    """A number with its interval. `value` is NaN where the interval's gate leaves no estimate to print."""

    value: float
    interval: Interval

    @property
    def resolved(self) -> bool:
        """True when there is a value and its interval is bounded."""
        return math.isfinite(self.value) and self.interval.bounded

    def p_value(self, n: float, null: float = 0.0, logarithm: bool = False) -> float:
        """Two-sided p of the value being `null`, below .05 exactly where the interval excludes it.

        The half width on the side of the null, over Student's quantile, stands for the standard error. 1 where there is
        no value or that half width is infinite.

        Args:
            n: units behind the interval, its degrees of freedom and one. logarithm: whether the error is taken on the
                logarithm (ratios).
        """
        end = self.interval.low if null < self.value else self.interval.high
        values = self.value, end, null
        if logarithm:
            values = tuple(math.log(value) if value > 0 else -math.inf for value in values)
        if n < 2 or not all(math.isfinite(value) for value in values):
            return 1.0
        return tail(values[0] - values[2], abs(values[0] - values[1]) / student(n, LEVEL), n)


Scales = tuple[Array | None, Array | None]


class Leave(NamedTuple):
    """A statistic of all units, without each unit in turn [n], and how pairs of units bend it [n, n] where known."""

    value: float
    without: Array
    second: Array | None = None


def squared_mean(products: Array) -> Estimate:
    """|G|² with an interval for skewed errors. The direction of G is resolved when the interval lies above zero."""
    return inner_product(products)


def inner_product(products: Array) -> Estimate:
    """<E a, E b> from products [n, n], with an interval for skewed errors."""
    statistic = expand_inner(products)
    return Estimate(statistic.value, skewed_interval(statistic))


def noise(products: Array, scale: Array | None = None) -> Estimate:
    """tr Σ with an interval made on (tr Σ)^(−1/3).

    A variance is the mean of squared distances, which are skewed. If they follow a Gamma law, whose skewness is twice
    its coefficient of variation, −1/3 is the power at which the studentised mean has no skewness of order 1/√n: its
    third cumulant is 3 (1 − power) times that coefficient less twice the skewness. What skewness is seen beyond that is
    met as elsewhere (`pivots`). `scale` as for `expand_trace`.
    """
    value, leave_out = trace_covariance(products), leave_out_trace(products)
    if not value > 0 or len(products) < 3:
        return Estimate(value, jackknife_interval(value, leave_out))
    ends = skewed_interval(expand_trace(products, scale).power(NOISE_POWER) * -1.0)
    low, high = ((-end) ** (1 / NOISE_POWER) if end < 0 else math.inf for end in ends[:2])
    return Estimate(value, Interval(low, high, math.isfinite(high)))


def critical_batch_size(products: Array, scale: Array | None = None) -> Estimate:
    """B_simple = tr Σ / |G|², in units (arXiv 1812.06162, equation 2.9), with Fieller's interval.

    Its limits are made from those of tr Σ and |G|², each skewed in its own way. Where |G|² is not clear of zero, the
    interval is half-open: the data give a smallest critical batch size and no largest one, and no estimate. `scale` as
    for `expand_trace`.
    """
    spread, square = expand_trace(products, scale), expand_inner(products)
    if len(products) < 3:
        return Estimate(math.nan, Interval(0.0, math.inf, False))
    sizes = float(np.linalg.norm(spread.first) * np.linalg.norm(square.first))
    correlation = float(spread.first @ square.first) / sizes if sizes > 0 else 0.0
    parts = (spread.value, noise(products, scale).interval), (square.value, skewed_interval(square))
    interval = recovered_ratio(*parts, correlation)
    if interval.bounded and square.value <= 0:  # a negative |G|² that is clear of zero is chance: it bounds nothing
        interval = Interval(0.0, math.inf, False)
    return Estimate(spread.value / square.value if interval.bounded else math.nan, interval)


def ratio_of_noise(first: Array, second: Array, scales: Scales = (None, None)) -> Estimate:
    """tr Σ_a / tr Σ_b of two methods on the same units, as one paired statistic.

    The upper end is made on the ratio's power −1/3 and the lower end on that of its inverse, as in `noise`: each is
    right where the noise above it is the skewed one, and both tend to those of the logarithm as n grows. `scales` as
    for `expand_trace`, of each method.
    """
    spreads = expand_trace(first, scales[0]), expand_trace(second, scales[1])
    if not all(spread.value > 0 for spread in spreads) or len(first) < 3:
        return Estimate(math.nan, Interval(0.0, math.inf, False))
    high, inverse = _upper_end(*spreads), _upper_end(*spreads[::-1])
    return Estimate(spreads[0].value / spreads[1].value, Interval(1 / inverse, high, math.isfinite(high + inverse)))


def _upper_end(numerator: Expansion, denominator: Expansion) -> float:
    """Of a ratio of two variances, made on its power −1/3."""
    end = skewed_interval(numerator.power(NOISE_POWER) * denominator.power(-NOISE_POWER) * -1.0).high
    return (-end) ** (1 / NOISE_POWER) if end < 0 else math.inf


def ratio_at_equal_gain(
    first: Array, second: Array, gain_first: Leave, gain_second: Leave, scales: Scales = (None, None)
) -> Estimate:
    """(tr Σ_a / c_a²) / (tr Σ_b / c_b²), with c the gain along a target: the noise that steps of equal use carry.

    Free of each method's scale: what a learning rate absorbs is divided out. Fieller's interval for the square root,
    √tr Σ_a c_b / √tr Σ_b c_a, is squared; it has no upper end, and there is no estimate, where c_a is not clear of
    zero. Each end is the farther one of two: with the noise on the side of the fraction where it stands, and turned
    over on the other side, which is right where that method's noise is the skewed one.

    Args:
        first, second: products of the two methods. gain_first, gain_second: each method's gain with its leave-one-out
            values, up to one common factor. scales: as for `expand_trace`, of each method.
    """
    spreads = expand_trace(first, scales[0]), expand_trace(second, scales[1])
    if not all(spread.value > 0 for spread in spreads) or len(first) < 3:
        return Estimate(math.nan, Interval(0.0, math.inf, False))
    gains = from_leave_out(*gain_first), from_leave_out(*gain_second)
    upright = spreads[0].power(0.5) * gains[1], spreads[1].power(0.5) * gains[0]
    turned = spreads[1].power(-0.5) * gains[1], spreads[0].power(-0.5) * gains[0]
    ends = ratio_interval(*upright), ratio_interval(*turned)
    low, high = min(end.low for end in ends), max(end.high for end in ends)
    bounded, squares = all(end.bounded for end in ends), sorted((low**2, high**2))
    interval = Interval(0.0 if low <= 0 <= high else squares[0], squares[1], bounded)
    return Estimate((upright[0].value / upright[1].value) ** 2 if bounded else math.nan, interval)


def cosine_of_means(first: Array, second: Array, cross: Array) -> Estimate:
    """cos(E a, E b) of two methods on the same units, from U-statistics in numerator and denominator.

    Fieller's interval for U_ab / √(U_aa U_bb), U the U-statistics. To first order the root is U_aa/κ + κ U_bb over two
    with κ² = U_aa / U_bb, a linear statistic whose κ may be taken as known, since the root is its smallest value over
    κ. Its gate and its interval are one thing: where |E a| |E b| is not clear of zero the interval is [-1, 1], and
    there is no estimate. (A cosine shown after a separate gate on the same data under-covers.)
    """
    inner, squares = expand_inner(cross), (expand_inner(first), expand_inner(second))
    if len(cross) > 2 and all(square.value > 0 for square in squares):
        root = (squares[0] * squares[1]).power(0.5)
        interval = ratio_interval(inner, root)
        if interval.bounded:
            low, high, value = (min(max(end, -1.0), 1.0) for end in (*interval[:2], inner.value / root.value))
            return Estimate(value, Interval(low, high))
    return Estimate(math.nan, Interval(-1.0, 1.0, False))


def cosine_change_of_means(
    first: Array, second: Array, target: Array, first_cross: Array, second_cross: Array
) -> Estimate:
    """cos(E b, E t) − cos(E a, E t) of two methods on the same units, with an interval of the pair.

    No estimate where either cosine is unresolved.

    Args:
        first, second, target: products of a, of b and of t. first_cross, second_cross: of a and of b with t.
    """
    methods = (first, first_cross), (second, second_cross)
    if not all(cosine_of_means(own, target, cross).resolved for own, cross in methods):
        return Estimate(math.nan, Interval(-math.inf, math.inf, False))
    square = expand_inner(target)
    cosines = [expand_inner(cross) * (expand_inner(own) * square).power(-0.5) for own, cross in methods]
    change = cosines[1] - cosines[0]
    return Estimate(change.value, skewed_interval(change))


def gain_of_means(cross: Array, target: Array) -> Estimate:
    """<E a, E b> / |E b|²: how far a step along `a` goes along `b`, with Fieller's interval.

    `cross` are the products <a_j, b_k>, `target` those of b with itself. No estimate where |E b|² is not clear of zero.
    """
    return ratio_of_inner_products(cross, target)


def ratio_of_inner_products(numerator: Array, denominator: Array) -> Estimate:
    """<E a, E b> / <E c, E d> from the products [n, n] of a with b and of c with d on the same units.

    Fieller's interval; no estimate where the denominator is not clear of zero.
    """
    top, bottom = expand_inner(numerator), expand_inner(denominator)
    interval = ratio_interval(top, bottom)
    return Estimate(top.value / bottom.value if interval.bounded else math.nan, interval)


def efficiency(raw: Array, mean: Array, cross: Array, target: Array, scale: Array | None = None) -> Estimate:
    """<E a, E b>² / ( |E b|² ( |E a|² + tr Σ_a / n ) ): the share of the best first-order improvement along E b.

    It is cos² of the direction times 1 / (1 + B_simple / n), in [0, 1], for one update from all n units. Fieller's
    interval for its root, squared; [0, 1] and no estimate where |E b|² is not clear of zero.

    Args:
        raw: products of the method's units, for its noise. mean: products whose mean is the method's (the same, or with
            less noise). cross: of `mean` with the target. target: of the target. scale: as for `expand_trace`.
    """
    hidden = Estimate(math.nan, Interval(0.0, 1.0, False))
    inner, square = expand_inner(cross), expand_inner(target)
    if len(raw) < 3 or not skewed_interval(square).low > 0:
        return hidden
    size = expand_inner(mean) + expand_trace(raw, scale) * (1 / len(raw))
    if not size.value > 0:
        return hidden
    root = (square * size).power(0.5)
    interval = ratio_interval(inner, root)
    if not interval.bounded:
        return hidden
    low, high, value = (min(max(end, 0.0), 1.0) ** 2 for end in (*interval[:2], inner.value / root.value))
    return Estimate(value, Interval(low, high))


def realised_cosine(first: Array, second: Array, cross: Array) -> Estimate:
    """The cosine of two batch gradients as they came out, and a jackknife interval over units for it.

    The estimate is exact for this batch; the interval says how far it would move with other prompts.
    """

    def total(products: Array) -> tuple[float, Array]:
        rows = products.sum(1) + products.sum(0) - np.diagonal(products)
        return float(products.sum()), products.sum() - rows

    sums, without = zip(*(total(products) for products in (first, second, cross)), strict=True)
    if not (sums[0] > 0 and sums[1] > 0):
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    value = max(-1.0, min(1.0, sums[2] / math.sqrt(sums[0] * sums[1])))
    if not (np.all(without[0] > 0) and np.all(without[1] > 0)):
        return Estimate(value, Interval(-1.0, 1.0, False))
    ends = jackknife_interval(value, without[2] / np.sqrt(without[0] * without[1]))
    return Estimate(value, Interval(max(ends.low, -1.0), min(ends.high, 1.0), ends.bounded))
