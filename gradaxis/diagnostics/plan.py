"""What is wanted of one point of an update: coefficients, and the patterns that span them. No model is involved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradaxis.diagnostics.candidates import Candidate, check_finite, prepare, swap_key, totals_of
from gradaxis.diagnostics.evidence import (
    ENTROPY,
    REFERENCE,
    TASK,
    WHOLE,
    Evidence,
    Omitted,
)
from gradaxis.diagnostics.functional_plan import plan_functionals
from gradaxis.diagnostics.functionals import KL, Functional, Source
from gradaxis.diagnostics.geometry import Asked
from gradaxis.diagnostics.geometry_products import plan_geometry
from gradaxis.diagnostics.kl_choices import BY_TOKEN, choice_totals
from gradaxis.diagnostics.kl_operators import estimators_without_kl
from gradaxis.diagnostics.lattice import CellPlan, plan_cells
from gradaxis.diagnostics.top_entropy import TOP_ENTROPY, restrict
from gradaxis.diagnostics.uncorrected import UNCORRECTED, uncorrected_estimators
from gradaxis.diagnostics.units import (
    Key,
    Totals,
    groups_of,
    leave_out,
    units_of,
)
from gradaxis.diagnostics.variants import unbiased_reference
from gradaxis.errors import GradaxisError, InputError, MissingInputError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.gradients import Patterns, build_patterns
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Registry

TOLERATED = 1e-5
"""Coefficients with a larger part outside the patterns' span would make wrong numbers, and are refused."""

SHORT = 16
"""Numbers a sequence (tokens times quantities) up to which patterns for all hybrids are affordable, and tokens up to
which each group is left out in turn: answers can be listed, and the target be exact, only where they are short."""

AFFORDABLE = 6000
"""How often the coefficients of hybrids that couple the batch are computed anew, once for each hybrid and group left
out: a few seconds. Beyond it they are not compared over groups."""


@dataclass(frozen=True)
class Plan:
    """Everything whose gradient is wanted, before any gradient is taken.

    `totals` are derivatives on the whole batch by key, `without` those with each prompt left out, for the keys that
    couple the batch, and `without_groups` those with each group left out, for the same keys less what is not the task
    part of a hybrid.
    `patterns` span them all.
    """

    evidence: Evidence
    totals: Mapping[Key, Totals]
    without: Mapping[Key, Sequence[Totals]]
    patterns: Patterns | None
    without_groups: Mapping[Key, Sequence[Totals]] = field(default_factory=dict)
    cells: CellPlan = field(default_factory=CellPlan)


def plan_evidence(
    point: str, batch: RolloutBatch, methods: Sequence[Method], registry: Registry, slots: bool = True,
    exact_values: Mapping[str, Any] | None = None, gradients: bool = True, own: Sequence[Functional] = (),
    asked: Asked | None = None, attribution: bool = False, shares: bool = False,
) -> Plan:  # fmt: skip
    """Compile all methods, compute their coefficients, and find the patterns that span them. No model is involved.

    A method that lacks an input, or that this version cannot compute, is omitted with its reason and its remedy; it
    never stops the others.

    Args:
        point: "fresh", "stale" or "inner-step-k". batch: scored rollouts. methods: resolved, by label.
        registry: where parents are looked up. slots: whether hybrids are made. exact_values: numbers from enumeration.
        gradients: whether inner products of gradients will follow; without them no patterns are made.
        own: functionals of the user's. asked: the geometry of the user's training run.
        attribution: whether the hybrids between methods and their bases are made.
        shares: whether the parts of each method's noise are wanted.
    """
    _check(batch)
    candidates: dict[str, Candidate] = {}
    omitted: dict[str, Omitted] = {}
    for method in methods:
        try:
            candidates[method.label] = prepare(method, registry, batch, slots)
        except GradaxisError as error:
            omitted[method.label] = _omitted(error)
    evidence = Evidence(point, batch, units_of(batch), registry, candidates, omitted, exact_values=exact_values or {},
                        groups=groups_of(batch))  # fmt: skip
    if not gradients or not candidates:
        return Plan(evidence, {}, {}, None)
    if asked is not None:
        evidence = replace(evidence, geometry=plan_geometry(batch, candidates, registry, asked))
    parts: dict[Key, CompiledEstimator] = estimators_without_kl(candidates.values(), registry)
    for candidate in candidates.values():
        parts.update(candidate.parts())
    if not evidence.fresh:  # there every ratio is 1, and nothing is corrected
        parts.update(uncorrected_estimators(candidates.values(), registry, batch))
    try:
        reference = compile(unbiased_reference(registry, batch, evidence.fresh))
        check_finite(reference.coefficients(batch).total, "the unbiased reference")
        parts[REFERENCE] = reference
        evidence = replace(evidence, functionals=plan_functionals(batch, evidence.fresh, own))
    except GradaxisError as error:
        evidence = replace(evidence, no_target=f"no unbiased reference: {error}")
    totals = {**totals_of(parts, batch), ENTROPY: _entropy(batch), **evidence.functionals.totals}
    if KL in evidence.functionals.pieces:
        totals.update(choice_totals(Source.of_rollouts(batch, evidence.fresh)))
    coupled = {key: estimator for key, estimator in parts.items() if estimator.couples == "batch"}
    enough = evidence.n > 1 and coupled
    without = leave_out(batch, evidence.units, lambda rest: totals_of(coupled, rest)) if enough else {}
    top, top_without = restrict(batch, totals, without, list(candidates))
    without_groups = _without_groups(evidence, coupled, totals)
    plan = _span(Plan(evidence, {**totals, **top}, {**without, **top_without}, None, without_groups))
    return _with_cells(plan, attribution) if (attribution or shares) and evidence.n > 1 else plan


