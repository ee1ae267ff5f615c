"""What one set of unit gradients, or a pair of them, says about its mean and its noise, each with an interval.

Letters as in `moments`: n units, G = E[g], Σ = Cov[g], H the inner products [n, n].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.statistics.intervals import (
    Interval,
    fieller,
    jackknife_covariance,
    jackknife_interval,
)
from gradaxis.diagnostics.statistics.moments import (
    Array,
    inner_of_means,
    leave_out_inner,
    leave_out_trace,
    trace_covariance,
)


class Estimate(NamedTuple):
    """A number with its interval. `value` is NaN where the interval's gate leaves no estimate to print."""

    value: float
    interval: Interval

    @property
    def resolved(self) -> bool:
        """True when there is a value and its interval is bounded."""
        return math.isfinite(self.value) and self.interval.bounded


class Leave(NamedTuple):
    """A statistic of all units, and without each unit in turn [n]."""

    value: float
    without: Array


def squared_mean(products: Array) -> Estimate:
    """|G|² with a jackknife interval. The direction of G is resolved when the interval lies above zero."""
    value = inner_of_means(products)
    return Estimate(value, jackknife_interval(value, leave_out_inner(products)))


def noise(products: Array) -> Estimate:
    """tr Σ with a jackknife interval made on the logarithm (a variance is positive and skewed)."""
    value, leave_out = trace_covariance(products), leave_out_trace(products)
    if not value > 0 or not np.all(leave_out > 0):
        return Estimate(value, jackknife_interval(value, leave_out))
    ends = jackknife_interval(math.log(value), np.log(leave_out))
    return Estimate(value, Interval(math.exp(ends.low), math.exp(ends.high), ends.bounded))


def critical_batch_size(products: Array) -> Estimate:
    """B_simple = tr Σ / |G|², in units (arXiv 1812.06162, equation 2.9), with Fieller's interval.

    Where |G|² is not clear of zero, the interval is half-open: the data give a smallest critical batch size and no
    largest one, and no estimate.
    """
    values = (trace_covariance(products), inner_of_means(products))
    covariance = jackknife_covariance(np.stack([leave_out_trace(products), leave_out_inner(products)], axis=1))
    interval = fieller(*values, covariance, len(products), floor=0.0)
    if interval.bounded and values[1] <= 0:  # a negative |G|² that is clear of zero is chance: it bounds nothing
        interval = Interval(0.0, math.inf, False)
    return Estimate(values[0] / values[1] if interval.bounded else math.nan, interval)


def ratio_of_noise(first: Array, second: Array) -> Estimate:
    """tr Σ_a / tr Σ_b of two methods on the same units; the jackknife on the logarithm pairs them."""
    return _log_ratio(
        trace_covariance(first), trace_covariance(second), leave_out_trace(first), leave_out_trace(second)
    )


def ratio_at_equal_gain(first: Array, second: Array, gain_first: Leave, gain_second: Leave) -> Estimate:
    """(tr Σ_a / c_a²) / (tr Σ_b / c_b²), with c the gain along a target: the noise that steps of equal use carry.

    Free of each method's scale: what a learning rate absorbs is divided out. NaN and unbounded where either gain is
    not clear of zero.

    Args:
        first, second: products of the two methods. gain_first, gain_second: each method's gain with its leave-one-out
            values, up to one common factor.
    """
    ends = [jackknife_interval(gain.value, gain.without) for gain in (gain_first, gain_second)]
    if any(end.low <= 0 <= end.high or not end.bounded for end in ends):
        return Estimate(math.nan, Interval(0.0, math.inf, False))
    return _log_ratio(
        trace_covariance(first) / gain_first.value**2, trace_covariance(second) / gain_second.value**2,
        leave_out_trace(first) / gain_first.without**2, leave_out_trace(second) / gain_second.without**2,
    )  # fmt: skip


