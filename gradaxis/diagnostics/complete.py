"""From a plan and the inner products that a model gave to the evidence of one point of an update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_array

from gradaxis.diagnostics.evidence import (
    ENTROPY,
    EXACT,
    EXACT_ENTROPY,
    REFERENCE,
    TASK,
    WHOLE,
    ByParameter,
    Evidence,
    Products,
)
from gradaxis.diagnostics.functional_plan import PREFIX as FUNCTIONAL
from gradaxis.diagnostics.functional_plan import exact_keys, piece_key
from gradaxis.diagnostics.functionals import KL
from gradaxis.diagnostics.geometry_products import UnitProducts, geometry_products
from gradaxis.diagnostics.kl_choices import PREFIX as KL_CHOICE
from gradaxis.diagnostics.kl_operators import WITHOUT_KL
from gradaxis.diagnostics.lattice import measure_plan
from gradaxis.diagnostics.normalisers import scale_without
from gradaxis.diagnostics.plan import TOLERATED, Plan
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.units import (
    Groups,
    Key,
    Totals,
    pseudo_values,
    pseudo_values_by_group,
    sums_by_group,
    sums_by_unit,
)
from gradaxis.errors import InputError
from gradaxis.estimators.gradients import Patterns

PROMPT = "prompt "
DIRECTION_ENTROPY = "entropy"
"""Names of directions: one exact ∇J a prompt, and the exact gradient of the entropy a token."""


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


def _express(patterns: Patterns, total: Totals, key: Key) -> Array:
    weights, residual = patterns.express(total)
    if residual > TOLERATED:
        got = f"{residual:.1e} of them outside the patterns"
        raise InputError(f"coefficients of {' '.join(key)}", got, f"{TOLERATED:.0e} at most")
    return weights.double().cpu().numpy()
