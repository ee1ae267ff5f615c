"""Comparisons with a known vector for prompts taken as given: the units are groups, the prompts are strata.

Letters as in `strata`; g_u is the gradient of group u, scaled so that x̄ is the gradient of the batch; t_u the known
gradient of its prompt, t̄ the mean over prompts; e_u noise of known mean zero on the same rollouts. Unlike `known`,
nothing here counts the differences between prompts as error.

Intervals know only the spread that was seen. An answer so rare that no group of its prompt holds one adds nothing to
it, so that with few groups and many silent prompts they cover less often than they say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.statistics.intervals import Interval, fieller, student
from gradaxis.diagnostics.statistics.moments import Array
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
    gain = gain_given(given, strata)
    if gain.interval.low <= 0 <= gain.interval.high:
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    parts = _parts(given)
    squares = [_square(part, strata) for part in parts]
    units = min(freedom(_spread(part, strata), strata) for part in parts) + 1
    low, high, bounded = fieller(squares[0], squares[1], _covariance_of_squares(parts, strata), units, floor=0.0)
    if not bounded or squares[1] <= 0:
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    sign = math.copysign(1.0, gain.value)
    ends = sorted(sign / math.sqrt(1 + tangent) for tangent in (low, high))
    return Estimate(sign / math.sqrt(1 + max(squares[0] / squares[1], 0.0)), Interval(ends[0], ends[1]))


def cosine_change_given(before: Given, after: Given, strata: Strata) -> Estimate:
    """cos(E ĝ', t̄) − cos(E ĝ, t̄) of two methods on the same groups, paired. No estimate unless both are resolved.

    To first order the difference is linear in the four squares of `cosine_given`, hence one U-statistic, whose variance
    holds what the two share.
    """
    found = [cosine_given(given, strata) for given in (before, after)]
    if not all(cosine.resolved for cosine in found):
        return Estimate(math.nan, Interval(-math.inf, math.inf, False))
    slope, units = np.zeros_like(before.own), math.inf
    for sign, given, cosine in zip((-1.0, 1.0), (before, after), found, strict=True):
        parts = _parts(given)
        square, tangent = _square(parts[1], strata), 1 / cosine.value**2 - 1
        # d cos = − cos³ dτ / 2,   dτ = (d across² − τ d along²) / along²
        slope += sign * cosine.value**3 / 2 / square * (tangent * parts[1] - parts[0])
        units = min(units, *(freedom(_spread(part, strata), strata) + 1 for part in parts))
    half = student(units) * math.sqrt(float(_covariance_of_squares([slope], strata)[0, 0]))
    value = found[1].value - found[0].value
    return Estimate(value, Interval(value - half, value + half))


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

    Args:
        method: inner products [M, M] of the method's own units; those of their mean are |ĝ|². The interval is Student's
            for the logarithm, to first order.
    """
    gain, size = strata.mean(given.along), float(strata.share @ method @ strata.share)
    if not (gain > 0 and size > 0):
        return Estimate(math.nan, Interval(0.0, 1.0, False))
    value = math.log(gain**2 / given.square / size)
    deviations = 2 * strata.centre(given.along / gain - method @ strata.share / size)
    half = student(freedom(deviations**2, strata) + 1) * math.sqrt(float(strata.weight @ deviations**2))
    return Estimate(
        min(math.exp(value), 1.0), Interval(min(math.exp(value - half), 1.0), min(math.exp(value + half), 1.0))
    )


def _parts(given: Given) -> tuple[Array, Array]:
    """The inner products of the units' parts across the known vector and along it, each [M, M]."""
    forward = given.along / math.sqrt(given.square)
    return given.own - np.outer(forward, forward), np.outer(forward, forward)


def _square(part: Array, strata: Strata) -> float:
    """|E x|² from the products of units, free of their noise."""
    return float(strata.share @ part @ strata.share - strata.weight @ _spread(part, strata))


def _spread(products: Array, strata: Strata) -> Array:
    """<x_u − x̄_p, y_u − ȳ_p> of every unit from the products <x_u, y_v>: [M, M] -> [M]."""
    return np.diagonal(_centred(products, strata))


def _centred(products: Array, strata: Strata) -> Array:
    return strata.centre(strata.centre(products).T).T


def _covariance_of_squares(parts: Sequence[Array], strata: Strata) -> Array:
    """Covariance of the U-statistics |E x|² in the metrics of `parts`, each [M, M] products of the same units: [k, k].

        4 x̄ᵀ A S B x̄ − 2 tr(A S B S),   S the covariance of x̄

    for the metrics A and B: the first term alone would count the second order three times. A variance is never below
    2 tr(A S A S), its value where the mean is zero.
    """
    first = np.stack([strata.centre(part @ strata.share) for part in parts])
    second = np.stack([_centred(part, strata) for part in parts])
    outer = np.outer(strata.weight, strata.weight)
    order_two = 2 * np.einsum("auv,buv,uv->ab", second, second, outer)
    found = 4 * (first * strata.weight) @ first.T - order_two
    np.fill_diagonal(found, np.maximum(np.diagonal(found), np.diagonal(order_two)))
    return found
