"""Where a gradient pulls, beside a target that is known exactly or estimated from the same rollouts.

A pull is a linear combination of gradients, such as a method's minus the same without one of its operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.evidence import EXACT, Evidence
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS
from gradaxis.diagnostics.statistics import (
    Array,
    Estimate,
    Interval,
    Strata,
    cosine_given,
    cosine_of_means,
    cosine_with_known,
    expand_inner,
    freedom,
    gain_given,
    gain_of_means,
    gain_on_known,
    inner_product,
    ratio_interval,
    remove_noise,
    split,
    student,
)
from gradaxis.diagnostics.units import Key

Mix = Mapping[Key, float]
"""A linear combination of gradients: key to factor."""

STUDENT = "95 %, Student over prompts, these prompts taken as given"
JACKKNIFE = "95 %, jackknife over prompts, made wider for skewness"


class Target(NamedTuple):
    """What a pull is compared with: the key of its exact gradient, and that of its estimate from the rollouts."""

    exact: Key
    estimate: Key


class Pull(NamedTuple):
    """Against a target t: `gain` <E g, t> / |t|², `cosine`, and `size` |E g| / |t|; how intervals were made, and n."""

    gain: Estimate
    cosine: Estimate
    size: Estimate
    how: str
    n: int


def pull_of(evidence: Evidence, pull: Mix, target: Target) -> Pull | None:
    """A pull beside a target, free of the bias that noise gives to squares; None where a product is not known.

    With an exact target the noise of its estimate, whose mean is zero, is taken out of the pull as a control variate.
    """
    if not all(evidence.has(key) for key in pull):
        return None
    if evidence.target == EXACT and evidence.has(target.exact):
        noise: Mix = {target.estimate: 1.0, target.exact: -1.0}
        mixes: list[Mix] = [pull, {target.exact: 1.0}]
        if evidence.has_groups(*pull) and evidence.groups is not None:
            mixes += [noise] if evidence.has_groups(target.estimate) else []
            return _given(_blocks(evidence.by_group, mixes), evidence.groups.strata)
        mixes += [noise] if evidence.has(target.estimate) else []
        return _known(_blocks(evidence.of, mixes))
    if not evidence.has(target.estimate):
        return None
    estimate: Mix = {target.estimate: 1.0}
    pairs = ((pull, pull), (pull, estimate), (estimate, estimate))
    own, cross, square = (combine(evidence.of, *pair) for pair in pairs)
    gain, cosine, size = gain_of_means(cross, square), cosine_of_means(own, square, cross), size_of_means(own, square)
    return Pull(gain, cosine, size, JACKKNIFE, len(own))


def combine(of: Callable[[Key, Key], Array], first: Mix, second: Mix) -> Array:
    """Inner products of the units of two combinations."""
    parts = [a * b * of(one, other) for one, a in first.items() for other, b in second.items()]
    return np.sum(parts, axis=0)


def size_of_means(own: Array, target: Array) -> Estimate:
    """|E a| / |E b| from two U-statistics: the root of Fieller's interval for the ratio of squares, zero at the least.

    No estimate where |E b|² is not clear of zero.
    """
    squares = expand_inner(own), expand_inner(target)
    ends = ratio_interval(*squares, floor=0.0)
    if not ends.bounded or squares[1].value <= 0:
        return Estimate(math.nan, Interval(0.0, math.inf, False))
    return Estimate(_root(squares[0].value / squares[1].value), Interval(_root(ends.low), _root(ends.high)))


def _known(blocks: Array) -> Pull:
    """Prompts as units beside a target that is the same for all of them."""
    residual = split(blocks)
    square, own = float(residual.target.mean()), blocks[0, 0]
    value, (low, high, bounded) = inner_product(own / square)
    size = Estimate(_root(value), Interval(_root(low), _root(high), bounded))
    return Pull(gain_on_known(residual), cosine_with_known(residual), size, STUDENT, len(own))


def _given(blocks: Array, strata: Strata) -> Pull:
    """Groups as units, prompts as strata."""
    given = remove_noise(blocks, strata)
    square = stratified_square(given.own, strata)
    low, high, bounded = square.interval
    ends = Interval(_root(low / given.square), _root(high / given.square), bounded)
    size = Estimate(_root(square.value / given.square), ends)
    return Pull(gain_given(given, strata), cosine_given(given, strata), size, BETWEEN_GROUPS, len(strata.of))


def stratified_square(products: Array, strata: Strata) -> Estimate:
    """|E x̄|² from inner products [M, M] of units in strata, free of their noise, with Student's interval.

        x̄ᵀx̄ − Σ_u weight_u |x_u − x̄_p|²

    To first order its standard error is that of 2 <x_u, x̄>; the second order is counted more than once, so that the
    interval is too wide rather than too narrow where noise dominates.
    """
    centred = strata.centre(strata.centre(products).T).T
    value = float(strata.share @ products @ strata.share - strata.weight @ np.diagonal(centred))
    squares = (2 * strata.centre(products @ strata.share)) ** 2
    half = student(freedom(squares, strata) + 1) * math.sqrt(float(strata.weight @ squares))
    return Estimate(value, Interval(value - half, value + half))


def _blocks(of: Callable[[Key, Key], Array], mixes: list[Mix]) -> Array:
    return np.array([[combine(of, first, second) for second in mixes] for first in mixes])


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))
