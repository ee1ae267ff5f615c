"""Fast scores of combinations against compiled estimators and explicit gradient vectors, one combination at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.combinations import Combinations, halves_of, score_combinations
from gradaxis.diagnostics.quadratic_form import Target
from gradaxis.diagnostics.units import units_of
from gradaxis.diagnostics.variants import replace_slots
from gradaxis.errors import InputError
from gradaxis.estimators import compile
from gradaxis.estimators.contract import contract_batch
from gradaxis.estimators.gradients import Patterns, build_patterns
from gradaxis.estimators.halves import Half
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import AXES, Method, Registry

METHODS = (
    "reinforce,grpo,rloo,gspo,cispo,dapo,dr-grpo,reinforce-plus-plus,remax,ppo,gigpo,grpo-opd,"
    "grpo[terms.coefficient=0.1]"
)


def complete(batch: RolloutBatch) -> Patterns:
    total = {"logp": batch.mask.double(), "entropy": batch.mask.double()}
    return build_patterns([total], complete=True, mask=batch.mask)


class Case:
    """Rollouts, halves, and a gradient vector of ten numbers for every (token, quantity)."""

    def __init__(self, registry: Registry, seed: int = 4, names: str = METHODS) -> None:
        self.registry, self.batch = registry, contract_batch()
        self.methods = {method.label: method for method in registry.select(names)}
        self.patterns = complete(self.batch)
        generator = torch.Generator().manual_seed(seed)
        rows = len(self.patterns.vectors) * self.patterns.size
        self.vectors = torch.randn(rows, 10, generator=generator, dtype=torch.float64)
        self.vectors[~self.patterns.live.flatten()] = 0.0
        self.matrix = (self.vectors @ self.vectors.T).numpy()
        self.reference = torch.randn(rows, generator=generator, dtype=torch.float64)
        self.units = units_of(self.batch)
        self.trajectory, self.not_trajectory = halves_of(list(self.methods.values()), registry, "trajectory")
        self.reward, self.not_reward = halves_of(list(self.methods.values()), registry, "reward")

    def score(self, target: Target | None = None, **options: Any) -> Combinations:
        target = target or Target(weights=self.reference.numpy())
        return score_combinations(
            self.trajectory, self.reward, self.batch, self.patterns, self.matrix, target, **options
        )  # fmt: skip

    def method(self, trajectory: str, reward: str) -> Method:
        """The combination as a method of its own."""
        one, other = self.methods[trajectory], self.methods[reward]
        slots: dict[str, Any] = {slot: one.slots[slot] for slot in AXES["trajectory"]}
        slots |= {slot: other.slots[slot] for slot in AXES["reward"]} | {"sampling": ()}
        return replace_slots(other, "pair", self.registry.methods, **slots)

    def gradient(self, method: Method, rows: list[int]) -> torch.Tensor:
        """The gradient of a compiled combination on some sequences, as a vector."""
        coefficients = compile(method).coefficients(self.batch.rows(rows)).total
        weights, residual = self.patterns.rows(torch.tensor(rows)).express(coefficients)
        assert residual < 1e-12
        return weights.flatten() @ self.vectors.unflatten(0, (-1, self.patterns.size))[rows].flatten(0, 1)

    def unit_gradients(self, method: Method) -> torch.Tensor:
        """n times each prompt's own part, [n, 10]."""
        coefficients = compile(method).coefficients(self.batch).total
        weights = self.patterns.express(coefficients)[0]
        vectors = self.vectors.unflatten(0, (-1, self.patterns.size))
        n = int(self.units.max()) + 1
        return torch.stack([
            n * torch.einsum("nb,nbd->d", weights[self.units == unit], vectors[self.units == unit])
            for unit in range(n)
        ])  # fmt: skip


@pytest.fixture(scope="module")
def case(registry: Registry) -> Case:
    return Case(registry)


