"""Building the evidence of one point of an update from rollouts, methods and a policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from gradaxis.diagnostics.candidates import Candidate, check_finite, prepare, swap_key, totals_of
from gradaxis.diagnostics.evidence import (
    ENTROPY,
    EXACT,
    EXACT_ENTROPY,
    REFERENCE,
    TASK,
    WHOLE,
    ByParameter,
    Evidence,
    Omitted,
    Products,
)
from gradaxis.diagnostics.functional_plan import PREFIX as FUNCTIONAL
from gradaxis.diagnostics.functional_plan import exact_keys, piece_key, plan_functionals
from gradaxis.diagnostics.functionals import KL, Functional, Source
from gradaxis.diagnostics.geometry import Asked
from gradaxis.diagnostics.geometry_products import UnitProducts, geometry_products, plan_geometry
from gradaxis.diagnostics.kl_choices import BY_TOKEN, choice_totals
from gradaxis.diagnostics.kl_choices import PREFIX as KL_CHOICE
from gradaxis.diagnostics.kl_operators import WITHOUT_KL, estimators_without_kl
from gradaxis.diagnostics.lattice import CellPlan, measure_plan, plan_cells
from gradaxis.diagnostics.normalisers import scale_without
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.top_entropy import TOP_ENTROPY, restrict
from gradaxis.diagnostics.uncorrected import UNCORRECTED, uncorrected_estimators
from gradaxis.diagnostics.units import (
    Groups,
    Key,
    Totals,
    groups_of,
    leave_out,
    pseudo_values,
    pseudo_values_by_group,
    sums_by_group,
    sums_by_unit,
    units_of,
)
from gradaxis.diagnostics.variants import unbiased_reference
from gradaxis.errors import GradaxisError, InputError, MissingInputError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.gradients import Patterns, build_patterns
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Registry

PROMPT = "prompt "
DIRECTION_ENTROPY = "entropy"
"""Names of directions: one exact ∇J a prompt, and the exact gradient of the entropy a token."""

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


@dataclass(frozen=True)
class GramNumbers:
    """What the model was asked for, as stored.

    `matrix` [N·B, N·B]; with L directions of the names given, `along` [N·B, L] and `among` [L, L]. The directions are
    the exact ∇J of each of n prompts (`PROMPT` and the unit's number) and the exact gradient of the entropy. `exact`
    says whether the matrix is exact or projected. `by_parameter` holds Σ_j |u_j|² and |Σ_j u_j|² of the unit gradients
    of `layer_units` in every parameter, and `no_layers` says why there are none.
    """

    matrix: Array
    exact: bool
    names: tuple[str, ...]
    along: Array
    among: Array
    by_parameter: ByParameter = field(default_factory=dict)
    no_layers: str = ""

    def directions(self, prompts: Sequence[int]) -> dict[Key, list[int]]:
        """The places of the directions that are known exactly, by key, for units of these prompts."""
        found: dict[Key, list[int]] = {}
        if {f"{PROMPT}{prompt}" for prompt in prompts} <= set(self.names):
            found[EXACT] = [self.names.index(f"{PROMPT}{prompt}") for prompt in prompts]
        if DIRECTION_ENTROPY in self.names:
            found[EXACT_ENTROPY] = [self.names.index(DIRECTION_ENTROPY)] * len(prompts)  # the same for every unit
        found.update({key: [place] * len(prompts) for key, place in exact_keys(self.names).items()})
        return found


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
        key for key, family in families.items()
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


def complete_evidence(plan: Plan, numbers: GramNumbers) -> Evidence:
    """The evidence with the inner products of all unit gradients.

    Raises:
        InputError: the Gram matrix does not belong to the plan's patterns, or a gradient lies outside their span.
    """
    patterns, evidence = plan.patterns, plan.evidence
    assert patterns is not None, "a plan without candidates has no gradients"
    size = patterns.vectors.shape[0] * patterns.vectors.shape[1]
    if numbers.matrix.shape != (size, size):
        remedy = "Remove its file: it belongs to other rollouts or methods"
        raise InputError("Gram matrix", f"shape {numbers.matrix.shape}", f"({size}, {size})", remedy)
    weights = {key: _express(patterns, plan.totals[key], key) for key in sorted(plan.totals, key=_order)}
    products = _products(_prompt_rows(plan, patterns, weights), range(evidence.n), numbers)
    scales = {key: scale_without(plan.totals[key], left, evidence.units) for key, left in plan.without.items()}
    products = replace(products, scales=scales)
    target = next((key for key in (EXACT, REFERENCE) if key in products.keys), None)
    evidence = replace(evidence, products=products, target=target, by_parameter=numbers.by_parameter,
                       no_layers=numbers.no_layers)  # fmt: skip
    if plan.cells.entries:
        places = numbers.directions(range(evidence.n)).get(EXACT, [])
        space = numbers.matrix, numbers.along[:, places], numbers.among[np.ix_(places, places)]
        reference = plan.totals.get(REFERENCE)
        measured = measure_plan(plan.cells, patterns, space, reference, evidence.units, evidence.groups)
        evidence = replace(evidence, measured=measured)
    if evidence.geometry is not None and target is not None:
        evidence = replace(evidence, at_geometry=_at_geometry(evidence, patterns, weights, numbers))
    if evidence.groups is None or target != EXACT:
        return evidence
    rows = _group_rows(plan, patterns, weights, evidence.groups)
    return replace(evidence, group_products=_products(rows, evidence.groups.strata.of.tolist(), numbers))


def _at_geometry(
    evidence: Evidence, patterns: Patterns, weights: Mapping[Key, Array], numbers: GramNumbers
) -> dict[str, UnitProducts]:
    """Inner products in the updates of the user's own training run."""
    assert evidence.geometry is not None
    exact = numbers.directions(range(evidence.n)).get(EXACT)
    if exact is None:
        target = numbers.matrix @ sums_by_unit(weights[REFERENCE], evidence.units).T
    else:
        target = numbers.along[:, exact]
    tasks = {label: weights[evidence.key(label, TASK)] for label in evidence.candidates}
    return geometry_products(evidence.geometry, lambda total, key: _express(patterns, total, key), tasks,
                             evidence.outside, numbers.matrix, target)  # fmt: skip


def layer_units(plan: Plan) -> dict[Key, csr_array]:
    """Weights [n, N·B] of the whole unit gradients of every method and of the reference: the units of `_prompt_rows`.

    Their sums in each parameter are taken while the model is at hand, since the Gram matrix adds up all parameters.
    """
    assert plan.patterns is not None, "a plan without candidates has no gradients"
    keys = [key for key in plan.totals if key == REFERENCE or (key[0] and key[1] == WHOLE)]
    weights = {key: _express(plan.patterns, plan.totals[key], key) for key in keys}
    return {key: csr_array(rows) for key, rows in _prompt_rows(plan, plan.patterns, weights)}


def _prompt_rows(plan: Plan, patterns: Patterns, weights: Mapping[Key, Array]) -> Iterator[tuple[Key, Array]]:
    """Unit gradients of everything, one vector a prompt."""
    for key, whole in weights.items():
        if key in plan.without:
            yield key, pseudo_values(whole, [_express(patterns, left, key) for left in plan.without[key]])
        else:
            yield key, sums_by_unit(whole, plan.evidence.units)


def _group_rows(
    plan: Plan, patterns: Patterns, weights: Mapping[Key, Array], groups: Groups
) -> Iterator[tuple[Key, Array]]:
    """Group gradients of the reference and of all methods and hybrids whose coefficients without each group are known
    or not needed.
    """
    for key, whole in weights.items():
        if key not in plan.without and key != ENTROPY and not (key[1].startswith(FUNCTIONAL) and key != piece_key(KL)):
            yield key, sums_by_group(whole, groups)
        elif key in plan.without_groups:
            left = [_express(patterns, part, key) for part in plan.without_groups[key]]
            yield key, pseudo_values_by_group(whole, left, groups)


def _products(rows: Iterable[tuple[Key, Array]], prompts: Sequence[int], numbers: GramNumbers) -> Products:
    """Inner products of unit gradients with one another and with the directions that are known exactly.

    Args:
        rows: weights [units, N·B] of the units of every gradient, hybrids last; those are met with their own method
            and with what belongs to none.
        prompts: the prompt of each unit.
    """
    directions = numbers.directions(prompts)
    along = {name: np.ascontiguousarray(numbers.along[:, places]) for name, places in directions.items()}
    blocks = {(one, other): numbers.among[np.ix_(directions[one], directions[other])]
              for one in directions for other in directions}  # fmt: skip
    known: dict[Key, Array] = {}  # <·, g>: [N·B, units]
    for key, dense in rows:
        # The units of a method that does not couple them hold their own rows alone, and zeros elsewhere.
        flat = csr_array(dense) if np.count_nonzero(dense) < 0.1 * dense.size else dense
        mapped = np.ascontiguousarray((flat @ numbers.matrix).T)
        blocks[key, key] = flat @ mapped
        blocks.update({(key, name): flat @ part for name, part in along.items()})
        blocks.update({(key, name): flat @ part for name, part in known.items() if _meets(key, name)})
        if _order(key) < 2:
            known[key] = mapped
    keys = dict.fromkeys(key for key, _ in blocks if key not in directions)
    return Products((*keys, *directions), blocks, numbers.exact)


def _order(key: Key) -> int:
    """Methods and what belongs to none, 0; pieces of functionals, 1; what nothing later is multiplied with, 2."""
    if key[0]:
        return 0 if key[1] in (WHOLE, TASK, WITHOUT_KL) else 2
    return 2 if key[1].startswith(KL_CHOICE) else int(key[1].startswith(FUNCTIONAL))


def _meets(key: Key, other: Key) -> bool:
    """Whether the inner products of a gradient with an earlier one are wanted.

    A hybrid meets its own method, the reference and the entropy, and a choice of KL what belongs to no method.
    """
    if _order(key) < 2:
        return True
    return other[0] == key[0] or (not other[0] and (not key[0] or _order(other) == 0))


def without_model(plan: Plan, reason: str) -> Evidence:
    """The evidence without gradients: what coefficients and stored log-probabilities alone can tell."""
    return replace(plan.evidence, no_products=reason, no_target=plan.evidence.no_target or reason)


def _express(patterns: Patterns, total: Totals, key: Key) -> Array:
    weights, residual = patterns.express(total)
    if residual > TOLERATED:
        got = f"{residual:.1e} of them outside the patterns"
        raise InputError(f"coefficients of {' '.join(key)}", got, f"{TOLERATED:.0e} at most")
    return weights.double().cpu().numpy()


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
