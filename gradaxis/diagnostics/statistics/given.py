"""Comparisons with a known vector for prompts taken as given: the units are groups, the prompts are strata.

Letters as in `strata`; g_u is the gradient of group u, scaled so that x̄ is the gradient of the batch; t_u the known
gradient of its prompt, t̄ the mean over prompts; e_u noise of known mean zero on the same rollouts. Unlike `known`,
nothing here counts the differences between prompts as error.

Intervals know only the spread that was seen. An answer so rare that no group of its prompt holds one adds nothing to
it, so that with few groups and many silent prompts they cover less often than they say.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.statistics.expansions import Expansion
from gradaxis.diagnostics.statistics.intervals import Interval, student
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.statistics.pivots import ratio_interval, skewed_interval
from gradaxis.diagnostics.statistics.strata import Strata, freedom, stratified_mean
from gradaxis.diagnostics.statistics.summaries import Estimate


class Given(NamedTuple):
    """A method's units less a multiple of the noise, d_u = g_u − b · e_u, so that E d̄ = E ḡ.

    `own` [M, M] are the inner products of d with itself, `along` [M] those with t̄, `square` is |t̄|², and `combination`
    [K] the factors of g, t and e in d.
    """

    own: Array
    along: Array
    square: float
    combination: Array


def remove_noise(blocks: Array, strata: Strata) -> Given:
    """The units of a method with as much of the known noise taken out as makes Var(d̄) smallest.

    Args:
        blocks: inner products [K, K, M, M] of the method, the known vector t and (K = 3) the noise e. One factor b for
            all units is fitted to deviations within strata; what the fit does to the mean is of second order.
    """
    combination = np.eye(len(blocks))[0]
    if len(blocks) == 3:
        with_noise, noise = (float(strata.weight @ _spread(blocks[row, 2], strata)) for row in (0, 2))
        combination[2] = -with_noise / noise if noise > 0 else 0.0
    own = np.einsum("a,abuv,b->uv", combination, blocks, combination)
    along = np.einsum("a,auv->uv", combination, blocks[:, 1]) @ strata.share
    return Given(own, along, float(strata.share @ blocks[1, 1] @ strata.share), combination)


def gain_given(given: Given, strata: Strata) -> Estimate:
    """<E ĝ, t̄> / |t̄|² with Student's interval between the groups of a prompt."""
    return stratified_mean(given.along / given.square, strata)


def cosine_given(given: Given, strata: Strata) -> Estimate:
    """cos(E ĝ, t̄) = ± 1 / √(1 + τ), τ = |E ĝ across t̄|² / |E ĝ along t̄|². No estimate without a gain clear of zero.

    Both squares are U-statistics, free of the noise, and the interval of τ is Fieller's.
    """
    return _cosine(given, _expand(given, strata), strata)


def cosine_change_given(before: Given, after: Given, strata: Strata) -> Estimate:
    """cos(E ĝ', t̄) − cos(E ĝ, t̄) of two methods on the same groups, paired. No estimate unless both are resolved.

    The difference is a function of the four squares of `cosine_given`, expanded in the groups, which holds what the two
    methods share.
    """
    expanded = [_expand(given, strata) for given in (before, after)]
    pairs = zip((before, after), expanded, strict=True)
    found = [_cosine(given, squares, strata) for given, squares in pairs]
    totals = [squares.across + squares.along for squares in expanded]
    if not all(cosine.resolved and total.value > 0 for cosine, total in zip(found, totals, strict=True)):
        return Estimate(math.nan, Interval(-math.inf, math.inf, False))
    cosines = [
        squares.along.power(0.5) * total.power(-0.5) * math.copysign(1.0, cosine.value)
        for squares, total, cosine in zip(expanded, totals, found, strict=True)
    ]
    change = (cosines[1] - cosines[0])._replace(value=found[1].value - found[0].value)
    return Estimate(change.value, skewed_interval(change, min(squares.units for squares in expanded)))


def realised_cosine_given(first: Array, second: Array, cross: Array, strata: Strata) -> Estimate:
    """The cosine of two batch gradients as they came out, with Student's interval between groups, to first order.

    Args:
        first, second, cross: inner products [M, M] of the units of one with themselves, of the other, and of both.
    """
    share = strata.share
    squares = float(share @ first @ share), float(share @ second @ share)
    if not min(squares) > 0:
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    value = float(share @ cross @ share) / math.sqrt(squares[0] * squares[1])
    inner = (cross @ share + share @ cross) / math.sqrt(squares[0] * squares[1])
    deviations = strata.centre(inner - value * (first @ share / squares[0] + second @ share / squares[1]))
    half = student(freedom(deviations**2, strata) + 1) * math.sqrt(float(strata.weight @ deviations**2))
    return Estimate(value, Interval(max(value - half, -1.0), min(value + half, 1.0)))


