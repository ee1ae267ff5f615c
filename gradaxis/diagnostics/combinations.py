"""Every trajectory half with every reward half: ten thousand estimators for the price of a few.

No combination is compiled, and none needs the model: its coefficients are expressed in the stored patterns, and all
that is reported are quadratic forms on the stored Gram matrix.

Letters: M₁ trajectory halves, M₂ reward halves, N sequences, B patterns, R = N·B rows, n prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradaxis.diagnostics.plan import TOLERATED
from gradaxis.diagnostics.quadratic_form import NUMBERS, QuadraticForm, Target
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.units import units_of
from gradaxis.diagnostics.variants import replace_slots, same_slot
from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators import compile
from gradaxis.estimators.flow import Advantage
from gradaxis.estimators.gradients import Patterns
from gradaxis.estimators.halves import Half, advantage_of, totals_over_advantages
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import AXES, Method, Registry


@dataclass(frozen=True)
class Combinations:
    """Numbers of every pair, [M₁, M₂], NaN where `skipped` has a reason for the pair (by the two labels).

    `square` is |ĝ|² of this batch; `signal` the unbiased |G|²; `trace` tr Σ of a prompt's gradient; `gain` ⟨G, T⟩/|T|²
    and `cosine`, both bias-corrected (NaN where noise makes a squared norm negative); `efficiency` cos²/(1 + B/n) with
    B = tr Σ/|G|², estimated as ⟨G, T⟩²/(|T|²·|ĝ|²); `residual` the part of the coefficients outside the patterns.
    `held` marks pairs that couple the batch where their statistics were held as they are on the whole batch: `signal`,
    `trace`, `cosine` and `gain` then leave out how a prompt moves them.
    """

    trajectory: tuple[str, ...]
    reward: tuple[str, ...]
    square: Array
    signal: Array
    trace: Array
    gain: Array
    cosine: Array
    efficiency: Array
    residual: Array
    held: Array
    skipped: Mapping[tuple[str, str], str]


def halves_of(methods: Sequence[Method], registry: Registry, axis: str) -> tuple[list[Half], dict[str, str]]:
    """The distinct halves of methods on one axis, and why others make none, both by the method's label.

    `sampling` is held fixed: it acted before the rollouts were drawn.
    """
    halves: list[Half] = []
    reasons: dict[str, str] = {}
    other = AXES["reward" if axis == "trajectory" else "trajectory"]
    empty = dict.fromkeys((*other, "sampling"), ())
    for method in methods:
        bare = replace_slots(method, method.label, registry.methods, **empty)
        if any(_same_half(bare, half.estimator.method) for half in halves):
            continue
        try:
            halves.append(Half(method.label, axis, compile(bare)))  # type: ignore[arg-type]
        except GradaxisError as error:
            reasons[method.label] = str(error)
    return halves, reasons


def score_combinations(
    trajectory: Sequence[Half],
    reward: Sequence[Half],
    batch: RolloutBatch,
    patterns: Patterns,
    matrix: Array,
    target: Target,
    leave_out: bool = False,
) -> Combinations:
    """Score all M₁·M₂ combinations of halves on stored results.

    Args:
        trajectory, reward: halves with different labels (`halves_of`).
        batch: the scored rollouts. patterns, matrix: of the same rollouts, as stored.
        target: of bias.
        leave_out: for combinations that couple the batch, take pseudo-values with each prompt left out in turn, which
            costs n times as much; otherwise their statistics are held.

    Raises:
        InputError: patterns or a matrix of another batch, or labels that are not unique.
    """
    _check(trajectory, reward, batch, patterns, matrix)
    form = QuadraticForm(torch.from_numpy(np.ascontiguousarray(matrix)), units_of(batch), patterns.size, target)
    shape = (len(trajectory), len(reward))
    found = {name: np.full(shape, np.nan) for name in (*NUMBERS, "residual")}
    held, skipped = np.zeros(shape, dtype=bool), {}
    advantages = _advantages(reward, batch)
    rests = _rests(batch, form.units) if leave_out else []
    for row, half in enumerate(trajectory):
        places = _fitting(half, reward, batch, advantages, skipped)
        if not places:
            continue
        try:
            weights, residual = _express(half, [advantages[place] for place in places], batch, patterns)
        except GradaxisError as error:
            skipped.update({(half.label, reward[place].label): str(error) for place in places})
            continue
        couples = np.array(["batch" in (half.estimator.couples, reward[p].estimator.couples) for p in places])
        values = form.score(weights)
        if leave_out and couples.any():
            chosen = np.flatnonzero(couples)
            left = [_without(half, [reward[places[k]] for k in chosen], rest, rows, patterns)
                    for rest, rows in rests]  # fmt: skip
            again = form.score_pseudo_values(weights[chosen], torch.stack(left, dim=1))
            for name in NUMBERS:
                values[name][chosen] = again[name]
        for name in NUMBERS:
            found[name][row, places] = values[name]
        found["residual"][row, places] = residual
        held[row, places] = couples & (not leave_out)
        for place, rest in zip(places, residual, strict=True):
            if not rest <= TOLERATED:
                reason = f"{rest:.1e} of its coefficients lie outside the stored patterns"
                skipped[half.label, reward[place].label] = reason
                for name in NUMBERS:
                    found[name][row, place] = np.nan
    return Combinations(
        tuple(half.label for half in trajectory), tuple(half.label for half in reward), held=held, skipped=skipped,
        **found,
    )  # fmt: skip


def _advantages(reward: Sequence[Half], batch: RolloutBatch) -> dict[int, Advantage | str]:
    """What every reward half hands over, or why it does not."""
    found: dict[int, Advantage | str] = {}
    for place, half in enumerate(reward):
        try:
            missing = half.missing(batch)
            found[place] = str(missing[0]) if missing else advantage_of(half, batch)
        except GradaxisError as error:
            found[place] = str(error)
    return found


def _fitting(
    half: Half, reward: Sequence[Half], batch: RolloutBatch, advantages: Mapping[int, Advantage | str],
    skipped: dict[tuple[str, str], str],
) -> list[int]:  # fmt: skip
    """The reward halves that go with a trajectory half; the reasons of the others are added to `skipped`."""
    lacking = half.missing(batch)
    fitting = []
    for place, other in enumerate(reward):
        advantage = advantages[place]
        unmet = (half.required | other.required) - half.standing - other.standing
        if lacking or isinstance(advantage, str) or unmet:
            reason = str(lacking[0]) if lacking else advantage if isinstance(advantage, str) else ""
            skipped[half.label, other.label] = reason or f"it has no meaning without {', '.join(sorted(unmet))}"
        else:
            fitting.append(place)
    return fitting


def _express(
    half: Half, advantages: Sequence[Advantage | str], batch: RolloutBatch, patterns: Patterns
) -> tuple[Tensor, Array]:
    """Weights [A, R] on the patterns, and the residual [A]: the largest part of a sequence's coefficients outside."""
    chosen = [advantage for advantage in advantages if isinstance(advantage, Advantage)]
    totals = totals_over_advantages(half, batch, chosen)
    unknown = [name for name in totals if name not in patterns.quantities and bool(totals[name].ne(0).any())]
    if unknown:
        raise InputError("combination", f"coefficients of {unknown[0]!r}", f"of {', '.join(patterns.quantities)} only")
    empty = next(iter(totals.values())).new_zeros(()).expand(len(chosen), *batch.tokens.shape)
    stacked = torch.stack([totals.get(name, empty).double().cpu() for name in patterns.quantities], dim=2).flatten(2)
    basis = patterns.vectors.flatten(2).cpu()
    weights = torch.einsum("nbk,ank->anb", basis, stacked)
    rest = (stacked - torch.einsum("nbk,anb->ank", basis, weights)).norm(dim=2)
    residual = rest / stacked.norm(dim=2).clamp(min=torch.finfo(torch.float64).tiny)
    return weights.flatten(1), residual.amax(dim=1).numpy()


