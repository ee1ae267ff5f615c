"""Bias: where each method's expected gradient points, beside ∇J of the task reward.

What is compared is the method's task part: its declared terms (a KL to the reference, an entropy bonus, a teacher) are
its own aim and are never called bias; their share of the gradient has a row of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradaxis.diagnostics.evidence import EXACT, TASK, WHOLE, Evidence
from gradaxis.diagnostics.measurements import Measurement, judge, not_assessed
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS, OWN_RULE, fill, start, without_products
from gradaxis.diagnostics.probes.target import given_of, residual_of
from gradaxis.diagnostics.statistics import (
    Estimate,
    Interval,
    cosine_given,
    cosine_of_means,
    cosine_with_known,
    gain_given,
    gain_of_means,
    gain_on_known,
)
from gradaxis.taxonomy import SLOTS

PROBE = "bias"
METRICS = ("gain", "cosine", "orthogonal_bias")
STUDENT = "95 %, Student over prompts, these prompts taken as given"
FIELLER = "95 %, Fieller's interval from a jackknife over prompts"


def measure(evidence: Evidence) -> list[Measurement]:
    """For each method gain, cosine and orthogonal relative bias against the target.

    The target is the exact ∇J of J on these very prompts where the policy can be enumerated; else it is that of the
    task, as the unbiased reference built from slots estimates it, with prompts as draws. With two groups a prompt or
    more the units beside an exact target are groups, and how prompts differ is no error; with one, the spread between
    prompts stands in for the noise. No cosine is given where its own interval does not resolve the direction.
    """
    if evidence.products is None:
        return without_products(evidence, PROBE, METRICS)
    rows: list[Measurement] = []
    for label, candidate in evidence.candidates.items():
        measured = (
            f"the gradient without {', '.join(candidate.declared)}" if candidate.declared else "the whole gradient"
        )
        base = start(evidence, PROBE, "", label, compared_with=evidence.target_name, part=measured)
        if evidence.target is None:
            needs = ("a policy that can be enumerated, or rollouts sampled from the policy itself",)
            rows += [not_assessed(replace(base, metric=metric), evidence.no_target, needs) for metric in METRICS]
        else:
            rows += _against_target(evidence, label, base)
        if candidate.declared:
            rows.append(_share_of_terms(evidence, label, base))
    return rows


def _against_target(evidence: Evidence, label: str, base: Measurement) -> list[Measurement]:
    assert evidence.target is not None
    key = evidence.key(label, TASK)
    given = evidence.group_products is not None and key in evidence.group_products.keys
    if given and evidence.groups is not None:
        base = replace(base, n=len(evidence.groups.strata.of))
    problem = evidence.too_few_groups(label) if given else evidence.too_few_units(label)
    more = "draw more groups a prompt (--groups)" if given else "use more prompts (--prompts)"
    if problem:
        return [replace(base, metric=metric, verdict="unresolved", reason=problem, advice=more) for metric in METRICS]
    own, target = evidence.of(key), evidence.of(evidence.target)
    if not own.any():
        return [
            not_assessed(replace(base, metric=metric), "its gradient is zero on these rollouts") for metric in METRICS
        ]
    if given and evidence.groups is not None:
        units, strata = given_of(evidence, key), evidence.groups.strata
        gain, cosine, how = gain_given(units, strata), cosine_given(units, strata), BETWEEN_GROUPS
    elif evidence.target == EXACT:
        residual = residual_of(evidence, key)
        gain, cosine, how = gain_on_known(residual), cosine_with_known(residual), STUDENT
    else:
        cross = evidence.of(key, evidence.target)
        gain, cosine, how = gain_of_means(cross, target), cosine_of_means(own, target, cross), FIELLER
    hidden = f"noise hides the direction at this number of {'groups' if given else 'prompts'}"
    row = fill(replace(base, metric="cosine", unit="cosine"), cosine, how, hidden)
    if cosine.resolved:
        row = judge(row, low_is_good=False, watch=0.99, bad=0.9, source=OWN_RULE)
    advice = {"unresolved": more}
    if row.verdict in ("watch", "bad"):
        text = "the direction, not only the step size, differs from the target; see which slot does it (probe slots)"
        advice[row.verdict] = text
    return [
        fill(replace(base, metric="gain", unit="ratio"), gain, how, hidden),
        replace(row, advice=advice.get(row.verdict, "")),
        fill(replace(base, metric="orthogonal_bias", unit="ratio"), _tangent(cosine), how, hidden),
    ]


def _tangent(cosine: Estimate) -> Estimate:
    """|E g − c·t| / |c·t| = tan of the angle; unbounded above where the cosine's interval reaches zero."""

    def tangent(value: float) -> float:
        return math.sqrt(max(1.0 / value**2 - 1.0, 0.0)) if value > 0 else math.inf

    if not cosine.resolved or cosine.value <= 0:
        return Estimate(math.nan, Interval(0.0, math.inf, False))
    return Estimate(tangent(cosine.value), Interval(tangent(cosine.interval.high), tangent(cosine.interval.low)))


def _share_of_terms(evidence: Evidence, label: str, base: Measurement) -> Measurement:
    """|whole − task| / |whole| of this batch's gradients: how much of the update the declared terms are."""
    slots = {name.split(".")[0] for name in evidence.candidates[label].declared}
    slot = slots.pop() if len(slots) == 1 else ""
    row = replace(base, metric="terms_share", unit="share", compared_with="", slot=slot,
                  axis=SLOTS[slot].axis if slot else "")  # fmt: skip
    whole, task = evidence.key(label, WHOLE), evidence.key(label, TASK)
    size = evidence.realised(whole, whole)
    gap = size - 2 * evidence.realised(whole, task) + evidence.realised(task, task)
    if size <= 0:
        return not_assessed(row, "its gradient is zero on these rollouts")
    return replace(row, estimate=math.sqrt(max(gap, 0.0) / size), interval="none: the gradients of this very batch")
