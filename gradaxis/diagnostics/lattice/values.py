"""What is attributed to slots, for every gradient at once: log gain, orthogonal bias², and log tr Σ.

Each is a number with its spread over units, so that a sum of them with any weights has an interval of its own, in which
what they share cancels.

Letters: C gradients, n units, t the target of bias, e the noise of the unbiased reference beside a known target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradaxis.diagnostics.lattice.unit_products import ALL, STRATUM, UNIT, Stack, inner, pairs
from gradaxis.diagnostics.lattice.unit_weights import Index
from gradaxis.diagnostics.statistics import Estimate, freedom, jackknife_interval, skewed_interval, stratified_mean
from gradaxis.diagnostics.statistics.expansions import from_leave_out
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.statistics.pairs import Pairs
from gradaxis.diagnostics.statistics.strata import Strata

HIDDEN = "noise hides its gain along the target"
AGAINST = "it goes against the target: its gain has no logarithm"
ZERO = "its gradient is zero on these rollouts"
CANCELS = 1e-12
"""A weight that rounding leaves where weights cancel is smaller."""


@dataclass(frozen=True)
class Values:
    """One number of each of C gradients.

    `estimate` [C], and `spread` [C, n]: the number without each unit in turn or, where `strata` say which prompt each
    unit is of, unit values whose stratified mean it is. `unresolved` says of some gradients why these units leave them
    without, `missing` of others why they were not measured.
    """

    estimate: Array
    spread: Array
    unresolved: Mapping[int, str]
    strata: Strata | None = None
    missing: Mapping[int, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many units there are."""
        return self.spread.shape[1]

    def combine(self, numbers: Sequence[int], weights: Array) -> tuple[Estimate, float]:
        """The sum of the gradients' numbers with these weights, its 95 % interval, and the p-value of its being 0."""
        places, weights = _net(numbers, weights)
        value, spread = float(weights @ self.estimate[places]), weights @ self.spread[places]
        if self.strata is None:
            statistic = from_leave_out(value, spread)
            units = _effective_units(statistic.first)
            estimate = Estimate(value, skewed_interval(statistic, units))
            return estimate, estimate.p_value(units)
        estimate = stratified_mean(spread, self.strata)
        return estimate, estimate.p_value(freedom(self.strata.centre(spread) ** 2, self.strata) + 1)

    def changes(self, numbers: Sequence[int], weights: Array) -> bool:
        """Whether any gradient keeps a weight once those of equal ones are added up."""
        return len(_net(numbers, weights)[0]) > 0

    def absent(self, numbers: Sequence[int]) -> str:
        """Why one of these gradients was not measured, or the empty string."""
        return next((self.missing[number] for number in numbers if number in self.missing), "")

    def problem(self, numbers: Sequence[int]) -> str:
        """Why one of these gradients has no number, or the empty string."""
        return next((self.unresolved[number] for number in numbers if number in self.unresolved), "")


def bias_given(
    stack: Stack, numbers: Sequence[int], target: Stack, noise: Stack | None, strata: Strata
) -> tuple[Values, Values]:
    """Log gain and orthogonal bias² against known gradients of these very prompts, with groups as units.

        gain = <ĝ, t̄> / |t̄|²          bias² = |E ĝ across t̄|² / |E ĝ along t̄|²

    As `statistics.given`, from sums: the reference's noise is taken out as far as that makes Var(ĝ) smallest, and
    squares are free of noise. The spread is that of first order, in the mean as it was found; where the mean is zero
    that counts the noise of second order twice, and never too little.

    Args:
        numbers: of the stack's gradients, in terms of which the values are numbered.
    """
    size = len(strata.of)
    square = float(strata.mean(inner(target, 0, target, 0, ALL)))
    gains, bends, unresolved = *(np.full((len(numbers), size + 1), np.nan) for _ in range(2)), {}

    def variance(first: Stack, i: int, second: Stack, j: int) -> float:
        return float(strata.weight @ (inner(first, i, second, j, UNIT) - inner(first, i, second, j, STRATUM)))

    noise_variance = variance(noise, 0, noise, 0) if noise is not None else 0.0
    for place, number in enumerate(numbers):
        own, along = inner(stack, number, stack, number, ALL), inner(stack, number, target, 0, ALL)
        spread = variance(stack, number, stack, number)
        if not own.any():
            unresolved[place] = ZERO
            continue
        if noise is not None and noise_variance > 0:
            shared = variance(stack, number, noise, 0)
            b = shared / noise_variance
            both = inner(stack, number, noise, 0, ALL) + inner(noise, 0, stack, number, ALL)
            own = own - b * both + b**2 * inner(noise, 0, noise, 0, ALL)
            along = along - b * inner(noise, 0, target, 0, ALL)
            spread = spread - 2 * b * shared + b**2 * noise_variance
        gain = stratified_mean(along / square, strata)
        if gain.interval.low <= 0:
            unresolved[place] = AGAINST if gain.interval.high < 0 else HIDDEN
            continue
        forward = along / math.sqrt(square)
        ahead = strata.mean(forward)
        ahead_noise = float(strata.weight @ strata.centre(forward) ** 2)
        ahead_square = ahead**2 - ahead_noise
        if ahead_square <= 0:
            unresolved[place] = HIDDEN
            continue
        across = strata.mean(own) - ahead**2 - (spread - ahead_noise)
        bend = across / ahead_square
        slope = 2 * (own - forward * ahead - bend * forward * ahead) / ahead_square
        gains[place] = math.log(gain.value), *(math.log(gain.value) + strata.centre(along / square) / gain.value)
        bends[place] = bend, *(bend + strata.centre(slope))
    return tuple(Values(found[:, 0], found[:, 1:], unresolved, strata) for found in (gains, bends))  # type: ignore[return-value]


