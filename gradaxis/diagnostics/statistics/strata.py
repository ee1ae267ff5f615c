"""Units in strata: the groups of every prompt, where the prompts are taken as given.

Letters: M units (groups), P strata (prompts), m_p units in stratum p. Units of one stratum are independent and have one
distribution; strata differ as they like. What is estimated is the mean over strata of each stratum's own mean, so how
strata differ is no error:

    x̄ = 1/P Σ_p x̄_p          Var(x̄) = 1/P² Σ_p s_p² / m_p

with s_p² the variance between the units of stratum p (stratified sampling; Cochran, 1977, chapter 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.statistics.intervals import Interval, fieller, student
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.statistics.summaries import Estimate


@dataclass(frozen=True)
class Strata:
    """`of` [M] is the number of each unit's stratum, counted from 0 without gaps; each has two units or more."""

    of: NDArray[np.int64]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """m_p, [P]."""
        return np.bincount(self.of)

    @cached_property
    def share(self) -> Array:
        """1 / (P m_p): the weight of each unit in x̄, [M]."""
        return 1.0 / (len(self.counts) * self.counts[self.of])

    @cached_property
    def weight(self) -> Array:
        """1 / (P² m_p (m_p − 1)): Var(x̄) is the sum over units of weight times (x_u − x̄_p)², [M]."""
        size = self.counts[self.of]
        return 1.0 / (len(self.counts) ** 2 * size * (size - 1))

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Units sorted by stratum, [M]."""
        return np.argsort(self.of, kind="stable")

    @cached_property
    def _sorted(self) -> bool:
        return bool(np.all(np.diff(self.of) >= 0))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Where each stratum begins in that order, [P]."""
        return np.cumsum(self.counts) - self.counts

    def centre(self, values: Array) -> Array:
        """Values less their stratum's mean, along the last axis: [..., M] -> [..., M]."""
        return values - self._means(values)[..., self.of]

    def means_within(self, products: Array) -> Array:
        """The mean of each row over the units of its own stratum: [M, M] -> [M]."""
        return self._means(products)[np.arange(len(self.of)), self.of]

    def _means(self, values: Array) -> Array:
        """[..., M] -> [..., P]."""
        sorted_values = values if self._sorted else values[..., self._order]
        return np.add.reduceat(sorted_values, self._starts, axis=-1) / self.counts

    def mean(self, values: Array) -> float:
        """x̄ of values [M]."""
        return float(values @ self.share)


def freedom(squares: Array, strata: Strata) -> float:
    """Degrees of freedom of an estimated Var(x̄), after Satterthwaite (1946).

        ( Σ_p a_p )² / Σ_p a_p² / (m_p − 1),   a_p the stratum's part of Var(x̄)

    Between the smallest m_p − 1, when one stratum has all the noise, and Σ_p (m_p − 1), when all share it.

    Args:
        squares: squared deviations from the stratum's mean, [M].
    """
    parts = np.bincount(strata.of, strata.weight * np.maximum(squares, 0.0))  # a centred zero may be rounded below 0
    if not parts.sum() > 0:
        return float((strata.counts - 1).sum())
    return float(parts.sum() ** 2 / (parts**2 / (strata.counts - 1)).sum())


def stratified_mean(values: Array, strata: Strata) -> Estimate:
    """x̄ of unit values [M] with Student's interval."""
    squares = strata.centre(values) ** 2
    half = student(freedom(squares, strata) + 1) * math.sqrt(float(strata.weight @ squares))
    mean = strata.mean(values)
    return Estimate(mean, Interval(mean - half, mean + half))


def stratified_ratio(numerator: Array, denominator: Array, strata: Strata) -> Estimate:
    """x̄ / ȳ of paired unit values [M] with Fieller's interval. NaN where ȳ is not clear of zero."""
    deviations = strata.centre(np.stack([numerator, denominator]))
    covariance = (deviations * strata.weight) @ deviations.T
    units = min(freedom(square, strata) for square in deviations**2) + 1
    top, bottom = strata.mean(numerator), strata.mean(denominator)
    interval = fieller(top, bottom, covariance, units)
    return Estimate(top / bottom if interval.bounded else math.nan, interval)
