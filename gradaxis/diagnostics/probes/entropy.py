"""Entropy: how much there is, where it stands in the answer, and what each method would do to it.

Where the policy can be enumerated the gradient of the entropy is exact and holds what a visit to other contexts
changes; elsewhere it is taken at the contexts of these rollouts, and `part` says so.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.evidence import ENTROPY, EXACT, EXACT_ENTROPY, Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS, fill, start, without_products
from gradaxis.diagnostics.probes.target import group_values_along, values_along
from gradaxis.diagnostics.statistics import (
    Array,
    Estimate,
    Interval,
    fieller,
    inner_of_means,
    jackknife_covariance,
    jackknife_interval,
    leave_out_inner,
    mean_interval,
    ratio_of_means,
    stratified_mean,
    stratified_ratio,
)
from gradaxis.diagnostics.units import Key
from gradaxis.errors import MissingInputError

PROBE = "entropy"
FAILURE = "entropy-collapse"
STUDENT = "95 %, Student over prompts, these prompts taken as given"
JACKKNIFE = "95 %, jackknife over prompts"
GRADIENT_METRICS = ("entropy_change", "entropy_price")


def measure(evidence: Evidence) -> list[Measurement]:
    """Mean entropy a token and by position; for each method the covariance of log-probability and advantage, the
    first-order change of the mean entropy, <∇H, g>, and its price: nats lost for each unit of reward gained.

    In a tabular softmax a policy-gradient step changes the entropy of a context by minus the covariance of log π and
    the step in its logits (arXiv 2505.22617, theorem 1), so a positive covariance goes with falling entropy.
    """
    rows = _of_policy(evidence)
    for label in evidence.candidates:
        rows.append(_covariance(evidence, label))
    if evidence.products is None:
        return rows + without_products(evidence, PROBE, GRADIENT_METRICS, failure=FAILURE)
    for label in evidence.candidates:
        rows += _first_order(evidence, label)
    return rows


def _of_policy(evidence: Evidence) -> list[Measurement]:
    batch = evidence.batch
    row = start(evidence, PROBE, "entropy", unit="nats a token", failure=FAILURE)
    try:
        entropy = batch.column("entropy").double().cpu().numpy()
    except MissingInputError as error:
        return [not_assessed(row, str(error), (error.column,), error.remedy)]
    mask = batch.mask.cpu().numpy()
    rows = [fill(row, _ratio(entropy * mask, mask, evidence), JACKKNIFE, "the rollouts hold no policy token")]
    for position in range(mask.shape[1]):
        here = np.zeros_like(mask)
        here[:, position] = mask[:, position]
        estimate = _ratio(entropy * here, here, evidence)
        if here.any():
            part = f"position {position}"
            rows.append(fill(replace(row, metric="entropy_by_position", part=part), estimate, JACKKNIFE))
    return rows


def _ratio(amount: Array, weight: Array, evidence: Evidence) -> Estimate:
    """Σ amount / Σ weight over all tokens with a jackknife over prompts; both [N, T]."""
    top = np.bincount(evidence.units, amount.sum(1), evidence.n)
    bottom = np.bincount(evidence.units, weight.sum(1), evidence.n)
    if bottom.sum() == 0:
        return Estimate(math.nan, Interval(math.nan, math.nan, False))
    value = float(top.sum() / bottom.sum())
    rest = bottom.sum() - bottom
    if np.any(rest == 0):
        return Estimate(value, Interval(-math.inf, math.inf, False))
    return Estimate(value, jackknife_interval(value, (top.sum() - top) / rest))


def _covariance(evidence: Evidence, label: str) -> Measurement:
    """Covariance over policy tokens of log π and the method's advantage."""
    row = start(evidence, PROBE, "logp_advantage_covariance", label, unit="nats times advantage",
                failure=FAILURE)  # fmt: skip
    coefficients = evidence.candidates[label].coefficients
    try:
        logp = evidence.batch.column("logp").double().cpu().numpy()
    except MissingInputError as error:
        return not_assessed(row, str(error), (error.column,), error.remedy)
    assert coefficients is not None
    advantage = coefficients.advantage.detach().double().cpu().numpy()
    mask = evidence.batch.mask.cpu().numpy().astype(float)

    def sums(values: Array) -> Array:
        return np.bincount(evidence.units, (values * mask).sum(1), evidence.n).astype(float)

    count, first, second, both = sums(np.ones_like(mask)), sums(logp), sums(advantage), sums(logp * advantage)
    if count.sum() == 0:
        return not_assessed(row, "the rollouts hold no policy token")

    def covariance(n: Array, x: Array, y: Array, xy: Array) -> Array:
        return xy / n - x * y / n**2

    value = float(covariance(*(part.sum() for part in (count, first, second, both))))
    rest = [part.sum() - part for part in (count, first, second, both)]
    if np.any(rest[0] == 0):
        return fill(row, Estimate(value, Interval(-math.inf, math.inf, False)), JACKKNIFE)
    return fill(row, Estimate(value, jackknife_interval(value, covariance(*rest))), JACKKNIFE)