def statistics(units: torch.Tensor, mean: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """By loops over pairs of units: |ĝ|², the unbiased |G|², tr Σ, gain, cosine and efficiency."""
    n = len(units)
    pairs = [(j, k) for j in range(n) for k in range(n) if j != k]
    signal = float(sum(units[j] @ units[k] for j, k in pairs)) / len(pairs)
    inner = float(sum(units[j] @ target[k] for j, k in pairs)) / len(pairs)
    square = float(sum(target[j] @ target[k] for j, k in pairs)) / len(pairs)
    centred = units - units.mean(dim=0)
    found = {"square": float(mean @ mean), "signal": signal, "trace": float(centred.square().sum()) / (n - 1)}
    if square > 0:
        found |= {"gain": inner / square, "efficiency": inner**2 / (square * float(mean @ mean))}
        if signal > 0:
            found["cosine"] = inner / (signal * square) ** 0.5
    return found


def test_every_combination_equals_its_compiled_estimator(case: Case) -> None:
    scores = case.score()
    reference = case.reference.unflatten(0, (-1, case.patterns.size))
    vectors = case.vectors.unflatten(0, (-1, case.patterns.size))
    n = int(case.units.max()) + 1
    target = torch.stack([
        n * torch.einsum("nb,nbd->d", reference[case.units == unit], vectors[case.units == unit]) for unit in range(n)
    ])  # fmt: skip
    assert scores.square.shape == (len(case.trajectory), len(case.reward))
    assert len(case.trajectory) >= 8
    assert len(case.reward) >= 8
    compared = 0
    for row, left in enumerate(scores.trajectory):
        for column, right in enumerate(scores.reward):
            if (left, right) in scores.skipped:
                continue
            method = case.method(left, right)
            units = case.unit_gradients(method)
            expected = statistics(units, units.mean(dim=0), target)
            for name, value in expected.items():
                assert getattr(scores, name)[row, column] == pytest.approx(value, rel=1e-9, abs=1e-12), (left, right)
            assert scores.held[row, column] == (compile(method).couples == "batch")
            compared += 1
    assert compared > 60


def test_batch_coupled_combinations_with_each_prompt_left_out(case: Case) -> None:
    scores = case.score(leave_out=True)
    assert not scores.held.any()
    reference = case.reference.unflatten(0, (-1, case.patterns.size))
    vectors = case.vectors.unflatten(0, (-1, case.patterns.size))
    n = int(case.units.max()) + 1
    target = torch.stack([
        n * torch.einsum("nb,nbd->d", reference[case.units == unit], vectors[case.units == unit]) for unit in range(n)
    ])  # fmt: skip
    coupled = [
        (row, column) for row in range(len(scores.trajectory)) for column in range(len(scores.reward))
        if (scores.trajectory[row], scores.reward[column]) not in scores.skipped
        and compile(case.method(scores.trajectory[row], scores.reward[column])).couples == "batch"
    ]  # fmt: skip
    assert len(coupled) > 20
    every = list(range(case.batch.size))
    for row, column in coupled[::3]:
        method = case.method(scores.trajectory[row], scores.reward[column])
        whole = case.gradient(method, every)
        rows = [[i for i in every if case.units[i] != unit] for unit in range(n)]
        pseudo = torch.stack([n * whole - (n - 1) * case.gradient(method, left) for left in rows])
        units = pseudo - pseudo.mean(dim=0) + whole
        for name, value in statistics(units, whole, target).items():
            assert getattr(scores, name)[row, column] == pytest.approx(value, rel=1e-8, abs=1e-11)


def test_a_direction_that_is_known_exactly(case: Case) -> None:
    direction = torch.randn(10, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    along = (case.vectors @ direction).numpy()
    scores = case.score(Target(along=along, square=float(direction @ direction)))
    row, column = scores.trajectory.index("grpo"), scores.reward.index("rloo")
    gradient = case.gradient(case.method("grpo", "rloo"), list(range(case.batch.size)))
    gain = float(gradient @ direction / (direction @ direction))
    assert scores.gain[row, column] == pytest.approx(gain, rel=1e-9)


def test_one_ratio_a_sequence_goes_with_advantages_of_tokens(registry: Registry) -> None:
    case = Case(registry, names="grpo,gspo,gigpo,ppo,grpo-opd")
    scores = case.score()
    assert not scores.skipped
    row, column = scores.trajectory.index("gspo"), scores.reward.index("ppo")
    gradient = case.gradient(case.method("gspo", "ppo"), list(range(case.batch.size)))
    assert scores.square[row, column] == pytest.approx(float(gradient.square().sum()), rel=1e-9)


def test_what_lies_outside_the_patterns_is_skipped(case: Case) -> None:
    total = {"logp": case.batch.mask.double()}
    patterns = build_patterns([total])
    rows = len(patterns.vectors) * patterns.size
    scores = score_combinations(
        case.trajectory, case.reward, case.batch, patterns, np.eye(rows), Target(weights=np.ones(rows))
    )  # fmt: skip
    assert any("outside the stored patterns" in reason for reason in scores.skipped.values())
    for left, right in scores.skipped:
        assert np.isnan(scores.square[scores.trajectory.index(left), scores.reward.index(right)])
    assert ("reinforce", "rloo") not in scores.skipped  # one number a response: a multiple of the ones


def test_missing_columns_skip_a_half_and_not_the_others(registry: Registry) -> None:
    case = Case(registry, names="grpo,rloo,remax,reinforce")
    lacking = RolloutBatch(**{**vars(case.batch), "companions": {}})
    scores = score_combinations(
        case.trajectory, case.reward, lacking, case.patterns, case.matrix, Target(weights=case.reference.numpy())
    )  # fmt: skip
    without = {right for _, right in scores.skipped}
    assert without == {"remax"}
    assert "greedy" in scores.skipped["grpo", "remax"]


def test_equal_halves_count_once_and_other_input_is_refused(case: Case, registry: Registry) -> None:
    assert len({half.label for half in case.trajectory}) == len(case.trajectory)
    again, _ = halves_of([case.methods["rloo"], case.methods["rloo"]], registry, "reward")
    assert len(again) == 1
    twice = [case.reward[0], Half(case.reward[0].label, "reward", case.reward[1].estimator)]
    with pytest.raises(InputError, match="a label of its own"):
        score_combinations(
            case.trajectory, twice, case.batch, case.patterns, case.matrix, Target(weights=case.reference.numpy())
        )  # fmt: skip
    with pytest.raises(InputError, match="those of the"):
        score_combinations(
            case.trajectory, case.reward, case.batch, case.patterns, np.eye(3), Target(weights=case.reference.numpy())
        )  # fmt: skip
