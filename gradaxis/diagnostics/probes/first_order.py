"""What one step of a method does to a functional, to first order: <∇Φ, E g>, and the same per unit of reward gained.

Where ∇Φ is known exactly, the only noise is the method's. Elsewhere ∇Φ is estimated from the same rollouts, and the
product is a U-statistic over pairs of different prompts: no answer meets itself, nor another answer to its own prompt.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.evidence import ENTROPY, EXACT, EXACT_ENTROPY, REFERENCE, Evidence
from gradaxis.diagnostics.functional_plan import exact_key, piece_key
from gradaxis.diagnostics.functionals import PASS_AT, REWARD, TOKEN_ENTROPY, Functional
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS, fill
from gradaxis.diagnostics.probes.target import group_values_along, values_along
from gradaxis.diagnostics.statistics import (
    Array,
    Estimate,
    Expansion,
    Leave,
    expand_inner,
    freedom,
    jackknife_interval,
    mean_interval,
    ratio_interval,
    ratio_of_means,
    share_interval,
    skewed_interval,
    stratified_mean,
    stratified_ratio,
)
from gradaxis.diagnostics.statistics.expansions import from_leave_out
from gradaxis.diagnostics.units import Key

STUDENT = "95 %, Student over prompts, these prompts taken as given"
JACKKNIFE = "95 %, jackknife over prompts, made wider for skewness"
WILSON = "95 %, Wilson's interval at the effective number of answers, prompts as clusters"
NO_GAIN = "the method's gain of reward is not clear of zero"


class Change(NamedTuple):
    """<∇Φ, E g> with its two-sided p-value against zero; its ratio to <∇J, E g> (None without a target); how the
    intervals were made; the number of units.
    """

    change: Estimate
    p_value: float
    per_reward: Estimate | None
    how: str
    n: int


def change_of(evidence: Evidence, label: str, functional: Functional) -> Change | str:
    """What a step of a method does to a functional; or why that is not known."""
    exact = _exact_key(functional.name)
    if evidence.target == EXACT and evidence.has(exact):
        return along_exact(evidence, evidence.key(label), exact)
    pieces = [REFERENCE if name == REWARD else piece_key(name) for name in (functional.top, functional.bottom) if name]
    if not all(evidence.has(key) for key in pieces):
        return evidence.no_target or "no gradient of it among the inner products"
    key = evidence.key(label)
    parts = [expand_inner(evidence.of(key, piece)) for piece in pieces]
    if functional.bottom is None:
        return along_estimate(evidence, key, parts[0])
    top, bottom = _means(evidence, functional)
    if not bottom.value > 0:
        return "the mean that it is divided by is zero on these rollouts"
    inverse = bottom.power(-1.0)
    return along_estimate(evidence, key, (parts[0] - top * inverse * parts[1]) * inverse)


def along_frozen_entropy(evidence: Evidence, label: str) -> Change | str:
    """What a step does to the mean entropy at the contexts of these rollouts."""
    if not evidence.has(ENTROPY):
        return "no gradient of the entropy among the inner products"
    key = evidence.key(label)
    return along_estimate(evidence, key, expand_inner(evidence.of(key, ENTROPY)))


def along_exact(evidence: Evidence, key: Key, direction: Key) -> Change:
    """Along a direction that is known exactly: groups are the units where there are several a prompt."""
    if evidence.has_groups(key) and evidence.groups is not None:
        strata = evidence.groups.strata
        change, reward = (group_values_along(evidence, key, along) for along in (direction, EXACT))
        mean, ratio = stratified_mean(change, strata), stratified_ratio(change, reward, strata)
        p = mean.p_value(freedom(strata.centre(change) ** 2, strata) + 1)
        return Change(mean, p, ratio, BETWEEN_GROUPS, len(strata.of))
    change, reward = (values_along(evidence, key, along) for along in (direction, EXACT))
    mean = Estimate(float(change.mean()), mean_interval(change))
    return Change(mean, mean.p_value(evidence.n), ratio_of_means(change, reward), STUDENT, evidence.n)


def along_estimate(evidence: Evidence, key: Key, change: Expansion) -> Change:
    """From a U-statistic, and that of the reward with it."""
    estimate = Estimate(change.value, skewed_interval(change))
    p = estimate.p_value(evidence.n)
    if evidence.target is None:
        return Change(estimate, p, None, JACKKNIFE, evidence.n)
    reward = expand_inner(evidence.of(key, evidence.target))
    return Change(estimate, p, ratio_of(change, reward), JACKKNIFE, evidence.n)


def ratio_of(top: Expansion, bottom: Expansion) -> Estimate:
    """The ratio of two statistics with Fieller's interval; no estimate where the second is not clear of zero."""
    ends = ratio_interval(top, bottom)
    return Estimate(top.value / bottom.value if ends.bounded else math.nan, ends)


