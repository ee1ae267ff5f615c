"""Comparisons with a vector that is known exactly on every unit, such as each prompt's own ∇J.

Letters: n units (prompts), g_j a method's unit gradient, t_j the known one, t̄ its mean, e_j noise of known mean zero
on the same rollouts (the unbiased reference minus t_j). The units are taken as they are: what is estimated is the mean
over these n prompts of E[g_j], so how prompts differ among themselves is no error. Intervals use the spread of
residuals over units, which holds differences between prompts beside noise, and is too wide rather than too narrow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.statistics.intervals import Interval, fieller, jackknife_interval, mean_interval
from gradaxis.diagnostics.statistics.moments import Array, inner_of_means, leave_out_inner
from gradaxis.diagnostics.statistics.summaries import Estimate


class Residual(NamedTuple):
    """g_j split into what is known of it and a residual: E g = known · t̄ + E d, d_j = g_j − noise · e_j − known · t_j.

    `own` [n, n] are the inner products of d with itself, `along` [n, n] those of d_j with t_k, `target` [n, n] of t;
    `combination` [K] are the factors of g, t and e in d.
    """

    known: float
    own: Array
    along: Array
    target: Array
    combination: Array


def split(blocks: Array) -> Residual:
    """The residual of a method after least squares on the known vector and, where there is one, on the noise.

    Args:
        blocks: inner products [K, K, n, n] of the method, the known vector t and (K = 3) the noise e, a control
            variate: since E e = 0, taking a multiple of it away changes no mean, and takes shared noise away.
    """
    size = len(blocks)
    squares = np.trace(blocks, axis1=2, axis2=3)
    scale = np.sqrt(np.maximum(np.diag(squares)[1:], np.finfo(float).tiny))
    system = squares[1:, 1:] / np.outer(scale, scale)
    share = np.linalg.lstsq(system, squares[1:, 0] / scale, rcond=1e-10)[0] / scale
    combination = np.concatenate([[1.0], -share])[:size]
    own = np.einsum("a,abjk,b->jk", combination, blocks, combination)
    along = np.einsum("a,ajk->jk", combination, blocks[:, 1])
    return Residual(float(share[0]), own, along, blocks[1, 1], combination)


def component(residual: Residual, along: Array, known: float) -> Array:
    """Unit values whose mean estimates <E g, v> for a fixed vector v, shape [n].

    Args:
        along: <d_j, v> [n]. known: <t̄, v>.
    """
    return residual.known * known + along


def gain_on_known(residual: Residual) -> Estimate:
    """<E g, t̄> / |t̄|² with Student's interval over units."""
    square = float(residual.target.mean())
    values = component(residual, residual.along.mean(axis=1) / square, 1.0)
    return Estimate(float(values.mean()), mean_interval(values))


def cosine_with_known(residual: Residual) -> Estimate:
    """cos(E g, t̄). No estimate where the gain is not clear of zero.

    The part of E g across t̄ is that of E d, since t̄ itself has none. Its square lies between two estimates: the
    U-statistic leaves out each unit with itself, and is too small by what the units' means differ; the plain square
    of the mean is too large by the noise. The interval runs from the lower end of the one to the upper end of the
    other, and the estimate is the first.
    """
    square = float(residual.target.mean())
    gain = gain_on_known(residual)
    low, high, bounded = gain.interval
    if not bounded or low <= 0 <= high:
        return Estimate(math.nan, Interval(-1.0, 1.0, False))
    sign = math.copysign(1.0, gain.value)
    near, far = sorted((abs(low), abs(high)))
    forward = residual.along.mean(axis=1) / square
    across = residual.own / square - np.outer(forward, forward)
    n = len(across)
    plain = float(across.mean())
    rows = across.sum(0) + across.sum(1) - np.diagonal(across)
    without = (across.sum() - rows) / (n - 1) ** 2
    least = inner_of_means(across)
    lower = max(jackknife_interval(least, leave_out_inner(across)).low, 0.0) / far**2
    upper = max(jackknife_interval(plain, without).high, 0.0) / near**2
    ends = sorted(sign / math.sqrt(1 + tangent) for tangent in (lower, upper))
    value = sign / math.sqrt(1 + max(least, 0.0) / gain.value**2)
    return Estimate(value, Interval(ends[0], ends[1]))


def efficiency_on_known(residual: Residual, method: Array) -> Estimate:
    """<E ĝ, t̄>² / (|t̄|² E|ĝ|²): the share of the best first-order improvement on these units, for one such batch.

    Args:
        method: inner products [n, n] of the method with itself; their mean is |ĝ|², whose expectation is E|ĝ|².
    """
    square = float(residual.target.mean())
    values = component(residual, residual.along.mean(axis=1) / square, 1.0)
    n = len(values)
    rows = method.sum(0) + method.sum(1) - np.diagonal(method)
    without_size, without_gain = (method.sum() - rows) / (n - 1) ** 2, (values.sum() - values) / (n - 1)
    size, gain = float(method.mean()), float(values.mean())
    if not (size > 0 and gain > 0 and np.all(without_size > 0) and np.all(without_gain > 0)):
        return Estimate(math.nan, Interval(0.0, 1.0, False))
    value = math.log(gain**2 * square / size)
    ends = jackknife_interval(value, np.log(without_gain**2 * square / without_size))
    return Estimate(
        min(math.exp(value), 1.0), Interval(math.exp(ends.low), min(math.exp(ends.high), 1.0), ends.bounded)
    )


def ratio_of_means(numerator: Array, denominator: Array) -> Estimate:
    """mean(a) / mean(b) of paired unit values [n], with Fieller's interval. NaN where mean(b) is not clear of zero."""
    n = len(numerator)
    if n < 3:
        return Estimate(math.nan, Interval(-math.inf, math.inf, False))
    covariance = np.cov(np.stack([numerator, denominator])) / n
    interval = fieller(float(numerator.mean()), float(denominator.mean()), covariance, n)
    value = float(numerator.mean() / denominator.mean()) if interval.bounded else math.nan
    return Estimate(value, interval)
