"""Signal: how many answers carry a method's update, and how their weight goes with their length.

The weight of a token is |ω·A|, that of an answer the sum over its tokens. Coefficients are those of this batch; for a
method that couples prompts they are not made anew when a prompt is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.drift_measures import jackknife
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import fill, start
from gradaxis.diagnostics.statistics import Array

PROBE = "signal"
JACKKNIFE = "95 %, jackknife over prompts"
SLOPES = ("length_slope_token", "length_slope_response")
LONGEST = 0.25


def measure(evidence: Evidence) -> list[Measurement]:
    """For each method the effective number of answers by weight, (Σ|W|)² / (N Σ W²); the slopes of weight on length by
    sign of the advantage, a token and an answer; and the share of all weight on the longest quarter of the answers,
    beside their share of tokens.

    A slope is least squares, times mean length over mean weight: by how many percent weight grows where length grows by
    one, at the means. Where an answer weighs the same whatever its length, the slopes are about −1 a token and 0 an
    answer; where a token does, 0 and 1.
    """
    batch = evidence.batch
    mask, length = batch.mask.cpu().numpy(), batch.length.double().cpu().numpy()
    base = start(evidence, PROBE, "longest_quarter_tokens", slot="aggregation", failure="length-bias",
                 unit="share of policy tokens")  # fmt: skip
    if not mask.any():
        return [not_assessed(base, "the rollouts hold no policy token")]
    longest = [_longest(length), *(_longest(length, evidence.units != unit) for unit in range(evidence.n))]
    rows = [_carried(base, evidence.units, length, longest)]
    for label, candidate in evidence.candidates.items():
        coefficients = candidate.coefficients
        assert coefficients is not None
        omega, advantage = (part.detach().double().cpu().numpy()
                            for part in (coefficients.omega, coefficients.advantage))  # fmt: skip
        weight = np.where(mask, np.abs(omega * advantage), 0.0)
        row = replace(base, method=label, metric="longest_quarter_weight", unit="share of Σ |ω·A|")
        if weight.sum() == 0:
            names = ("weight_ess", row.metric, *SLOPES)
            reason = "the method puts no weight on any of these rollouts"
            rows += [not_assessed(replace(row, metric=name), reason) for name in names]
            continue
        rows.append(_effective(evidence, row, weight.sum(1)))
        rows.append(_carried(row, evidence.units, weight.sum(1), longest))
        for sign, chosen in (("positive", advantage > 0), ("negative", advantage < 0)):
            part = replace(row, part=f"{sign} advantage", unit="relative change of weight over that of length")
            rows += _slopes(evidence, part, weight * chosen, (mask & chosen).sum(1), length)
    return rows


def _effective(evidence: Evidence, row: Measurement, weight: Array) -> Measurement:
    """The share of answers that would carry as much if they had equal weights (Kish, 1965)."""
    row = replace(row, metric="weight_ess", unit="share of answers", slot="", axis="", failure="gradient-variance")
    first, second, count = _sums(evidence, weight, weight**2, np.ones_like(weight))
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = first.sum() ** 2 / (count.sum() * second.sum())
        without = (first.sum() - first) ** 2 / ((count.sum() - count) * (second.sum() - second))
    return fill(row, jackknife(float(whole), without, on_logarithm=True), JACKKNIFE)


def _slopes(
    evidence: Evidence, row: Measurement, weight: Array, tokens: NDArray[np.int64], length: Array
) -> Iterator[Measurement]:  # fmt: skip
    """Slopes over the answers that have tokens of this sign: weight [N, T], of these tokens [N], length [N]."""
    has = tokens > 0
    for metric, value in zip(SLOPES, (weight.sum(1) / np.maximum(tokens, 1), weight.sum(1)), strict=True):
        sums = _sums(evidence, *(has * part for part in (np.ones_like(length), length, value, length**2,
                                                         length * value)))  # fmt: skip
        estimate = jackknife(float(_relative_slope(*(part.sum() for part in sums))),
                             _relative_slope(*(part.sum() - part for part in sums)))  # fmt: skip
        reason = "these answers are all of one length, or carry no weight" if has.any() else "no token has this sign"
        found = replace(row, metric=metric)
        yield fill(found, estimate, JACKKNIFE) if math.isfinite(estimate.value) else not_assessed(found, reason)


def _relative_slope(count: Array, x: Array, y: Array, xx: Array, xy: Array) -> Array:
    """Least-squares slope of y on x, times mean x / mean y."""
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = xx / count - (x / count) ** 2
        spread = np.where(spread > 1e-9 * xx / count, spread, np.nan)
        return (xy / count - x * y / count**2) / spread * x / np.where(y > 0, y, np.nan)


def _longest(length: Array, among: NDArray[np.bool_] | None = None) -> Array:
    """How much of each answer is in the longest quarter [N]: answers as long as the last one in share its place."""
    among = np.ones(len(length), dtype=bool) if among is None else among
    inside, room = np.zeros(len(length)), LONGEST * among.sum()
    for value in np.unique(length[among])[::-1]:
        here = among & (length == value)
        inside[here] = min(1.0, room / here.sum())
        room -= inside[here].sum()
        if room <= 0:
            break
    return inside


def _carried(row: Measurement, units: NDArray[Any], amount: Array, longest: list[Array]) -> Measurement:
    """The share of an amount [N] on the longest quarter; which answers these are is found anew without each prompt."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(amount @ longest[0] / amount.sum())
        without = np.array([amount @ inside / amount[units != unit].sum() for unit, inside in enumerate(longest[1:])])
    return fill(row, jackknife(value, without), JACKKNIFE)


def _sums(evidence: Evidence, *parts: Array) -> list[NDArray[Any]]:
    return [np.bincount(evidence.units, part, evidence.n) for part in parts]