def _with_cells(plan: Plan, lattices: bool) -> Plan:
    """The plan with the hybrids of all lattices, or with the methods alone."""
    evidence, patterns = plan.evidence, plan.patterns
    assert patterns is not None, "spanned"
    length = patterns.vectors.shape[3]
    cells, patterns = plan_cells(
        evidence.candidates, evidence.batch, evidence.registry, evidence.units, evidence.groups, patterns, TOLERATED,
        short=len(patterns.quantities) * length <= SHORT, by_group=length <= SHORT, lattices=lattices,
    )  # fmt: skip
    return replace(plan, cells=cells, patterns=patterns)


def _without_groups(
    evidence: Evidence, coupled: Mapping[Key, CompiledEstimator], totals: Mapping[Key, Totals]
) -> dict[Key, list[dict[str, Tensor]]]:
    """Derivatives with each group left out; empty where groups are not units.

    Of the hybrids only the task parts are wanted, and only those that differ from the method's on these rollouts.
    """
    batch, groups = evidence.batch, evidence.groups
    own = {key: estimator for key, estimator in coupled.items() if key[1] in (WHOLE, TASK, UNCORRECTED)}
    if groups is None or batch.tokens.shape[1] > SHORT:
        return {}
    more = {}
    for label, one in evidence.candidates.items():
        task = totals.get((label, TASK), totals[label, WHOLE])
        for key in {one.task_key(*place) for place in one.swapped_tasks} & coupled.keys():
            if not _same(totals[key], task):
                more[key] = coupled[key]
    if len(more) * len(groups.strata.of) <= AFFORDABLE:
        own |= more
    if not own:
        return {}
    return leave_out(batch, groups.units, lambda rest: totals_of(own, rest))


def _span(plan: Plan) -> Plan:
    """The plan with patterns for every method; hybrids join where they cost nothing, or next to nothing.

    So do choices of KL that differ by token, and gradients of some tokens alone. One that lies in the span of the
    methods is free. One that does not would need further backward passes: it gets them where answers are short, and is
    skipped, with the reason, elsewhere.
    """
    evidence = plan.evidence
    swaps = {key: (label, place) for label, candidate in evidence.candidates.items() for place in candidate.swaps
             for key in (swap_key(label, *place), candidate.task_key(*place))}  # fmt: skip
    optional = {*swaps, *(key for key in plan.totals if key[1] in (TOP_ENTROPY, UNCORRECTED) or key in BY_TOKEN)}
    families = {
        key: [total, *plan.without.get(key, ()), *plan.without_groups.get(key, ())]
        for key, total in plan.totals.items()
    }
    regrouped = evidence.geometry.families() if evidence.geometry is not None else {}
    families, optional = {**families, **regrouped}, optional | regrouped.keys()
    methods = [part for key, family in families.items() if key not in optional for part in family]
    patterns = build_patterns(methods)
    outside = [
        key
        for key, family in families.items()
        if key in optional and any(patterns.express(part)[1] > TOLERATED for part in family)
    ]
    if not outside:
        return replace(plan, patterns=patterns)
    if len(patterns.quantities) * patterns.vectors.shape[3] <= SHORT:
        return replace(plan, patterns=build_patterns([part for family in families.values() for part in family]))
    candidates = dict(evidence.candidates)
    places = {swaps[key] for key in outside if key in swaps}
    reason = "its coefficients lie outside those of the methods and would need further backward passes"
    left = {key: reason for key in outside if key not in swaps}
    for label, place in places:
        one = candidates[label]
        kept, tasks = ({at: estimator for at, estimator in some.items() if at != place}
                       for some in (one.swaps, one.swapped_tasks))  # fmt: skip
        candidates[label] = replace(one, swaps=kept, swapped_tasks=tasks, skipped={**one.skipped, place: reason})
    dropped = {key for key, place in swaps.items() if place in places} | left.keys()
    return replace(
        plan,
        evidence=replace(evidence, candidates=candidates, outside=left),
        totals={key: total for key, total in plan.totals.items() if key not in dropped},
        without={key: family for key, family in plan.without.items() if key not in dropped},
        without_groups={key: family for key, family in plan.without_groups.items() if key not in dropped},
        patterns=patterns,
    )


def without_model(plan: Plan, reason: str) -> Evidence:
    """The evidence without gradients: what coefficients and stored log-probabilities alone can tell."""
    return replace(plan.evidence, no_products=reason, no_target=plan.evidence.no_target or reason)


def _entropy(batch: RolloutBatch) -> dict[str, Tensor]:
    """Derivatives of the mean entropy over all policy tokens of the batch, at the contexts that it holds."""
    mask = batch.mask.to(torch.float64)
    return {"entropy": mask / mask.sum().clamp(min=1.0)}


def _same(one: Totals, other: Totals) -> bool:
    """Whether the derivatives agree but for rounding."""
    names = one.keys() | other.keys()
    zero = torch.zeros(())
    return all(torch.allclose(one.get(name, zero), other.get(name, zero), rtol=1e-6, atol=1e-12) for name in names)


def _omitted(error: GradaxisError) -> Omitted:
    if isinstance(error, MissingInputError):
        return Omitted(str(error), (error.column,), error.remedy)
    remedy = error.remedy if isinstance(error, InputError) else ""
    return Omitted(str(error), (), remedy)


def _check(batch: RolloutBatch) -> None:
    if batch.size == 0:
        raise InputError("rollouts", "no sequences", "at least one prompt with its answers")
    if not bool(torch.isfinite(batch.rewards).all()):
        row = int((~torch.isfinite(batch.rewards)).any(dim=1).nonzero()[0, 0])
        raise InputError("rewards", f"NaN or infinity in sequence {row}", "finite numbers",
                         "Score the answer again, or leave its prompt out")  # fmt: skip