def _rests(batch: RolloutBatch, units: NDArray[np.int64]) -> list[tuple[RolloutBatch, Tensor]]:
    """The batch without each prompt in turn, with the numbers of the rows that are left."""
    left = [torch.from_numpy(np.flatnonzero(units != unit)) for unit in range(int(units.max()) + 1)]
    return [(batch.rows(rows), rows) for rows in left]


def _without(half: Half, reward: Sequence[Half], rest: RolloutBatch, rows: Tensor, patterns: Patterns) -> Tensor:
    """Weights [A, R] of combinations computed anew without a prompt, zero on its rows."""
    weights, _ = _express(half, [advantage_of(other, rest) for other in reward], rest, patterns.rows(rows))
    whole = weights.new_zeros(len(weights), len(patterns.vectors), patterns.size)
    whole[:, rows] = weights.unflatten(1, (len(rows), patterns.size))
    return whole.flatten(1)


def _same_half(one: Method, other: Method) -> bool:
    slots = all(same_slot(one, other, slot) for slot in one.slots)
    streams = {
        name: [[item.computes for item in items] for items in slots.values()] for name, slots in one.streams.items()
    }
    others = {
        name: [[item.computes for item in items] for items in slots.values()] for name, slots in other.streams.items()
    }
    return slots and streams == others


def _check(
    trajectory: Sequence[Half], reward: Sequence[Half], batch: RolloutBatch, patterns: Patterns, matrix: Array
) -> None:
    for side in (trajectory, reward):
        labels = [half.label for half in side]
        if len(set(labels)) != len(labels):
            raise InputError("halves", f"labels {labels}", "a label of its own for each")
    size = len(patterns.vectors) * patterns.size
    if len(patterns.vectors) != batch.size or matrix.shape != (size, size):
        got = f"patterns of {len(patterns.vectors)} sequences and a matrix of shape {matrix.shape}"
        raise InputError("patterns", got, f"those of the {batch.size} sequences of the batch")
