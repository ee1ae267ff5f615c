"""Attribution: how a method's gain, bias and noise divide among its choices, between it and a base.

A choice is a slot in which the two differ, or several that have no meaning without one another. Blame is assigned by
replacing slots, never by splitting a coefficient: every hybrid between the two is measured on the same rollouts. What
one choice changes may depend on the others, so it is given in two ways: for the two sides at both levels of the other
side, with their interaction; and for every choice as its Shapley value, the mean change over all orders in which the
choices can be made, which add up to the whole difference.

Never for a cosine: it has no zero to add up from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.lattice import BEND, GAIN, NOISE, Lattice, Measured, Values, shapley_weights
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS, start, without_products
from gradaxis.diagnostics.statistics import Array
from gradaxis.taxonomy import SLOTS

PROBE = "attribution"
UNITS = {GAIN: "log ratio", BEND: "tan²", NOISE: "log ratio"}
METRICS = tuple(f"{kind}_{name}" for name in UNITS for kind in ("difference_in", "shapley", "side_effect"))
DRAWS = "95 %, jackknife over prompts, which count as draws"
NEEDS_TARGET = ("a policy that can be enumerated, or rollouts sampled from the policy itself",)
SIDES = {
    ("trajectory", 0): (-1.0, 1.0, 0.0, 0.0),
    ("trajectory", 1): (0.0, 0.0, -1.0, 1.0),
    ("reward", 0): (-1.0, 0.0, 1.0, 0.0),
    ("reward", 1): (0.0, -1.0, 0.0, 1.0),
}
"""The effect of a side where the other is as in the base (0) or in the method (1), as weights of the four corners."""


def measure(evidence: Evidence) -> list[Measurement]:
    """For each method beside its parent, and beside `reinforce`: the whole difference in log gain, in orthogonal bias²
    (tan² of the angle to the target; declared terms are never bias) and in log tr Σ; its two sides; its Shapley values.
    """
    if evidence.products is None:
        return without_products(evidence, PROBE, METRICS)
    measured = evidence.measured
    if measured is None or not (measured.plan.lattices or measured.plan.unmade):
        reason = "hybrids were not asked for, or there is no other method to compare with"
        return [not_assessed(start(evidence, PROBE, METRICS[0], label), reason) for label in evidence.candidates]
    rows = []
    for lattice in measured.plan.lattices:
        base = start(evidence, PROBE, "", lattice.method, compared_with=lattice.base)
        if lattice.sampling:
            base = replace(base, reason="how trajectories are sampled is held as these rollouts have it")
        rows += _sides(evidence, measured, lattice, base)
        rows += _choices(evidence, measured, lattice, base)
    for unmade in measured.plan.unmade:
        row = start(evidence, PROBE, METRICS[0], unmade.method, compared_with=unmade.base)
        rows.append(not_assessed(row, unmade.reason, unmade.needs, unmade.remedy))
    return rows


def _sides(evidence: Evidence, measured: Measured, lattice: Lattice, base: Measurement) -> Iterator[Measurement]:
    """The 2×2 of sides: the effect of each at both levels of the other, and the interaction."""
    if lattice.sides is None:
        yield replace(base, metric="side_effect", reason=lattice.no_sides)
        return
    for name, unit in UNITS.items():
        named = replace(base, unit=unit)
        problem = _problem(evidence, measured, name, lattice.sides, replace(named, metric=f"side_effect_{name}"))
        if problem is not None:
            yield problem
            continue
        values, numbers = measured.values[name], measured.numbers(lattice.sides, name)
        for (axis, level), weights in SIDES.items():
            other = "reward" if axis == "trajectory" else "trajectory"
            part = f"with the {other} side of {(lattice.base, lattice.method)[level]}"
            row = replace(named, metric=f"side_effect_{name}", axis=axis, part=part)
            yield _row(evidence, row, values, numbers, np.array(weights))
        row = replace(named, metric=f"side_interaction_{name}")
        yield _row(evidence, row, values, numbers, np.array([1.0, -1.0, -1.0, 1.0]))


def _choices(evidence: Evidence, measured: Measured, lattice: Lattice, base: Measurement) -> Iterator[Measurement]:
    """The whole difference, and the Shapley value of every choice."""
    ends = lattice.sides or (lattice.hybrids and (lattice.hybrids[0], lattice.hybrids[-1])) or ()
    for name, unit in UNITS.items():
        named = replace(base, unit=unit)
        if ends:
            row = replace(named, metric=f"difference_in_{name}")
            problem = _problem(evidence, measured, name, (ends[0], ends[-1]), row)
            numbers = measured.numbers((ends[0], ends[-1]), name) if problem is None else []
            yield problem or _row(evidence, row, measured.values[name], numbers, np.array([-1.0, 1.0]))
        named = replace(named, metric=f"shapley_{name}")
        if not lattice.hybrids:
            yield not_assessed(named, lattice.no_hybrids)
            continue
        problem = _problem(evidence, measured, name, lattice.hybrids, named)
        if problem is not None:
            yield problem
            continue
        numbers = measured.numbers(lattice.hybrids, name)
        for player, weights in zip(lattice.players, shapley_weights(len(lattice.players)), strict=True):
            axes = {SLOTS[slot].axis for slot in player}
            row = replace(named, axis=axes.pop() if len(axes) == 1 else "", slot=player[0] if len(player) == 1 else "",
                          part=" and ".join(player) if len(player) > 1 else "")  # fmt: skip
            yield _row(evidence, row, measured.values[name], numbers, weights)


def _problem(
    evidence: Evidence, measured: Measured, name: str, hybrids: Sequence[str], row: Measurement
) -> Measurement | None:
    """The row that says why something has no number, or None where it has one."""
    if name not in measured.values:
        return not_assessed(row, evidence.no_target, NEEDS_TARGET)
    skipped = next((measured.plan.skipped[one] for one in hybrids if one in measured.plan.skipped), "")
    if skipped:
        return not_assessed(row, f"a hybrid was not measured: {skipped}")
    values, numbers = measured.values[name], measured.numbers(hybrids, name)
    absent = values.absent(numbers)
    if absent:
        return not_assessed(row, absent)
    reason = values.problem(numbers)
    if not reason:
        return None
    more = "draw more groups a prompt (--groups)" if values.strata is not None else "use more prompts (--prompts)"
    reason = f"of the method, the base or a hybrid: {reason}"
    return replace(row, low=-math.inf, high=math.inf, interval=_how(evidence, name, values), n=values.n,
                   verdict="unresolved", reason=reason, advice=more)  # fmt: skip


def _row(evidence: Evidence, row: Measurement, values: Values, numbers: Sequence[int], weights: Array) -> Measurement:
    """A sum of the hybrids' values with its interval; 0 without one where nothing changes."""
    if not values.changes(numbers, weights):
        how = "none: it changes nothing on these rollouts"
        return replace(row, estimate=0.0, interval=how, n=values.n)
    estimate, p_value = values.combine(numbers, weights)
    low, high, bounded = estimate.interval
    row = replace(row, estimate=estimate.value, low=low, high=high, p_value=p_value, n=values.n,
                  interval=_how(evidence, row.metric, values))  # fmt: skip
    if bounded and not low <= 0 <= high:
        return row
    return replace(row, verdict="unresolved", reason="the sign is not clear of zero")


def _how(evidence: Evidence, name: str, values: Values) -> str:
    how = f"{BETWEEN_GROUPS}, paired" if values.strata is not None else f"{DRAWS}, paired"
    return how if name.endswith(NOISE) else f"{how}; target: the {evidence.target_name}"
