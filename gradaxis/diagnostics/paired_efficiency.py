"""Two methods on the same rollouts: how many times as efficient one is as the other, as one paired statistic.

Efficiency is <E ĝ, ∇J>² / (|∇J|² E|ĝ|²) of one such batch (probe `bias`). What the two share cancels in the ratio, so
that its interval is far narrower than those of the two. Letters: n units (prompts), M groups.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.statistics import (
    Array,
    Estimate,
    Given,
    Interval,
    Residual,
    Strata,
    component,
    freedom,
    inner_of_means,
    jackknife_interval,
    leave_out_inner,
    leave_out_trace,
    p_value,
    student,
    tail,
    trace_covariance,
)


class Paired(NamedTuple):
    """A ratio with its interval, made on the logarithm, and the two-sided p of a ratio of 1."""

    estimate: Estimate
    p: float


UNKNOWN = Paired(Estimate(math.nan, Interval(0.0, math.inf, False)), 1.0)


def efficiency_ratio_given(
    first: Given, first_units: Array, second: Given, second_units: Array, strata: Strata
) -> Paired:  # fmt: skip
    """First over second for prompts taken as given, with Student's interval between groups, to first order.

    Args:
        first, second: each method's groups less the noise that is known. first_units, second_units: inner products
            [M, M] of each method's own groups; those of their mean are |ĝ|².
    """
    logarithm, deviations = 0.0, np.zeros(len(strata.of))
    for sign, given, units in ((1, first, first_units), (-1, second, second_units)):
        gain, size = strata.mean(given.along), float(strata.share @ units @ strata.share)
        if not (gain > 0 and size > 0):
            return UNKNOWN
        logarithm += sign * (2 * math.log(gain) - math.log(size))
        deviations += sign * 2 * strata.centre(given.along / gain - units @ strata.share / size)
    n = freedom(deviations**2, strata) + 1
    error = math.sqrt(float(strata.weight @ deviations**2))
    half = student(n) * error
    return Paired(_exponential(logarithm, Interval(logarithm - half, logarithm + half)), tail(logarithm, error, n))


def efficiency_ratio_on_known(first: Residual, first_units: Array, second: Residual, second_units: Array) -> Paired:
    """First over second beside a target that is known on every prompt, with a jackknife over prompts.

    Args:
        first, second: as `split` makes them. first_units, second_units: inner products [n, n] of each method's units.
    """
    return _jackknife(_logarithm_on_known(first, first_units), _logarithm_on_known(second, second_units))


def efficiency_ratio(first: tuple[Array, Array], second: tuple[Array, Array]) -> Paired:
    """First over second beside an estimated target, with a jackknife over prompts.

    Args:
        first, second: inner products [n, n] of each method's units with themselves, and with those of the target.
    """
    return _jackknife(_logarithm_of_means(*first), _logarithm_of_means(*second))


def _logarithm_on_known(residual: Residual, units: Array) -> tuple[float, Array]:
    values = component(residual, residual.along.mean(axis=1) / float(residual.target.mean()), 1.0)
    n = len(values)
    rows = units.sum(0) + units.sum(1) - np.diagonal(units)
    gains = np.append((values.sum() - values) / (n - 1), values.mean())
    sizes = np.append((units.sum() - rows) / (n - 1) ** 2, units.mean())
    return _split(gains, sizes)


def _logarithm_of_means(own: Array, cross: Array) -> tuple[float, Array]:
    n = len(own)
    gains = np.append(leave_out_inner(cross), inner_of_means(cross))
    sizes = np.append(leave_out_inner(own) + leave_out_trace(own) / n, inner_of_means(own) + trace_covariance(own) / n)
    return _split(gains, sizes)


def _split(gains: Array, sizes: Array) -> tuple[float, Array]:
    """log(gain² / size) of all units, and without each; NaN where one of them is not positive."""
    fine = (gains > 0) & (sizes > 0)
    logarithms = np.log(np.where(fine, gains, np.nan) ** 2 / np.where(fine, sizes, np.nan))
    return float(logarithms[-1]), logarithms[:-1]


def _jackknife(first: tuple[float, Array], second: tuple[float, Array]) -> Paired:
    value, without = first[0] - second[0], first[1] - second[1]
    if not (math.isfinite(value) and np.all(np.isfinite(without))):
        return UNKNOWN
    return Paired(_exponential(value, jackknife_interval(value, without)), p_value(value, without))


def _exponential(value: float, ends: Interval) -> Estimate:
    return Estimate(math.exp(value), Interval(math.exp(ends.low), math.exp(ends.high), ends.bounded))