def efficiency_given(given: Given, method: Array, strata: Strata) -> Estimate:
    """<E ĝ, t̄>² / (|t̄|² E|ĝ|²): the share of the best first-order improvement on these prompts, for one such batch.

    Fieller's interval for its root, squared. A gain that is not above zero makes the estimate 0.

    Args:
        method: inner products [M, M] of the method's own units; those of their mean are |ĝ|².
    """
    size = float(strata.share @ method @ strata.share)
    if not size > 0:
        return Estimate(math.nan, Interval(0.0, 1.0, False))
    length = (_expand_square(method, strata)._replace(value=size) * given.square).power(0.5)
    deviations = _scaled(strata.centre(given.along), strata)
    gain = Expansion(strata.mean(given.along), deviations, np.zeros_like(method))
    units = min(freedom(part**2 / strata.weight, strata) for part in (deviations, length.first)) + 1
    low, high, bounded = ratio_interval(gain, length, units=units)
    if not bounded:
        return Estimate(math.nan, Interval(0.0, 1.0, False))
    low, high, value = (min(max(end, 0.0), 1.0) ** 2 for end in (low, high, gain.value / length.value))
    return Estimate(value, Interval(low, high))


class _Squares(NamedTuple):
    """|E x|² of the units' parts across and along the known vector, and degrees of freedom and one."""

    across: Expansion
    along: Expansion
    units: float


def _expand(given: Given, strata: Strata) -> _Squares:
    parts = _parts(given)
    across, along = (_expand_square(part, strata) for part in parts)
    return _Squares(across, along, min(freedom(_spread(part, strata), strata) for part in parts) + 1)


def _cosine(given: Given, squares: _Squares, strata: Strata) -> Estimate:
    gain = gain_given(given, strata)
    if gain.interval.low <= 0 <= gain.interval.high:
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    across, along, units = squares
    low, high, bounded = ratio_interval(across, along, floor=0.0, units=units)
    if not bounded or along.value <= 0:
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    sign = math.copysign(1.0, gain.value)
    ends = sorted(sign / math.sqrt(1 + tangent) for tangent in (low, high))
    return Estimate(sign / math.sqrt(1 + max(across.value / along.value, 0.0)), Interval(ends[0], ends[1]))


def _parts(given: Given) -> tuple[Array, Array]:
    """The inner products of the units' parts across the known vector and along it, each [M, M]."""
    forward = given.along / math.sqrt(given.square)
    return given.own - np.outer(forward, forward), np.outer(forward, forward)


def _square(part: Array, strata: Strata) -> float:
    """|E x|² from the products of units, free of their noise."""
    return float(strata.share @ part @ strata.share - strata.weight @ _spread(part, strata))


def _spread(products: Array, strata: Strata) -> Array:
    """<x_u − x̄_p, y_u − ȳ_p> of every unit from the products <x_u, y_v>: [M, M] -> [M]."""
    rows, columns = strata.means_within(products), strata.means_within(products.T)
    both = np.bincount(strata.of, rows) / strata.counts
    return np.diagonal(products) - rows - columns + both[strata.of]


def _centred(products: Array, strata: Strata) -> Array:
    return strata.centre(strata.centre(products).T).T


def _scaled(deviations: Array, strata: Strata) -> Array:
    """Deviations of units [M] as the influences of M units of one distribution whose mean has the variance of x̄."""
    size = len(deviations)
    return math.sqrt(size * (size - 1)) * np.sqrt(strata.weight) * deviations


def _expand_square(part: Array, strata: Strata) -> Expansion:
    """|E x|² in the metric of `part`, products [M, M] of the units.

    Var = 4 x̄ᵀ A S A x̄, S the covariance of x̄, counts the part of second order twice, as the jackknife does.
    """
    first = 2 * _scaled(strata.centre(part @ strata.share), strata)
    root = len(part) * np.sqrt(strata.weight)
    return Expansion(_square(part, strata), first, 2 * _centred(part, strata) * np.outer(root, root))
