"""From a plan of hybrids and a Gram matrix to what is attributed to slots, and to the parts of each method's noise.

Letters: C gradients, N sequences, R rows of the Gram matrix, n prompts, M groups, L directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gradaxis.diagnostics.lattice.cells import CellPlan, Entry, positions_of, restricted
from gradaxis.diagnostics.lattice.leave_outs import flatten
from gradaxis.diagnostics.lattice.spans import express
from gradaxis.diagnostics.lattice.unit_products import STRATUM, UNIT, Layout, Space, Stack, inner, pairs
from gradaxis.diagnostics.lattice.unit_weights import Index, UnitWeights, unit_weights
from gradaxis.diagnostics.lattice.values import Values, bias_drawn, bias_given, log_noise
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.statistics.pairs import Pairs
from gradaxis.diagnostics.units import FEWEST_UNITS, Groups, Totals
from gradaxis.estimators.gradients import Patterns

TOLERATED = 1e-5
"""The largest share of coefficients that may lie outside the patterns."""

GAIN, BEND, NOISE = "log_gain", "orthogonal_bias_squared", "log_noise"
"""What is attributed: log of the gain, tan² of the angle to the target, log tr Σ."""

NO_GROUPS = "it couples the batch, and too many groups would have to be left out in turn"


@dataclass(frozen=True)
class _Source:
    """Where inner products come from: patterns, and the products of their gradients and of the prompts' exact ones.

    `reference` [N, Q·T] are the coefficients of the unbiased reference, of the quantities of the plan.
    """

    patterns: Patterns
    space: Space
    reference: Array | None

    @property
    def known(self) -> bool:
        return self.space.among.size > 0


@dataclass(frozen=True)
class Measured:
    """`values` by name, over the gradients of the plan; those of bias are absent where it has no target.

    By method: `positions`, the products of its gradient at each range of positions with the whole; `within`, each
    prompt's part [n] of the noise that comes from its own rollouts; `whole`, the products of its gradient. `lacking`
    says why a method lacks the first ("positions") or the second ("within").
    """

    plan: CellPlan
    values: Mapping[str, Values] = field(default_factory=dict)
    positions: Mapping[str, Mapping[str, Pairs]] = field(default_factory=dict)
    within: Mapping[str, Array] = field(default_factory=dict)
    whole: Mapping[str, Pairs] = field(default_factory=dict)
    lacking: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def numbers(self, hybrids: Sequence[str], name: str) -> list[int]:
        """The gradients of hybrids: their whole gradients for noise, and their task parts for bias."""
        cells = [self.plan.cells[hybrid] for hybrid in hybrids]
        return [cell.whole if name == NOISE else cell.task for cell in cells]


def measure_plan(
    plan: CellPlan, patterns: Patterns, products: tuple[Array, Array, Array], reference: Totals | None, prompts: Index,
    groups: Groups | None,
) -> Measured:  # fmt: skip
    """Everything that is read off the plan's gradients, with prompts as units and, beside a known target, groups.

    Args:
        patterns: that span them.
        products: inner products of the patterns' gradients with one another [R, R], with the exact ∇J of each prompt
            [R, L], and of these [L, L]; L is n, or 0 where they are not known.
        reference: coefficients of the unbiased reference. prompts: the prompt of each sequence [N].
    """
    flat = None if reference is None else flatten(reference, plan.names)
    source = _Source(patterns, Space(*products), flat)
    n = int(prompts.max()) + 1
    layout = Layout(np.repeat(prompts, patterns.size), np.zeros(n, dtype=np.int64), np.full(n, 1.0 / n))
    stack = _stack([entry.prompts for entry in plan.entries], source, plan.names, layout)
    values = {NOISE: _checked(log_noise(stack, range(len(plan.entries))), plan.entries, "prompts")}
    grouped = {number: one for number, entry in enumerate(plan.entries) if (one := entry.groups) is not None}
    members = None
    if groups is not None:
        by_group = Layout(np.repeat(groups.units, patterns.size), groups.strata.of, groups.strata.share)
        members = _stack(list(grouped.values()), source, plan.names, by_group)
    if groups is not None and members is not None and source.known:
        target, noise = _target(source, members.layout, plan.names, groups.units, groups.strata.of)
        found = bias_given(members, range(len(grouped)), target, noise, groups.strata)
        found = [_scattered(one, list(grouped), len(plan.entries)) for one in found]
        values |= {name: _checked(one, plan.entries, "groups") for name, one in zip((GAIN, BEND), found, strict=True)}
    elif source.known or source.reference is not None:
        target, noise = _target(source, layout, plan.names, prompts, np.arange(n))
        found = bias_drawn(stack, range(len(plan.entries)), target, noise)
        values |= {name: _checked(one, plan.entries, "prompts") for name, one in zip((GAIN, BEND), found, strict=True)}
    methods = {label: plan.cells[name].whole for label, name in plan.methods.items() if name in plan.cells}
    positions, lacking = _positions(plan, source, stack, methods)
    within: dict[str, Array] = {}
    for label, number in methods.items() if members is not None else ():
        if members is not None and number in grouped:
            within[label] = _within(members, list(grouped).index(number))
        else:
            lacking[label, "within"] = NO_GROUPS
    whole = {label: pairs(stack, number, stack, number) for label, number in methods.items()}
    return Measured(plan, values, positions, within, whole, lacking)


def _stack(units: Sequence[UnitWeights], source: _Source, names: Sequence[str], layout: Layout) -> Stack:
    own = express(source.patterns, np.stack([one.own for one in units]), names)[0]
    counts = [len(one.shared) for one in units]
    shared = express(source.patterns, np.concatenate([one.shared for one in units]), names)[0]
    shared = np.concatenate([shared, np.zeros((len(shared), len(source.space.among)))], axis=1)
    return Stack(source.space, layout, own, [one.factors for one in units], np.split(shared, np.cumsum(counts)[:-1]))


def _target(
    source: _Source, layout: Layout, names: Sequence[str], of: Index, prompt: Index
) -> tuple[Stack, Stack | None]:
    """The target of bias and, beside one that is known, the noise r − t of the reference, each a stack of one.

    Args:
        of: the unit of each sequence. prompt: of each unit.
    """
    directions = len(source.space.among)
    rows = len(source.space.matrix)
    reference = None
    if source.reference is not None:
        units = unit_weights(source.reference, of, layout.share)
        reference = _stack([units], source, names, layout)
    if not source.known:
        assert reference is not None, "one of the two is there"
        return reference, None
    nothing = np.zeros((1, rows))
    place = np.eye(directions)[prompt]
    shared = np.concatenate([np.zeros((directions, rows)), np.eye(directions)], axis=1)
    target = Stack(source.space, layout, nothing, [place], [shared])
    noise = None if reference is None else Stack(source.space, layout, reference.own, [-place], [shared])
    return target, noise


def _checked(values: Values, entries: Sequence[Entry], units: str) -> Values:
    """Values of gradients that couple the batch are not trusted for a few units."""
    if values.n >= FEWEST_UNITS:
        return values
    reason = f"it couples the batch, and its units are trusted from {FEWEST_UNITS} {units} on; here are {values.n}"
    few = {number: reason for number, entry in enumerate(entries) if entry.coupled}
    return replace(values, unresolved={**few, **values.unresolved})


def _scattered(values: Values, places: Sequence[int], count: int) -> Values:
    """Values of some gradients among all."""
    estimate, spread = np.full(count, np.nan), np.full((count, values.spread.shape[1]), np.nan)
    estimate[list(places)], spread[list(places)] = values.estimate, values.spread
    absent = dict.fromkeys(set(range(count)) - set(places), NO_GROUPS)
    unresolved = {places[number]: reason for number, reason in values.unresolved.items()}
    return Values(estimate, spread, unresolved, values.strata, absent)


def _positions(
    plan: CellPlan, source: _Source, stack: Stack, methods: Mapping[str, int]
) -> tuple[dict[str, dict[str, Pairs]], dict[tuple[str, str], str]]:
    """By method and range of positions: the products of the gradient there with the whole; and why there are none."""
    length = plan.entries[0].total.shape[1] // len(plan.names)
    found: dict[str, dict[str, Pairs]] = {}
    lacking = {}
    for label, number in methods.items():
        entry, parts = plan.entries[number], {}
        for name, at in positions_of(length).items():
            cut = partial(restricted, quantities=len(plan.names), at=at)
            if express(source.patterns, cut(entry.rows()), plan.names)[1] > TOLERATED:
                lacking[label, "positions"] = "its coefficients at some positions alone lie outside the stored patterns"
                break
            units = entry.prompts
            part = UnitWeights(cut(units.own), units.factors, cut(units.shared))
            parts[name] = pairs(_stack([part], source, plan.names, stack.layout), 0, stack, number)
        else:
            found[label] = parts
    return found, lacking


def _within(members: Stack, number: int) -> Array:
    """Each prompt's estimate of the noise that its own rollouts put into its gradient, [n]: s_p² / m_p.

    s_p² = Σ_u |x_u − x̄_p|² / (m_p − 1) over the m_p groups of prompt p.
    """
    layout = members.layout
    deviations = inner(members, number, members, number, UNIT) - inner(members, number, members, number, STRATUM)
    parts = deviations / (layout.members * (layout.members - 1))
    return np.bincount(layout.stratum, parts).astype(np.float64)