def mean_of(evidence: Evidence, values: Array) -> Leave:
    """The mean over answers of values [N], and without each prompt [n]."""
    sums = np.bincount(evidence.units, values, evidence.n)
    counts = np.bincount(evidence.units, minlength=evidence.n)
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = (sums.sum() - sums) / (counts.sum() - counts)
    return Leave(float(sums.sum() / counts.sum()), rest)


def value_of(evidence: Evidence, functional: Functional) -> Estimate:
    """Φ itself on these rollouts, with a jackknife over prompts."""
    if functional.bottom is None:
        if functional.name.startswith(PASS_AT):
            return _share(evidence, functional)
        top = mean_of(evidence, _values(evidence, functional.top))
        return Estimate(top.value, jackknife_interval(top.value, top.without))
    return ratio_of(*_means(evidence, functional))


def _share(evidence: Evidence, functional: Functional) -> Estimate:
    """pass@k with Wilson's interval: prompts are clusters, and k answers at a time that share none the trials."""
    k = int(functional.name.removeprefix(PASS_AT))
    counts = np.bincount(evidence.units, minlength=evidence.n)
    shares = np.bincount(evidence.units, _values(evidence, functional.top), evidence.n) / counts
    mean = min(max(float(shares.mean()), 0.0), 1.0)
    return Estimate(mean, share_interval(np.clip(shares, 0.0, 1.0), np.maximum(counts // k, 1)))


def rows_of(base: Measurement, price: Measurement, found: Change | str, problem: str, no_target: str
            ) -> list[Measurement]:  # fmt: skip
    """The rows of a change and of its ratio to the reward gained: numbers, or why there are none.

    Args:
        base, price: rows without numbers. found: the change. problem: why no spread is reported, or empty.
        no_target: why the reward gained is not known.
    """
    if problem:
        return [replace(row, verdict="unresolved", reason=problem) for row in (base, price)]
    if isinstance(found, str):
        return [not_assessed(row, found) for row in (base, price)]
    base, price = replace(base, n=found.n), replace(price, n=found.n)
    row = fill(base, found.change, found.how)
    if row.estimate is not None:
        row = replace(row, p_value=found.p_value)
    if row.estimate is not None and found.change.interval.low <= 0 <= found.change.interval.high:
        row = replace(row, verdict="unresolved", reason="the sign is not clear of zero")
    if found.per_reward is None:
        return [row, not_assessed(price, no_target or "no target of bias")]
    return [row, fill(price, found.per_reward, f"{found.how}; Fieller's interval", NO_GAIN)]


def problem_of(evidence: Evidence, label: str, exact: bool) -> str:
    """Why no spread is reported for a method: it couples the batch, and units are few. Empty otherwise."""
    given = exact and evidence.has_groups(evidence.key(label))
    return evidence.too_few_groups(label) if given else evidence.too_few_units(label)


def knows_exactly(evidence: Evidence, functional: Functional) -> bool:
    """Whether the gradient of the functional is among the directions."""
    return evidence.target == EXACT and evidence.has(_exact_key(functional.name))


def _exact_key(name: str) -> Key:
    return {REWARD: EXACT, TOKEN_ENTROPY: EXACT_ENTROPY}.get(name, exact_key(name))


def _values(evidence: Evidence, piece: str) -> Array:
    return evidence.functionals.pieces[piece].value.cpu().numpy()


def _means(evidence: Evidence, functional: Functional) -> tuple[Expansion, Expansion]:
    """A and B of a ratio A/B on these rollouts."""
    assert functional.bottom is not None, "a mean has no ratio"
    means = [mean_of(evidence, _values(evidence, piece)) for piece in (functional.top, functional.bottom)]
    return from_leave_out(*means[0]), from_leave_out(*means[1])