def _first_order(evidence: Evidence, label: str) -> list[Measurement]:
    base = start(evidence, PROBE, GRADIENT_METRICS[0], label, unit="nats a token for each unit of learning rate",
                 failure=FAILURE)  # fmt: skip
    price = replace(base, metric=GRADIENT_METRICS[1], unit="nats a token lost for each unit of reward")
    if not evidence.has(ENTROPY):
        reason = "no gradient of the entropy among the inner products"
        return [not_assessed(row, reason, ("entropy",)) for row in (base, price)]
    key = evidence.key(label)
    exact = evidence.target == EXACT and evidence.has(EXACT_ENTROPY)
    given = exact and evidence.group_products is not None and key in evidence.group_products.keys
    problem = evidence.too_few_groups(label) if given else evidence.too_few_units(label)
    if problem:
        return [replace(row, verdict="unresolved", reason=problem) for row in (base, price)]
    if given and evidence.groups is not None:
        strata = evidence.groups.strata
        change, reward = group_values_along(evidence, key, EXACT_ENTROPY), group_values_along(evidence, key, EXACT)
        estimate = stratified_mean(change, strata)
        ratio, how = stratified_ratio(-change, reward, strata), BETWEEN_GROUPS
        part = "exact gradient of the entropy, these prompts"
        base, price = (replace(row, part=part, n=len(strata.of)) for row in (base, price))
    elif exact:
        change, reward = values_along(evidence, key, EXACT_ENTROPY), values_along(evidence, key, EXACT)
        estimate = Estimate(float(change.mean()), mean_interval(change))
        ratio, how = ratio_of_means(-change, reward), STUDENT
        base, price = (replace(row, part="exact gradient of the entropy, these prompts") for row in (base, price))
    else:
        cross = evidence.of(key, ENTROPY)
        estimate = Estimate(inner_of_means(cross), jackknife_interval(inner_of_means(cross), leave_out_inner(cross)))
        ratio, how = _price(evidence, key, cross), JACKKNIFE
        base, price = (replace(row, part="at the contexts of these rollouts") for row in (base, price))
    row = fill(base, estimate, how)
    if estimate.interval.low <= 0 <= estimate.interval.high:
        row = replace(row, verdict="unresolved", reason="the sign is not clear of zero")
    if ratio is None:
        return [row, not_assessed(price, evidence.no_target)]
    return [row, fill(price, ratio, f"{how}; Fieller's interval", "the method's gain of reward is not clear of zero")]


def _price(evidence: Evidence, key: Key, cross: Array) -> Estimate | None:
    """−<∇H, E g> / <∇J, E g> from U-statistics; None without a target."""
    if evidence.target is None:
        return None
    reward = evidence.of(key, evidence.target)
    values = -inner_of_means(cross), inner_of_means(reward)
    covariance = jackknife_covariance(np.stack([-leave_out_inner(cross), leave_out_inner(reward)], axis=1))
    ends = fieller(*values, covariance, evidence.n)
    return Estimate(values[0] / values[1] if ends.bounded else math.nan, ends)
