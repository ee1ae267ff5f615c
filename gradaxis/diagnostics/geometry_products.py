"""Inner products of unit gradients in the updates of a user's own training run.

Letters: n prompts (the units), M (prompt, group) pairs, N sequences, B patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from gradaxis.diagnostics.candidates import Candidate
from gradaxis.diagnostics.geometry import AT_GEOMETRY, Asked, Geometry, Pairs, Regrouped, pairs_of, regroup
from gradaxis.diagnostics.statistics import Array
from gradaxis.diagnostics.units import Key, Totals
from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Registry


@dataclass(frozen=True)
class GeometryPlan:
    """What regrouping the rollouts into updates asks for. `refused` says why a method is not among `regrouped`."""

    geometry: Geometry
    pairs: Pairs
    regrouped: Mapping[str, Regrouped] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def families(self) -> dict[Key, Regrouped]:
        """Derivatives by key, which patterns should span."""
        return {(label, AT_GEOMETRY): found for label, found in self.regrouped.items()}


@dataclass(frozen=True)
class UnitProducts:
    """Of one method: `own` [n, n] of the prompts' gradients with themselves, `cross` [n, n] with the target, and
    `squares` [n], the mean over a prompt's groups of the squared norm of one group's gradient."""

    own: Array
    cross: Array
    squares: Array


def plan_geometry(
    batch: RolloutBatch, candidates: Mapping[str, Candidate], registry: Registry, asked: Asked
) -> GeometryPlan:
    """The user's geometry, and the coefficients in it of the methods that couple the batch.

    Raises:
        InputError: groups of different sizes, or a geometry that does not divide into whole groups.
    """
    pairs = pairs_of(batch)
    sizes = np.bincount(pairs.of)
    if len(set(sizes.tolist())) > 1:
        got = f"groups of {sizes.min()} to {sizes.max()} answers"
        raise InputError("--prompts-per-step", got, "groups of one size", "Measure rollouts as your trainer draws them")
    geometry = Geometry.of(asked, int(sizes[0]))
    regrouped: dict[str, Regrouped] = {}
    refused: dict[str, str] = {}
    for label, candidate in candidates.items():
        if candidate.task.couples != "batch":
            continue
        try:
            key = (label, "task" if candidate.declared else "whole")
            regrouped[label] = regroup(candidate.task, batch, pairs, geometry, registry, key)
        except GradaxisError as error:
            refused[label] = str(error)
    return GeometryPlan(geometry, pairs, regrouped, refused)


def geometry_products(
    plan: GeometryPlan, express: Callable[[Totals, Key], Array], weights: Mapping[str, Array],
    outside: Mapping[Key, str], matrix: Array, target: Array,
) -> dict[str, UnitProducts]:  # fmt: skip
    """Inner products of every method's prompts.

    Args:
        express: derivatives to weights on the patterns, [N, B]. weights: those of each method's task part.
        outside: keys whose derivatives the patterns do not span; their methods are left out.
        matrix: inner products of the patterns, [N·B, N·B]. target: of the patterns with the target's units, [N·B, n].
    """
    found = {}
    for label, whole in weights.items():
        if label in plan.refused or (label, AT_GEOMETRY) in outside:
            continue
        if label in plan.regrouped:
            rows = _rows_in_steps(plan.regrouped[label], lambda total, name=label: express(total, (name, AT_GEOMETRY)))
        else:
            rows = _rows_alone(whole, plan.pairs)
        found[label] = _unit_products(rows, plan.pairs, matrix, target)
    return found


def _rows_alone(weights: Array, pairs: Pairs) -> Array:
    """Gradients of pairs that share nothing: n · m_p times the pair's own part, so that the mean over a prompt's pairs,
    and over prompts, is the gradient of the batch. [N, B] -> [M, N·B]."""
    scale = len(pairs.counts) * pairs.counts[pairs.prompt]
    member = (pairs.of[None, :] == np.arange(len(pairs.prompt))[:, None]) * scale[:, None]
    return (member[:, :, None] * weights[None]).reshape(len(pairs.prompt), -1)


def _rows_in_steps(regrouped: Regrouped, express: Callable[[Totals], Array]) -> Array:
    """Pseudo-values of the pairs within their step of m pairs, m·ĝ − (m − 1)·ĝ₍₋ᵤ₎ less what makes their mean another
    than ĝ, [M, N·B]."""
    rows: list[Array] = [np.empty(0)] * len(regrouped.step)
    for number, total in enumerate(regrouped.steps):
        whole = express(total.laid_out()).reshape(-1)
        members = np.flatnonzero(regrouped.step == number)
        m = len(members)
        if m == 1:
            rows[members[0]] = whole
            continue
        left = [part for pair in members.tolist() if (part := regrouped.without[pair]) is not None]
        values = np.stack([m * whole - (m - 1) * express(part.laid_out()).reshape(-1) for part in left])
        values += whole - values.mean(axis=0)
        for pair, value in zip(members, values, strict=True):
            rows[pair] = value
    return np.stack(rows)


def _unit_products(rows: Array, pairs: Pairs, matrix: Array, target: Array) -> UnitProducts:
    flat = csr_array(rows) if np.count_nonzero(rows) < 0.1 * rows.size else rows
    mapped = np.asarray(flat @ matrix)
    squares = np.asarray((flat * mapped).sum(axis=1)).reshape(-1)
    mean = (np.arange(len(pairs.counts))[:, None] == pairs.prompt) / pairs.counts[:, None]
    return UnitProducts(
        own=mean @ np.asarray(flat @ mapped.T) @ mean.T, cross=mean @ np.asarray(flat @ target), squares=mean @ squares
    )
