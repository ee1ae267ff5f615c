"""Gradient variance: signal, noise, and the batch size at which they balance. A unit is a prompt with its rollouts."""

from __future__ import annotations

import math
from dataclasses import replace

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, judge, not_assessed
from gradaxis.diagnostics.probes import shares
from gradaxis.diagnostics.probes.rows import OWN_RULE, fill, start, without_products
from gradaxis.diagnostics.probes.target import gain_along
from gradaxis.diagnostics.statistics import (
    Estimate,
    Interval,
    critical_batch_size,
    effective_rank,
    noise,
    ratio_at_equal_gain,
    ratio_of_noise,
    squared_mean,
    units_to_resolve,
)

PROBE = "variance"
METRICS = ("squared_mean", "noise", "critical_batch_size", "snr")
FAILURE = "gradient-variance"
JACKKNIFE = "95 %, jackknife over prompts"
FIELLER = "95 %, Fieller's interval from a jackknife over prompts"
POWER = " of its power −1/3, corrected for skewness"


def measure(evidence: Evidence) -> list[Measurement]:
    """For each method |G|², tr Σ, B_simple, the signal-to-noise ratio of this batch, the prompts that would resolve its
    direction, over how many directions its noise is spread, where noise and signal sit (`shares`), and its noise beside
    a baseline's.

    The thresholds of the signal-to-noise ratio n|G|²/tr Σ: below 1 this batch is smaller than the critical batch size,
    and its gradient is more noise than signal (arXiv 1812.06162, section 2.2); below 0.1, by ten times.
    """
    if evidence.products is None:
        return without_products(evidence, PROBE, METRICS, failure=FAILURE)
    rows = []
    for label in evidence.candidates:
        problem = evidence.too_few_units(label)
        if problem:
            rows += [_unresolved(evidence, metric, label, problem) for metric in METRICS]
            continue
        rows += _of_method(evidence, label)
        rows += shares.measure(evidence, label)
        rows += _beside_another(evidence, label)
    return rows


def _of_method(evidence: Evidence, label: str) -> list[Measurement]:
    products = evidence.of(evidence.key(label))
    scale = evidence.scale(evidence.key(label))
    signal, spread = squared_mean(products), noise(products, scale)
    if spread.value <= 0:
        reason = "every unit gradient is the same, or zero: nothing to measure"
        return [not_assessed(start(evidence, PROBE, metric, label, failure=FAILURE), reason) for metric in METRICS]
    size = critical_batch_size(products, scale)
    base = start(evidence, PROBE, "", label, failure=FAILURE)
    square = "squared gradient"
    first = fill(replace(base, metric=METRICS[0], unit=square), signal, JACKKNIFE)
    if signal.interval.low <= 0:
        first = replace(first, verdict="unresolved", reason="not clear of zero: the direction is unresolved")
    batch = fill(replace(base, metric=METRICS[2], unit="prompts"), size, FIELLER,
                 "|G|² is not clear of zero: the data give a smallest size only")  # fmt: skip
    return [
        first,
        fill(replace(base, metric=METRICS[1], unit=square), spread, JACKKNIFE + POWER),
        batch,
        _signal_to_noise(replace(base, metric=METRICS[3], unit="ratio"), size, evidence.n),
        _to_resolve(replace(base, metric="prompts_to_resolve", unit="prompts"), units_to_resolve(products), evidence.n),
        fill(replace(base, metric="effective_rank", unit="directions"), effective_rank(products),
             JACKKNIFE + " of its logarithm", "too few prompts, or too little noise in common, for its tr(Σ²)"),
    ]  # fmt: skip


def _signal_to_noise(row: Measurement, size: Estimate, n: int) -> Measurement:
    """n / B_simple: the critical batch size turned over, so that its open end becomes zero."""
    low, high, _ = size.interval
    ends = Interval(0.0 if math.isinf(high) else n / high if high > 0 else math.inf, n / low if low > 0 else math.inf)
    if not size.resolved or size.value <= 0:
        return replace(row, low=ends.low, high=ends.high, interval=FIELLER, verdict="unresolved",
                       reason="|G|² is not clear of zero", advice="use more prompts (--prompts)")  # fmt: skip
    row = fill(row, Estimate(n / size.value, ends), FIELLER)
    row = judge(row, low_is_good=False, watch=1.0, bad=0.1, source="arXiv 1812.06162, section 2.2; 0.1: " + OWN_RULE)
    more = "use more prompts an update, or a method with less noise at equal gain" if row.verdict != "ok" else ""
    return replace(row, advice=more)


def _to_resolve(row: Measurement, need: Estimate, n: int) -> Measurement:
    """How many prompts would bring |G|² to two standard deviations above zero."""
    low, high, _ = need.interval
    row = replace(row, low=low, high=high, interval="95 %, from those of |G|² and of tr(Σ²)")
    if not math.isfinite(need.value):
        return replace(row, verdict="unresolved", reason="|G|² is not above zero on these rollouts",
                       advice="use several times as many prompts (--prompts)")  # fmt: skip
    row = replace(row, estimate=float(math.ceil(need.value)))
    if need.interval.bounded:
        return row
    more = f"use at least {max(math.ceil(need.value), n + 1)} prompts (--prompts)"
    return replace(row, verdict="unresolved", reason="|G|² is not clear of zero", advice=more)


def _beside_another(evidence: Evidence, label: str) -> list[Measurement]:
    """The method's noise over that of its parent, paired on the same rollouts; raw, and at equal gain on the target."""
    rows = []
    method = evidence.candidates[label].method
    others = [other for other in dict.fromkeys((method.extends, "grpo")) if other in evidence.candidates]
    for other in others:
        if other == label or other is None or evidence.too_few_units(other):
            continue
        own, theirs = evidence.of(evidence.key(label)), evidence.of(evidence.key(other))
        scales = evidence.scale(evidence.key(label)), evidence.scale(evidence.key(other))
        base = start(evidence, PROBE, "noise_ratio", label, compared_with=other, unit="ratio", failure=FAILURE)
        rows.append(fill(base, ratio_of_noise(own, theirs, scales), JACKKNIFE + f"{POWER}, paired",
                         "one of the two has no noise"))  # fmt: skip
        if evidence.target is None:
            continue
        gains = [gain_along(evidence, evidence.key(name)) for name in (label, other)]
        ratio = ratio_at_equal_gain(own, theirs, gains[0], gains[1], scales)
        row = replace(base, metric="noise_ratio_at_equal_gain")
        rows.append(fill(row, ratio, JACKKNIFE + f"{POWER}, paired", "a gain is not clear of zero"))
    return rows


def _unresolved(evidence: Evidence, metric: str, label: str, problem: str) -> Measurement:
    row = start(evidence, PROBE, metric, label, failure=FAILURE)
    return replace(row, verdict="unresolved", reason=problem, advice="use more prompts (--prompts)")
