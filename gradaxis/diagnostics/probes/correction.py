"""Correction: whether a method's ratio and trust region help it where the rollouts are not the policy's own.

Each method is compared with itself without them, on the same rollouts. What a correction takes from the bias it may
give back in noise, so that the comparison is of efficiency, which has both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.evidence import EXACT, REFERENCE, TASK, Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.paired_efficiency import (
    Paired,
    efficiency_ratio,
    efficiency_ratio_given,
    efficiency_ratio_on_known,
)
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS, fill, start, without_products
from gradaxis.diagnostics.probes.target import gain_along, given_of, residual_of
from gradaxis.diagnostics.statistics import (
    Estimate,
    cosine_change_given,
    cosine_change_of_means,
    ratio_at_equal_gain,
)
from gradaxis.diagnostics.uncorrected import UNCORRECTED, corrects
from gradaxis.diagnostics.units import Key

PROBE = "correction"
EFFECT, ON_COSINE, ON_NOISE = "correction_effect", "correction_effect_on_cosine", "correction_effect_on_noise"
METRICS = (EFFECT, ON_COSINE, ON_NOISE)
FAILURE = "stale-samples"
JACKKNIFE = "95 %, jackknife over prompts, paired"
NONE = "no correction"


def measure(evidence: Evidence) -> list[Measurement]:
    """For each method with a ratio or a trust region: its efficiency over that without them, by how much its cosine
    with ∇J is higher, and its noise at equal gain over that without them. Nothing on fresh rollouts.

    All of the method's task part, so that declared terms play no role.
    """
    labels = [label for label, one in evidence.candidates.items() if corrects(one.method)]
    if evidence.fresh or not labels:
        return []
    if evidence.products is None:
        rows = without_products(evidence, PROBE, METRICS, slot="ratio", failure=FAILURE)
        return [row for row in rows if row.method in labels]
    rows = []
    for label in labels:
        base = start(evidence, PROBE, EFFECT, label, slot="ratio", failure=FAILURE, unit="ratio", compared_with=NONE)
        bases = [base, replace(base, metric=ON_COSINE, unit="cosine"), replace(base, metric=ON_NOISE)]
        problem = _missing(evidence, label)
        own, bare = evidence.key(label, TASK), (label, UNCORRECTED)
        given = evidence.has_groups(own, bare)
        few = evidence.too_few_groups(label) if given else evidence.too_few_units(label)
        if problem:
            rows += [not_assessed(row, problem) for row in bases]
        elif few:
            rows += [replace(row, verdict="unresolved", reason=few) for row in bases]
        elif _same(evidence, own, bare):
            reason = "its ratios are 1 on these rollouts, so that it corrects nothing"
            rows += [replace(row, reason=reason) for row in bases]
        else:
            rows += _compare(evidence, own, bare, bases, given)
    return rows


def _missing(evidence: Evidence, label: str) -> str:
    """Why the comparison cannot be made; or the empty string."""
    if not evidence.has((label, UNCORRECTED)):
        reason = "without its ratio and trust region it makes no estimator"
        return evidence.outside.get((label, UNCORRECTED), reason)
    if evidence.target is None:
        return evidence.no_target
    zero = not (evidence.of(evidence.key(label, TASK)).any() and evidence.of((label, UNCORRECTED)).any())
    return "the gradient with or without the correction is zero on these rollouts" if zero else ""


def _same(evidence: Evidence, own: Key, bare: Key) -> bool:
    """Whether the two gradients are one but for rounding."""
    with_it, without_it, cross = evidence.of(own), evidence.of(bare), evidence.of(own, bare)
    scale = float(np.abs(with_it).max())
    return bool(np.abs(with_it - cross).max() <= 1e-6 * scale and np.abs(without_it - cross).max() <= 1e-6 * scale)


def _compare(
    evidence: Evidence, own: Key, bare: Key, bases: list[Measurement], given: bool
) -> list[Measurement]:  # fmt: skip
    assert evidence.target is not None, "ask `_missing` first"
    products = evidence.of(own), evidence.of(bare)
    hidden = "noise hides the direction with or without the correction"
    change, how = None, JACKKNIFE
    if given and evidence.groups is not None:
        strata, how = evidence.groups.strata, f"{BETWEEN_GROUPS}, paired"
        bases = [replace(row, n=len(strata.of)) for row in bases[:2]] + bases[2:]
        units = given_of(evidence, own), given_of(evidence, bare)
        effect = efficiency_ratio_given(units[0], evidence.by_group(own), units[1], evidence.by_group(bare), strata)
        change = cosine_change_given(units[1], units[0], strata)
    elif evidence.target == EXACT:
        effect = efficiency_ratio_on_known(
            residual_of(evidence, own), products[0], residual_of(evidence, bare), products[1]
        )
    else:
        crosses = evidence.of(own, evidence.target), evidence.of(bare, evidence.target)
        effect = efficiency_ratio((products[0], crosses[0]), (products[1], crosses[1]))
    if change is None and evidence.has(REFERENCE):
        reference = evidence.of(REFERENCE)
        crosses = evidence.of(bare, REFERENCE), evidence.of(own, REFERENCE)
        change = cosine_change_of_means(products[1], products[0], reference, *crosses)
    gains = gain_along(evidence, own), gain_along(evidence, bare)
    noise = ratio_at_equal_gain(*products, *gains, (evidence.scale(own), evidence.scale(bare)))
    return [
        _effect(bases[0], effect, f"{how}, of the logarithm"),
        _change(bases[1], change, how, hidden),
        fill(bases[2], noise, JACKKNIFE + ", of the logarithm", "a gain is not clear of zero"),
    ]


def _effect(row: Measurement, effect: Paired, how: str) -> Measurement:
    row = fill(row, effect.estimate, how, "a gain is not above zero")
    return replace(row, p_value=effect.p) if row.estimate is not None else row


def _change(row: Measurement, change: Estimate | None, how: str, hidden: str) -> Measurement:
    return fill(row, change, how, hidden) if change is not None else not_assessed(row, "no unbiased reference")
