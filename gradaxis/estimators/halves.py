"""The two sides of an estimator apart, so that every pair of halves costs next to nothing.

The trajectory side sees of the reward side only the advantages and which samples were kept. So each reward half is
evaluated once, and each trajectory half once for all advantages together.

Letters: A reward halves, N sequences, T response positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gradaxis.errors import MissingInputError
from gradaxis.estimators.coefficients import evaluate_trajectory
from gradaxis.estimators.compile import CompiledEstimator
from gradaxis.estimators.flow import Advantage, evaluate_reward
from gradaxis.estimators.inputs import Inputs, prepare
from gradaxis.estimators.rollouts.batch import RolloutBatch

VALUES_AT_ONCE = 2**23
"""Coefficients of one trajectory half computed together, over all advantages."""


@dataclass(frozen=True)
class Half:
    """One side of a method: `estimator` is compiled with the other side empty, and `sampling` too."""

    label: str
    axis: Literal["trajectory", "reward"]
    estimator: CompiledEstimator

    @property
    def standing(self) -> frozenset[str]:
        """`slot.operator` of everything that stands in this half."""
        return frozenset(f"{slot.split('.')[-1]}.{placed.operator}" for slot, placed in self._placed())

    @property
    def required(self) -> frozenset[str]:
        """`slot.operator` of everything without which an operator of this half has no meaning."""
        return frozenset(need for _, placed in self._placed() for need in placed.declaration.requires)

    def missing(self, batch: RolloutBatch) -> list[MissingInputError]:
        """Every input that the half lacks."""
        return self.estimator.missing(batch)

    def _placed(self) -> list[tuple[str, Any]]:
        return [(slot, placed) for slot, items in self.estimator.method.all_slots().items() for placed in items]


def advantage_of(half: Half, batch: RolloutBatch) -> Advantage:
    """What the reward half hands over. Raises as `CompiledEstimator.coefficients`."""
    method = half.estimator.method
    return evaluate_reward(method.slots, method.streams, _inputs(half, batch))


def totals_over_advantages(half: Half, batch: RolloutBatch, advantages: Sequence[Advantage]) -> dict[str, Tensor]:
    """The coefficients of a trajectory half with every advantage: quantity to [A, N, T], without gradient.

    Args:
        half: of the trajectory side.
        batch: the rollouts, with the columns of the quantities.
        advantages: A of them; the trajectory side sees them at tokens, whatever level they come from.
    """
    inputs = _inputs(half, batch)
    leaves = {name: value.detach() for name, value in inputs.quantities.items()}

    def objective(
        quantities: Mapping[str, Tensor], value: Tensor, outcome: Tensor, kept: Tensor, counted: Tensor
    ) -> Tensor:
        parts = evaluate_trajectory(
            half.estimator.method.slots, Advantage(value, "token", outcome, kept, counted),
            Inputs(inputs.batch, dict(quantities)),
        )  # fmt: skip
        return parts.policy + parts.terms

    given = [(one.value, one.outcome, one.kept, one.counted) for one in advantages]
    stacked = tuple(torch.stack(list(parts)) for parts in zip(*given, strict=True))
    step = max(1, VALUES_AT_ONCE // max(1, batch.tokens.numel()))
    gradient = torch.func.vmap(torch.func.grad(objective), in_dims=(None, 0, 0, 0, 0))
    pieces = [
        gradient(leaves, *(part[start : start + step] for part in stacked)) for start in range(0, len(given), step)
    ]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in leaves}


def _inputs(half: Half, batch: RolloutBatch) -> Inputs:
    names = half.estimator.quantities
    return prepare(batch, {name: batch.column(name) for name in names}, names)