def cosine_of_means(first: Array, second: Array, cross: Array) -> Estimate:
    """cos(E a, E b) of two methods on the same units, from U-statistics in numerator and denominator.

    With U the U-statistics, Fieller's interval for U_ab |U_ab| / (U_aa U_bb), a linear test in the signed square of the
    cosine, is mapped back. Its gate and its interval are one thing: where |E a|² |E b|² is not clear of zero the
    interval is [-1, 1], and there is no estimate. (A cosine shown after a separate gate on the same data under-covers.)
    """
    n = len(cross)
    whole = (inner_of_means(cross), inner_of_means(first), inner_of_means(second))
    without = (leave_out_inner(cross), leave_out_inner(first), leave_out_inner(second))
    pairs = np.stack([without[0] * np.abs(without[0]), without[1] * without[2]], axis=1)
    numerator, denominator = whole[0] * abs(whole[0]), whole[1] * whole[2]
    interval = fieller(numerator, denominator, jackknife_covariance(pairs), n)
    if not interval.bounded or whole[1] <= 0 or whole[2] <= 0:
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    low, high = (_signed_root(min(max(end, -1.0), 1.0)) for end in interval[:2])
    return Estimate(_signed_root(min(max(numerator / denominator, -1.0), 1.0)), Interval(low, high))


def cosine_change_of_means(
    first: Array, second: Array, target: Array, first_cross: Array, second_cross: Array
) -> Estimate:
    """cos(E b, E t) − cos(E a, E t) of two methods on the same units, with a jackknife of the pair.

    No estimate where either cosine is unresolved.

    Args:
        first, second, target: products of a, of b and of t. first_cross, second_cross: of a and of b with t.
    """
    methods = (first, first_cross), (second, second_cross)
    found = [cosine_of_means(own, target, cross) for own, cross in methods]
    without = [_leave_out_cosine(own, target, cross) for own, cross in methods]
    if not all(cosine.resolved for cosine in found):
        return Estimate(math.nan, Interval(-math.inf, math.inf, False))
    value = found[1].value - found[0].value
    return Estimate(value, jackknife_interval(value, without[1] - without[0]))


def _leave_out_cosine(own: Array, target: Array, cross: Array) -> Array:
    squares = leave_out_inner(own) * leave_out_inner(target)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(leave_out_inner(cross) / np.sqrt(np.where(squares > 0, squares, np.nan)), -1.0, 1.0)


def gain_of_means(cross: Array, target: Array) -> Estimate:
    """<E a, E b> / |E b|²: how far a step along `a` goes along `b`, with Fieller's interval.

    `cross` are the products <a_j, b_k>, `target` those of b with itself. No estimate where |E b|² is not clear of zero.
    """
    values = (inner_of_means(cross), inner_of_means(target))
    covariance = jackknife_covariance(np.stack([leave_out_inner(cross), leave_out_inner(target)], axis=1))
    interval = fieller(*values, covariance, len(cross))
    return Estimate(values[0] / values[1] if interval.bounded else math.nan, interval)


def efficiency(raw: Array, mean: Array, cross: Array, target: Array) -> Estimate:
    """<E a, E b>² / ( |E b|² ( |E a|² + tr Σ_a / n ) ): the share of the best first-order improvement along E b.

    It is cos² of the direction times 1 / (1 + B_simple / n), in [0, 1], for one update from all n units.

    Args:
        raw: products of the method's units, for its noise. mean: products whose mean is the method's (the same, or with
            less noise). cross: of `mean` with the target. target: of the target. The jackknife runs on the logarithm.
    """
    n = len(raw)
    whole = inner_of_means(cross), inner_of_means(target), inner_of_means(mean) + trace_covariance(raw) / n
    without = leave_out_inner(cross), leave_out_inner(target), leave_out_inner(mean) + leave_out_trace(raw) / n
    if not (all(value > 0 for value in whole) and all(np.all(value > 0) for value in without)):
        return Estimate(math.nan, Interval(0.0, 1.0, False))
    value = math.log(whole[0] ** 2 / (whole[1] * whole[2]))
    ends = jackknife_interval(value, np.log(without[0] ** 2 / (without[1] * without[2])))
    return Estimate(
        min(math.exp(value), 1.0), Interval(math.exp(ends.low), min(math.exp(ends.high), 1.0), ends.bounded)
    )


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


def _signed_root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


def _log_ratio(first: float, second: float, without_first: Array, without_second: Array) -> Estimate:
    if not (first > 0 and second > 0 and np.all(without_first > 0) and np.all(without_second > 0)):
        return Estimate(math.nan, Interval(0.0, math.inf, False))
    value = math.log(first / second)
    ends = jackknife_interval(value, np.log(without_first / without_second))
    return Estimate(math.exp(value), Interval(math.exp(ends.low), math.exp(ends.high), ends.bounded))
