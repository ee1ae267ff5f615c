"""Coefficients with every unit left out, for many methods that couple the batch.

The trajectory side sees of the reward side only the advantages and which samples count. So all units are left out at
once: each row of a stack holds the advantages of the rest, and the unit's own samples are not kept and not counted.

Letters: N sequences, T tokens, Q quantities, n units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradaxis.diagnostics.candidates import check_finite, totals_of
from gradaxis.diagnostics.lattice.hybrids import identify_reward
from gradaxis.diagnostics.lattice.unit_weights import Index, UnitWeights, coupled_unit_weights, unit_weights
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.units import Totals
from gradaxis.estimators import CompiledEstimator
from gradaxis.estimators.coefficients import evaluate_trajectory
from gradaxis.estimators.flow import Advantage, evaluate_reward
from gradaxis.estimators.inputs import Inputs, prepare
from gradaxis.estimators.quantities import QUANTITIES
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import AXES, Method

PER_EVALUATION = 7_000
"""Tokens that take as long as calling an estimator does."""

AGREES = 1e-4
"""Relative difference up to which leaving a unit out at once is the same as leaving its rows away."""

VALUES_AT_ONCE = 2**23


def total_of(estimator: CompiledEstimator, batch: RolloutBatch, names: Sequence[str]) -> Array:
    """Coefficients [N, Q·T] in float64. Without terms they are ω·A, to the last digit."""
    key = ("", "whole" if _has_terms(estimator) else "task")
    totals = totals_of({key: estimator}, batch)[key]
    check_finite(totals, estimator.label)
    return flatten(totals, names)


class LeaveOuts:
    """One kind of unit, and the batch without each of them.

    Args:
        batch: N sequences. of: the unit of each [N]. share: the weight of each unit in the mean that is the gradient of
            the batch [n], or one number for all.
    """

    def __init__(self, batch: RolloutBatch, of: Index, share: Array | float) -> None:
        count = int(of.max()) + 1
        self._batch, self._of = batch, of
        self._share = np.broadcast_to(np.asarray(share, dtype=float), (count,))
        self._kept = [torch.from_numpy(np.flatnonzero(of != unit)).to(batch.device) for unit in range(count)]
        self._rests: list[RolloutBatch] = []
        self._advantages: tuple[str, Advantage] | None = None
        self.work = count * (batch.tokens.numel() + PER_EVALUATION)

    def units(self, estimator: CompiledEstimator, total: Array, names: Sequence[str]) -> UnitWeights:
        """The unit gradients of a method whose coefficients on the whole batch are `total` [N, Q·T]."""
        if estimator.couples != "batch":
            return unit_weights(total, self._of, self._share)
        if not self._rests:
            self._rests = [self._batch.rows(rows) for rows in self._kept]
        without = None if _has_terms(estimator) else self._at_once(estimator.method, names)
        if without is None or not self._agree(estimator, without[0], names):
            without = np.stack([self._without(estimator, unit, names) for unit in range(len(self._kept))])
        return coupled_unit_weights(total, without, self._of, self._share)

    def _without(self, estimator: CompiledEstimator, unit: int, names: Sequence[str]) -> Array:
        found = np.zeros((len(self._of), len(names) * self._batch.tokens.shape[1]))
        found[self._kept[unit].cpu().numpy()] = total_of(estimator, self._rests[unit], names)
        return found

    def _agree(self, estimator: CompiledEstimator, first: Array, names: Sequence[str]) -> bool:
        expected = self._without(estimator, 0, names)
        return bool(np.abs(first - expected).max() <= AGREES * np.abs(expected).max())

    def _at_once(self, method: Method, names: Sequence[str]) -> Array:
        """ω·A without each unit [n, N, Q·T]."""
        all_of = self._advantages_of(method)
        inputs = _inputs(self._batch)

        def weigh(value: Tensor, outcome: Tensor, kept: Tensor, counted: Tensor) -> Tensor:
            advantage = Advantage(value, all_of.level, outcome, kept, counted)
            parts = evaluate_trajectory(method.slots, advantage, inputs)
            return parts.omega * parts.advantage

        step = max(1, VALUES_AT_ONCE // max(1, self._batch.tokens.numel()))
        with torch.no_grad():
            pieces = [
                torch.func.vmap(weigh)(*(part[start : start + step] for part in
                                         (all_of.value, all_of.outcome, all_of.kept, all_of.counted)))
                for start in range(0, len(self._kept), step)
            ]  # fmt: skip
        found = torch.cat(pieces).double().cpu()
        nothing = torch.zeros_like(found)
        return torch.cat([found if name == "logp" else nothing for name in names], dim=2).numpy()

    def _advantages_of(self, method: Method) -> Advantage:
        """What the reward side hands over without each unit, all fields with a first dimension of n."""
        name = identify_reward(method)
        if self._advantages is None or self._advantages[0] != name:
            self._advantages = name, self._stack(method)
        return self._advantages[1]

    def _stack(self, method: Method) -> Advantage:
        coupled = any(
            placed.couples == "batch" for slot, items in method.all_slots().items()
            if slot.split(".")[-1] in AXES["reward"] for placed in items
        )  # fmt: skip
        whole = evaluate_reward(method.slots, method.streams, _inputs(self._batch))
        fields = {name: [] for name in ("value", "outcome", "kept", "counted")}
        for rows, rest in zip(self._kept, self._rests, strict=True):
            left = evaluate_reward(method.slots, method.streams, _inputs(rest)) if coupled else None
            for name, values in fields.items():
                full = getattr(whole, name)
                part = full[rows] if left is None else getattr(left, name)
                values.append(torch.zeros_like(full).index_copy(0, rows, part.to(full.dtype)))
        return Advantage(level=whole.level, **{name: torch.stack(values) for name, values in fields.items()})


def flatten(totals: Totals, names: Sequence[str]) -> Array:
    """Coefficients [N, Q·T] in float64; zero where a quantity has none."""
    nothing = torch.zeros_like(next(iter(totals.values())))
    return torch.cat([totals.get(name, nothing).double().cpu() for name in names], dim=1).numpy()


def _has_terms(estimator: CompiledEstimator) -> bool:
    return bool(estimator.method.slots["terms"])


def _inputs(batch: RolloutBatch) -> Inputs:
    columns = {name: batch.columns[name] for name in QUANTITIES if name in batch.columns}
    return prepare(batch, columns, tuple(columns))
