"""How much of the best first-order improvement an update gets, from four moments of unit gradients.

    eff = ⟨E ĝ, t⟩² / ( |t|² ( |E ĝ|² + c · tr Cov ĝ ) )  =  cos²(E ĝ, t) · 1 / (1 + c · tr Cov ĝ / |E ĝ|²)

for an update ĝ, the target t, and c how many times its noise (batches of B/c the size have c times as much). A step of
the best length along ĝ gains eff times what one along t gains, so that no learning rate is in it.

Letters: n units, H the inner products [n, n] of a method's units with themselves.
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
    fieller,
    inner_of_means,
    jackknife_covariance,
    leave_out_inner,
    leave_out_trace,
    trace_covariance,
)
from gradaxis.diagnostics.unit_spread import effective_units, half_width

ALONG, TARGET, SQUARE, NOISE = range(4)
UNKNOWN = Interval(0.0, 1.0, False)
FEWEST_IN_STRATUM = 4


class Moments(NamedTuple):
    """⟨E ĝ, t⟩, |t|², |E ĝ|² and tr Cov ĝ of one update, [4], and without each unit in turn, [n, 4].

    `strata` are those of the units, or None; then `without` are values whose jackknife covariance is the stratified
    one. `known` says that t is a known vector and no estimate.
    """

    values: Array
    without: Array
    strata: Strata | None
    known: bool

    def with_noise(self, factor: float, without: Array | None = None) -> Moments:
        """The moments of an update with so many times the noise; `without` [n] is the factor without each unit."""
        scale, left = np.ones(4), np.ones_like(self.without)
        scale[NOISE] = factor
        left[:, NOISE] = factor if without is None else without
        return self._replace(values=self.values * scale, without=self.without * left)


def moments_of_means(own: Array, cross: Array, target: Array) -> Moments:
    """For an update from all n units, with the target the mean of n vectors that are draws as well.

    Args:
        own: H. cross: ⟨g_j, t_k⟩. target: ⟨t_j, t_k⟩; each [n, n]. No unit is multiplied with itself but for the noise.
    """
    n = len(own)
    values = [inner_of_means(cross), inner_of_means(target), inner_of_means(own), trace_covariance(own) / n]
    left = [leave_out_inner(cross), leave_out_inner(target), leave_out_inner(own), leave_out_trace(own) / n]
    return Moments(np.array(values), np.stack(left, axis=1), strata=None, known=False)


def moments_of_pairs(own: Array, cross: Array, target: Array, squares: Array) -> Moments:
    """For an update from one prompt with one group, where every prompt has several: the noise of one of its groups.

    Args:
        own, cross, target: as for `moments_of_means`, with prompts as units.
        squares: mean of |g|² over the groups of each prompt, [n].
    """
    n, found = len(own), moments_of_means(own, cross, target)
    found.values[NOISE] = squares.mean() - found.values[SQUARE]
    found.without[:, NOISE] = (squares.sum() - squares) / (n - 1) - found.without[:, SQUARE]
    return found


def moments_on_known(residual: Residual, own: Array, cross: Array) -> Moments:
    """For an update from n prompts that are taken as given, each with a known t_j and one group.

    Nothing tells noise from what prompts differ by, so the spread of g_j − b · t_j stands in for the noise. What is
    known to be noise is left out of E ĝ = b · t̄ + E d.

    Args:
        residual: b, t and d of the method. own: H. cross: ⟨g_j, t_k⟩.
    """
    n, target, known = len(own), float(residual.target.mean()), residual.known
    values = component(residual, residual.along.mean(axis=1), target)
    rest = own - known * (cross + cross.T) + known**2 * residual.target
    along, along_left = float(values.mean()), (values.sum() - values) / (n - 1)
    # |b t̄ + E d|² = 2 b ⟨E g, t̄⟩ − b² |t̄|² + |E d|²
    square = 2 * known * along - known**2 * target + inner_of_means(residual.own)
    square_left = 2 * known * along_left - known**2 * target + leave_out_inner(residual.own)
    left = [along_left, np.full(n, target), square_left, leave_out_trace(rest) / n]
    found = np.array([along, target, square, trace_covariance(rest) / n])
    return Moments(found, np.stack(left, axis=1), strata=None, known=True)


def moments_given(given: Given, own: Array, strata: Strata) -> Moments:
    """For an update from all groups of prompts that are taken as given.

    Spread is between the groups of a prompt: values with real groups left out would count how prompts differ too, so
    `without` are made from first-order influences.

    Args:
        given: the method's groups less known noise. own: H of the groups themselves.
    """
    share, count = strata.share, len(strata.of)
    parts = [given.own, own]
    spreads = [strata.weight * np.diagonal(strata.centre(strata.centre(part).T)) for part in parts]
    inner = given.own @ share
    square = float(share @ inner - spreads[0].sum())
    values = np.array([strata.mean(given.along), given.square, square, float(spreads[1].sum())])
    linear = strata.centre(np.stack([given.along, np.zeros(count), 2 * inner, np.zeros(count)])) * np.sqrt(
        strata.weight
    )
    quadratic = [_of_spread(part, strata) for part in spreads]
    change = linear + np.stack([np.zeros(count), np.zeros(count), -quadratic[0], quadratic[1]])
    return Moments(values, values - change.T * math.sqrt(count / (count - 1)), strata, known=True)


def _of_spread(parts: Array, strata: Strata) -> Array:
    """What each unit adds to the uncertainty of Σ parts, [M], whose squares add up to its variance.

    With `FEWEST_IN_STRATUM` units in each stratum or more it is read off the units of a stratum. Two units lie equally
    far from their mean, so that fewer than that tell nothing of it; then it is read off the strata, and holds also what
    these differ by.
    """
    if int(strata.counts.min()) >= FEWEST_IN_STRATUM:
        return strata.centre(parts / strata.share) * np.sqrt(strata.weight)
    sums, count = np.bincount(strata.of, parts), len(strata.counts)
    spread = (sums - sums.mean()) * math.sqrt(count / max(count - 1, 1))
    return (spread / np.sqrt(strata.counts))[strata.of]


def roots(moments: Moments) -> tuple[float, Array]:
    """± √eff · |t|, negative where the update leads away from the target, and without each unit [n]; NaN without size.

    Methods with one target are compared by it: it is defined where a logarithm is not, and grows with the efficiency.
    """
    rows = np.vstack([moments.values, moments.without])
    size = rows[:, SQUARE] + rows[:, NOISE]
    found = rows[:, ALONG] / np.sqrt(np.where(size > 0, size, np.nan))
    return float(found[0]), found[1:]


def efficiency_of(moments: Moments) -> Estimate:
    """The efficiency; 0 where the update leads away from the target.

    Beside a known target the interval is made for ± √eff, a cosine, on Fisher's scale artanh √eff, where its spread
    depends little on its value. Beside an estimate of the target it holds all products of what the intervals of the
    two factors hold.
    """
    if not moments.known:
        factors = direction_of(moments), steadiness_of(moments)
        low, high = (math.prod(getattr(factor.interval, end) for factor in factors) for end in ("low", "high"))
        resolved = all(factor.resolved for factor in factors)
        return Estimate(math.prod(factor.value for factor in factors), Interval(low, high, resolved))
    value, left = roots(moments)
    if not (math.isfinite(value) and np.all(np.isfinite(left)) and moments.values[TARGET] > 0):
        return Estimate(math.nan, UNKNOWN)
    scale = math.sqrt(moments.values[TARGET])
    half, root = half_width(value, left, moments.strata) / scale, value / scale
    if not abs(root) < 1:  # by chance; no scale stretches that far
        return Estimate(_square(root), Interval(_square(root - half), 1.0 if root > 0 else 0.0))
    middle, half = math.atanh(root), half / (1 - root**2)
    return Estimate(_square(root), Interval(_square(math.tanh(middle - half)), _square(math.tanh(middle + half))))


def direction_of(moments: Moments) -> Estimate:
    """cos²(E ĝ, t), the efficiency without noise; 0 where the update leads away from the target."""
    rows = np.vstack([moments.values, moments.without])
    pairs = np.stack([rows[:, ALONG] * np.abs(rows[:, ALONG]), rows[:, TARGET] * rows[:, SQUARE]], axis=1)
    units = min(effective_units(value, left, moments.strata) for value, left in zip(pairs[0], pairs[1:].T, strict=True))
    ends = fieller(float(pairs[0, 0]), float(pairs[0, 1]), jackknife_covariance(pairs[1:]), units)
    low, high = (min(max(end, 0.0), 1.0) for end in ends[:2])
    if not ends.bounded or pairs[0, 1] <= 0:
        return Estimate(math.nan, UNKNOWN)
    return Estimate(float(min(max(pairs[0, 0] / pairs[0, 1], 0.0), 1.0)), Interval(low, high))


def steadiness_of(moments: Moments) -> Estimate:
    """1 / (1 + tr Cov ĝ / |E ĝ|²), the efficiency that noise leaves to the right direction; Fieller's interval."""
    noise, square = moments.values[NOISE], moments.values[SQUARE]
    covariance = jackknife_covariance(moments.without[:, [NOISE, SQUARE]])
    columns = (NOISE, SQUARE)
    units = min(effective_units(moments.values[c], moments.without[:, c], moments.strata) for c in columns)
    low, high, bounded = fieller(noise, square, covariance, units, floor=0.0)
    ends = Interval(1 / (1 + high), 1 / (1 + low), bounded and square > 0)
    return Estimate(1 / (1 + max(noise / square, 0.0)), ends) if ends.bounded else Estimate(math.nan, UNKNOWN)


def _square(root: float) -> float:
    return min(max(root, 0.0), 1.0) ** 2
