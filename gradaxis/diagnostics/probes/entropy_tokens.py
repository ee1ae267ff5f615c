"""How much entropy there is and where it stands: over tokens, over answers, by place in the answer, by quantile."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import fill, start
from gradaxis.diagnostics.statistics import Array, Estimate, Interval, jackknife_interval, student
from gradaxis.errors import MissingInputError

PROBE = "entropy"
FAILURE = "entropy-collapse"
JACKKNIFE = "95 %, jackknife over prompts"
WOODRUFF = "95 %, Woodruff's interval: that of the share of tokens below, over prompts, read back as a quantile"
LONG = 16
"""Answers of more tokens than this are looked at by tenths of the answer too."""

TOP = 0.2
"""The share of tokens that arXiv 2506.01939 calls forking tokens."""


def levels(evidence: Evidence) -> list[Measurement]:
    """The mean over all tokens (`entropy`, as logs show it) and the mean over answers of an answer's own mean
    (`entropy_per_sequence`), which differ where long answers have another entropy; the mean by position and by tenth of
    the answer; quantiles over tokens; and the share of all entropy that the top 20 % of tokens hold.
    """
    batch = evidence.batch
    row = start(evidence, PROBE, "entropy", unit="nats a token", failure=FAILURE)
    try:
        entropy = batch.column("entropy").double().cpu().numpy()
    except MissingInputError as error:
        return [not_assessed(row, str(error), (error.column,), error.remedy)]
    mask = batch.mask.cpu().numpy()
    entropy = np.where(mask, entropy, 0.0)
    rows = [fill(row, ratio(entropy, mask, evidence), JACKKNIFE, "the rollouts hold no policy token")]
    length = mask.sum(1)
    if not mask.any():
        return rows
    own = np.where(length > 0, entropy.sum(1) / np.maximum(length, 1), 0.0)[:, None]
    sequences = ratio(own, (length > 0)[:, None], evidence)
    rows.append(fill(replace(row, metric="entropy_per_sequence"), sequences, JACKKNIFE))
    for position in range(mask.shape[1]):
        here = np.zeros_like(mask)
        here[:, position] = mask[:, position]
        if here.any():
            base = replace(row, metric="entropy_by_position", part=f"position {position}")
            rows.append(fill(base, ratio(entropy * here, here, evidence), JACKKNIFE))
    if length.max() > LONG:
        place = 10 * (np.cumsum(mask, axis=1) - 1) // np.maximum(length, 1)[:, None]
        for tenth in range(10):
            here = mask & (place == tenth)
            base = replace(row, metric="entropy_by_tenth", part=f"tenth {tenth + 1} of the answer")
            rows.append(fill(base, ratio(entropy * here, here, evidence), JACKKNIFE))
    return rows + _quantiles(evidence, replace(row, metric="entropy_quantile"), entropy, mask)


def ratio(amount: Array, weight: NDArray[Any], evidence: Evidence) -> Estimate:
    """Σ amount / Σ weight over all entries with a jackknife over prompts; both [N, ...]."""
    top = np.bincount(evidence.units, amount.sum(1), evidence.n)
    bottom = np.bincount(evidence.units, weight.sum(1), evidence.n)
    if bottom.sum() == 0:
        return Estimate(math.nan, Interval(math.nan, math.nan, False))
    value = float(top.sum() / bottom.sum())
    rest = bottom.sum() - bottom
    if np.any(rest == 0):
        return Estimate(value, Interval(-math.inf, math.inf, False))
    return Estimate(value, jackknife_interval(value, (top.sum() - top) / rest))


def _quantiles(evidence: Evidence, row: Measurement, entropy: Array, mask: NDArray[np.bool_]) -> list[Measurement]:
    values, units = entropy[mask], np.broadcast_to(evidence.units[:, None], mask.shape)[mask]
    rows = [
        fill(replace(row, part=f"{tenth}0 % of tokens lie below"), quantile(values, units, evidence.n, tenth / 10),
             WOODRUFF)
        for tenth in range(1, 10)
    ]  # fmt: skip
    share = replace(row, metric="entropy_top_share", unit="share of the entropy", part=f"top {TOP:.0%} of tokens")
    return [*rows, fill(share, top_share(values, units, evidence.n, TOP), JACKKNIFE, "there is no entropy at all")]


def quantile(values: Array, units: NDArray[Any], n: int, level: float) -> Estimate:
    """The quantile of values of tokens whose prompts are the units of independence (Woodruff, 1952).

    Args:
        values: [K], of K tokens. units: the prompt of each [K]. n: prompts. level: in (0, 1).
    """
    value = float(np.quantile(values, level))
    if n < 2:
        return Estimate(value, Interval(-math.inf, math.inf, False))
    # The share of tokens below the quantile is a ratio of two sums over prompts; ties count in part, so that it is q.
    below, equal = values < value, values == value
    part = (level * len(values) - below.sum()) / max(equal.sum(), 1)
    excess = np.bincount(units, below + np.clip(part, 0.0, 1.0) * equal - level, n)
    half = student(n) * math.sqrt(n / (n - 1) * float((excess**2).sum())) / len(values)
    ends = [float(np.quantile(values, min(max(level + side * half, 0.0), 1.0))) for side in (-1, 1)]
    return Estimate(value, Interval(ends[0], ends[1]))


def top_share(values: Array, units: NDArray[Any], n: int, share: float) -> Estimate:
    """The share of Σ values that the largest `share` of tokens hold, with a jackknife over prompts; NaN for Σ = 0.

    Args as for `quantile`; values are not negative.
    """

    def held(some: Array) -> float:
        rest, total = len(some) - max(1, round(share * len(some))), some.sum()
        return float(np.partition(some, rest)[rest:].sum() / total) if total > 0 else math.nan

    value = held(values)
    without = [held(values[units != unit]) if np.any(units != unit) else math.nan for unit in range(n)]
    return Estimate(value, jackknife_interval(value, np.array(without)))
