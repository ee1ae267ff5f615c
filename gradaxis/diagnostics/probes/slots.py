"""Slots: which of a method's choices moves its gradient or turns it away from ∇J, found by undoing each in turn.

A hybrid is the method with one slot as its parent (or GRPO) has it; an inherited slot is undone as the nearest ancestor
has it that has another. Blame is assigned by replacing slots and never by
splitting a coefficient, since the two factors are coupled.
"""

from __future__ import annotations

from dataclasses import replace

from gradaxis.diagnostics.candidates import swap_key
from gradaxis.diagnostics.evidence import REFERENCE, TASK, Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS, fill, plain, start, without_products
from gradaxis.diagnostics.probes.target import gain_along, given_of
from gradaxis.diagnostics.statistics import (
    Estimate,
    Interval,
    cosine_change_given,
    cosine_change_of_means,
    cosine_given,
    cosine_of_means,
    ratio_at_equal_gain,
    ratio_of_noise,
    realised_cosine,
    realised_cosine_given,
)

PROBE = "slots"
DIRECTION = "slot_effect"
NOISE = "slot_effect_on_noise"
BIAS = "slot_effect_on_bias"
METRICS = (DIRECTION, NOISE, BIAS)
SAME = 1e-9
"""1 − cosine of two gradients below which they point the same way but for rounding."""


def measure(evidence: Evidence) -> list[Measurement]:
    """For each slot in which a method differs from its parent: 1 − cosine with the hybrid's gradient of this batch, the
    noise of the method over that of the hybrid (at equal gain where the target resolves both gains), and by how much
    the cosine with ∇J rises when the slot is undone.
    """
    if evidence.products is None:
        return without_products(evidence, PROBE, METRICS)
    rows = []
    for label, candidate in evidence.candidates.items():
        for slot, other in [*candidate.swaps, *candidate.skipped, *candidate.impossible]:
            base = start(evidence, PROBE, DIRECTION, label, slot, compared_with=other, unit="1 − cosine")
            base = replace(base, failure=_failure(evidence, label, slot))
            start_of_reason = f"no hybrid with the {slot} of {other}: "
            if (slot, other) in candidate.skipped:
                rows.append(not_assessed(base, start_of_reason + candidate.skipped[slot, other]))
            elif (slot, other) in candidate.impossible:
                rows.append(replace(base, reason=start_of_reason + candidate.impossible[slot, other]))
            else:
                rows += _effects(evidence, label, slot, other, base)
                rows.append(_on_bias(evidence, label, slot, other, replace(base, metric=BIAS, unit="cosine")))
    return rows


def _effects(evidence: Evidence, label: str, slot: str, other: str, base: Measurement) -> list[Measurement]:
    own, hybrid = evidence.key(label), swap_key(label, slot, other)
    products = evidence.of(own), evidence.of(hybrid), evidence.of(own, hybrid)
    noise = replace(base, metric=NOISE, unit="ratio")
    if not (products[0].any() and products[1].any()):
        reason = "the gradient of the method or of its hybrid is zero on these rollouts"
        return [not_assessed(row, reason) for row in (base, noise)]
    if evidence.groups is not None and evidence.has_groups(own, hybrid):
        of, strata = evidence.by_group, evidence.groups.strata
        cosine = realised_cosine_given(of(own), of(hybrid), of(own, hybrid), strata)
        base, how = replace(base, n=len(strata.of)), BETWEEN_GROUPS
    else:
        cosine, how = realised_cosine(*products), "95 % over prompts by jackknife"
    low, high, bounded = cosine.interval
    turned = Estimate(1 - cosine.value, Interval(1 - high, 1 - low, bounded))
    rows = [fill(base, turned, f"exact for this batch; {how}")]
    problem = evidence.too_few_units(label)
    if problem:
        return [*rows, replace(noise, verdict="unresolved", reason=problem)]
    scales = evidence.scale(own), evidence.scale(hybrid)
    ratio = ratio_of_noise(*products[:2], scales)
    if evidence.target is not None:
        gains = gain_along(evidence, own), gain_along(evidence, hybrid)
        equal = ratio_at_equal_gain(*products[:2], *gains, scales)
        if equal.resolved:
            ratio, noise = equal, replace(noise, part="at equal gain")
    how = "95 %, jackknife over prompts of its power −1/3, corrected for skewness, paired"
    return [*rows, fill(noise, ratio, how, "one of the two has no noise")]


def _on_bias(evidence: Evidence, label: str, slot: str, other: str, base: Measurement) -> Measurement:
    """cos(hybrid, ∇J) − cos(method, ∇J), both without their declared terms. A difference has no threshold."""
    candidate, place = evidence.candidates[label], (slot, other)
    if place not in candidate.swapped_tasks:
        return replace(base, reason="only declared terms differ, and those are never counted as bias")
    if evidence.target is None:
        needs = ("a policy that can be enumerated, or rollouts sampled from the policy itself",)
        return not_assessed(base, evidence.no_target, needs)
    own, hybrid = evidence.key(label, TASK), candidate.task_key(slot, other)
    products = evidence.of(own), evidence.of(hybrid)
    if not (products[0].any() and products[1].any()):
        return not_assessed(base, "the gradient of the method or of its hybrid is zero on these rollouts")
    given = evidence.groups is not None and evidence.has_groups(own)
    if not given and not evidence.has(REFERENCE):
        return not_assessed(base, evidence.no_target, ("rollouts sampled from the policy itself",))
    target = evidence.target_name if given else "unbiased reference for the gradient of J"
    base = replace(base, part=f"task part, beside the {target}")
    problem = evidence.too_few_groups(label, place) if given else evidence.too_few_units(label, place)
    more = "draw more groups a prompt (--groups)" if given else "use more prompts (--prompts)"
    if problem:
        return replace(base, verdict="unresolved", reason=problem, advice=more)
    if 1 - realised_cosine(*products, evidence.of(own, hybrid)).value < SAME:
        return plain(replace(base, reason="the two point the same way on these rollouts"), 0.0)
    if given and not evidence.has_groups(hybrid):
        return replace(base, reason="the hybrid couples the batch, and too many groups would be left out in turn")
    if given and evidence.groups is not None:
        strata, how = evidence.groups.strata, f"{BETWEEN_GROUPS}, paired"
        methods = given_of(evidence, own), given_of(evidence, hybrid)
        before, change = cosine_given(methods[0], strata), cosine_change_given(*methods, strata)
        base = replace(base, n=len(strata.of))
    else:
        how, reference = "95 %, jackknife over prompts, paired", evidence.of(REFERENCE)
        crosses = evidence.of(own, REFERENCE), evidence.of(hybrid, REFERENCE)
        before = cosine_of_means(products[0], reference, crosses[0])
        change = cosine_change_of_means(*products, reference, *crosses)
    row = fill(base, change, how, "noise hides the direction of the method or of its hybrid")
    if not change.resolved or change.interval.low <= 0 <= change.interval.high:
        reason = row.reason or "the sign is not clear of zero"
        return replace(row, verdict="unresolved", reason=reason, advice=more)
    moves = "rises" if change.value > 0 else "falls"
    text = f"with the {slot} of {other} in its place the cosine with ∇J {moves} "
    text += f"from {before.value:.3g} to {before.value + change.value:.3g}"
    return replace(row, advice=text)


def _failure(evidence: Evidence, label: str, slot: str) -> str:
    """The failure that the method's own operator in this slot says it addresses, where it says one."""
    placed = evidence.candidates[label].method.slots[slot]
    return next((failure for item in placed for failure in item.addresses), "")
