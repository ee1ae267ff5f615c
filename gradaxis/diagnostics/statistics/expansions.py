"""Statistics to second order in their units: what each unit adds, and how the units bend it together.

Letters: n units. Near the law of the units a smooth statistic is, after von Mises (1947),

    θ̂ = θ + 1/n Σ_j L_j + 1/(2 n²) Σ_jk Q_jk + …

with L the influence of one unit and Q that of two. L gives the variance; L and Q give the skewness of the studentised
statistic, which is what makes plain intervals miss on one side (`pivots`). Statistics are put together by the chain
rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.statistics.moments import (
    Array,
    inner_of_means,
    leave_out_inner,
    leave_out_trace,
    trace_covariance,
)


class Expansion(NamedTuple):
    """A statistic, the influence of each unit [n] and of each pair of units [n, n], both with mean zero."""

    value: float
    first: Array
    second: Array

    def __add__(self, other: Expansion) -> Expansion:  # type: ignore[override]
        return compose(self.value + other.value, (self, other), (1.0, 1.0))

    def __sub__(self, other: Expansion) -> Expansion:
        return compose(self.value - other.value, (self, other), (1.0, -1.0))

    def __mul__(self, other: Expansion | float) -> Expansion:  # type: ignore[override]
        if isinstance(other, Expansion):
            slopes = other.value, self.value
            return compose(self.value * other.value, (self, other), slopes, np.array([[0.0, 1.0], [1.0, 0.0]]))
        return Expansion(self.value * other, self.first * other, self.second * other)

    def power(self, exponent: float) -> Expansion:
        """θ^p of a positive θ."""
        value, slope = self.value**exponent, exponent * self.value ** (exponent - 1)
        return compose(value, (self,), (slope,), np.array([[slope * (exponent - 1) / self.value]]))

    def log(self) -> Expansion:
        """log θ of a positive θ."""
        return compose(math.log(self.value), (self,), (1 / self.value,), np.array([[-1 / self.value**2]]))


def compose(
    value: float, parts: Sequence[Expansion], slopes: Sequence[float], curvature: Array | None = None
) -> Expansion:
    """f(θ_1, …, θ_k) with first derivatives `slopes` [k] and second derivatives `curvature` [k, k] (zero by default).

    L = Σ_i f_i L_i,   Q = Σ_i f_i Q_i + Σ_ij f_ij L_i L_jᵀ
    """
    first = sum((slope * part.first for slope, part in zip(slopes, parts, strict=True)), start=np.zeros(1))
    second = sum((slope * part.second for slope, part in zip(slopes, parts, strict=True)), start=np.zeros(1))
    if curvature is not None:
        influence = np.stack([part.first for part in parts])
        second = second + influence.T @ curvature @ influence
    return Expansion(value, first, second)


def from_leave_out(value: float, without: Array, second: Array | None = None) -> Expansion:
    """A statistic from its leave-one-out values [n]: L_j = (n − 1) (mean − θ₍₋ⱼ₎). Q is zero where it isn't given."""
    n = len(without)
    return Expansion(value, (n - 1) * (without.mean() - without), np.zeros((n, n)) if second is None else second)


def expand_inner(products: Array) -> Expansion:
    """<E a, E b> from products [n, n], as in `inner_of_means`."""
    return from_leave_out(inner_of_means(products), leave_out_inner(products), _curvature(products))


def expand_trace(products: Array, scale: Array | None = None) -> Expansion:
    """tr Cov(a, b) from products [n, n], as in `trace_covariance`.

    Args:
        scale: for a method that couples the batch, how leaving each unit out scales the gradients of the others, [n]:
            1 where it doesn't. The pseudo-values of such a method hold what a unit does to the mean through the
            normaliser, and the normaliser's own error moves all of them together: by the square of it, tr Σ.
    """
    statistic = from_leave_out(trace_covariance(products), leave_out_trace(products), -_curvature(products))
    if scale is None:
        return statistic
    logarithm = from_leave_out(0.0, np.log(scale)).first
    return statistic._replace(first=statistic.first + 2 * statistic.value * logarithm)


def _curvature(products: Array) -> Array:
    """Q_jk = <a_j − ā, b_k − b̄> + <b_j − b̄, a_k − ā>."""
    both = products + products.T
    rows = both.mean(axis=1)
    return both - rows[:, None] - rows[None, :] + rows.mean()
