"""Slots: which of a method's choices moves its gradient, found by undoing them one at a time.

A hybrid is the method with one slot as its parent (or GRPO) has it. Blame is assigned by replacing slots and never by
splitting a coefficient, since the two factors are coupled.
"""

from __future__ import annotations

from dataclasses import replace

from gradaxis.diagnostics.candidates import swap_key
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import fill, start, without_products
from gradaxis.diagnostics.probes.target import gain_along
from gradaxis.diagnostics.statistics import (
    Estimate,
    Interval,
    ratio_at_equal_gain,
    ratio_of_noise,
    realised_cosine,
)

PROBE = "slots"
DIRECTION = "slot_effect"
NOISE = "slot_effect_on_noise"


def measure(evidence: Evidence) -> list[Measurement]:
    """For each slot in which a method differs from its parent: 1 − cosine with the hybrid's gradient of this batch, and
    the noise of the method over that of the hybrid (at equal gain where the target resolves both gains).
    """
    if evidence.products is None:
        return without_products(evidence, PROBE, (DIRECTION, NOISE))
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
    return rows


def _effects(evidence: Evidence, label: str, slot: str, other: str, base: Measurement) -> list[Measurement]:
    own, hybrid = evidence.key(label), swap_key(label, slot, other)
    products = evidence.of(own), evidence.of(hybrid), evidence.of(own, hybrid)
    noise = replace(base, metric=NOISE, unit="ratio")
    if not (products[0].any() and products[1].any()):
        reason = "the gradient of the method or of its hybrid is zero on these rollouts"
        return [not_assessed(row, reason) for row in (base, noise)]
    cosine = realised_cosine(*products)
    low, high, bounded = cosine.interval
    turned = Estimate(1 - cosine.value, Interval(1 - high, 1 - low, bounded))
    rows = [fill(base, turned, "exact for this batch; 95 % over prompts by jackknife")]
    problem = evidence.too_few_units(label)
    if problem:
        return [*rows, replace(noise, verdict="unresolved", reason=problem)]
    ratio = ratio_of_noise(*products[:2])
    if evidence.target is not None:
        equal = ratio_at_equal_gain(*products[:2], gain_along(evidence, own), gain_along(evidence, hybrid))
        if equal.resolved:
            ratio, noise = equal, replace(noise, part="at equal gain")
    how = "95 %, jackknife over prompts of its logarithm, paired"
    return [*rows, fill(noise, ratio, how, "one of the two has no noise")]


def _failure(evidence: Evidence, label: str, slot: str) -> str:
    """The failure that the method's own operator in this slot says it addresses, where it says one."""
    placed = evidence.candidates[label].method.slots[slot]
    return next((failure for item in placed for failure in item.addresses), "")