def bias_drawn(stack: Stack, numbers: Sequence[int], target: Stack, noise: Stack | None) -> tuple[Values, Values]:
    """Log gain and orthogonal bias² with prompts as draws, from U-statistics ⟨·,·⟩ over pairs of prompts.

        gain = ⟨g, t⟩ / ⟨t, t⟩          bias² = ⟨g, g⟩ ⟨t, t⟩ / ⟨g, t⟩² − 1

    The second is |E g − c E t|² / |c E t|² with c the gain. A unit is left out in turn. Where the target is known, the
    reference's noise is taken out of g as far as that makes its variance smallest.
    """
    goal = pairs(target, 0, target, 0)
    n = goal.n
    gains, bends, unresolved = *(np.full((len(numbers), n + 1), np.nan) for _ in range(2)), {}
    noise_pairs = pairs(noise, 0, noise, 0) if noise is not None else None
    for place, number in enumerate(numbers):
        own, cross = pairs(stack, number, stack, number), pairs(stack, number, target, 0)
        if not own.diagonal.any():
            unresolved[place] = ZERO
            continue
        if noise is not None and noise_pairs is not None and noise_pairs.trace_covariance() > 0:
            shared = pairs(stack, number, noise, 0)
            b = shared.trace_covariance() / noise_pairs.trace_covariance()
            own = _sum((1.0, own), (-b, shared), (-b, shared.transposed()), (b**2, noise_pairs))
            cross = _sum((1.0, cross), (-b, pairs(noise, 0, target, 0)))
        along, length = _with_leave_outs(cross), _with_leave_outs(goal)
        ends = [jackknife_interval(one[0], one[1:]) for one in (along, length)]
        if ends[1].low <= 0 or ends[0].low <= 0 or min(along.min(), length.min()) <= 0:
            unresolved[place] = AGAINST if ends[0].high < 0 else HIDDEN
            continue
        gains[place] = np.log(along / length)
        bends[place] = _with_leave_outs(own) * length / along**2 - 1
    return tuple(Values(found[:, 0], found[:, 1:], unresolved) for found in (gains, bends))  # type: ignore[return-value]


def log_noise(stack: Stack, numbers: Sequence[int]) -> Values:
    """log tr Σ of a prompt's gradient, with each prompt left out in turn."""
    found, unresolved = np.full((len(numbers), len(stack.layout.share) + 1), np.nan), {}
    for place, number in enumerate(numbers):
        products = pairs(stack, number, stack, number)
        traces = np.array([products.trace_covariance(), *products.leave_out_trace()])
        if np.all(traces > 0):
            found[place] = np.log(traces)
        else:
            unresolved[place] = "it has no noise on these rollouts"
    return Values(found[:, 0], found[:, 1:], unresolved)


def _effective_units(influence: Array) -> float:
    """As many normal units as would know their own variance as well as these do; at least 2 and at most n.

    The mean of n squares with kurtosis κ has a relative variance of (κ − 1) / n, that of ν normal ones 2 / ν. A few
    prompts that make most of the noise would otherwise give intervals that are too narrow.
    """
    n, square = len(influence), float((influence**2).sum())
    kurtosis = n * float((influence**4).sum()) / square**2 if square > 0 else 1.0
    return float(np.clip(2 * n / (kurtosis - 1) + 1, 2.0, n)) if kurtosis > 1 else float(n)


def _net(numbers: Sequence[int], weights: Array) -> tuple[Index, Array]:
    """The gradients that keep a weight once those of equal ones are added up, and the weights."""
    places, inverse = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
    sums = np.bincount(inverse, weights, len(places)).astype(np.float64)
    kept = np.abs(sums) > CANCELS
    return places[kept], sums[kept]


def _with_leave_outs(products: Pairs) -> Array:
    return np.array([products.inner_of_means(), *products.leave_out_inner()])


def _sum(*terms: tuple[float, Pairs]) -> Pairs:
    diagonal = sum((weight * one.diagonal for weight, one in terms), start=np.zeros(terms[0][1].n))
    rows = sum((weight * one.rows for weight, one in terms), start=np.zeros_like(diagonal))
    return Pairs(diagonal, rows, sum((weight * one.columns for weight, one in terms), start=np.zeros_like(diagonal)))
