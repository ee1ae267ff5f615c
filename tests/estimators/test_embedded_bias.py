"""What groups of two are expected to give on the embedded policy, beside the exact ∇J.

A batch is one group of G = 2 answers to one prompt, and its expectation is a sum over all pairs of answers: with
independent draws E[ĝ] = Σ_y Σ_z μ(y) μ(z) ĝ(y, z). Over prompts it is a mean. Answers of probability below a millionth
are left out of the pairs, never of ∇J.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.policies import HuggingFacePolicy, embedded_policy, enumerate_answers, exact_gradient
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask
from gradaxis.estimators.rollouts.batch import RolloutBatch

TASK = ArithmeticTask()
ITEMS = TASK.prompts(6, seed=0)
RAREST = 1e-6


@pytest.fixture(scope="module")
def policies() -> dict[str, HuggingFacePolicy]:
    return {name: embedded_policy(name, dtype="float64") for name in ("policy", "stale", "reference")}


@pytest.fixture(scope="module")
def listed(policies) -> tuple[RolloutBatch, dict[str, Tensor]]:
    """All answers with the columns that the methods read, and their probability under policy and snapshot."""
    batch, fresh = enumerate_answers(policies["policy"], TASK, ITEMS)
    stale, chance = enumerate_answers(policies["stale"], TASK, ITEMS)
    reference, _ = enumerate_answers(policies["reference"], TASK, ITEMS)
    columns = {"old_logp": stale.column("logp"), "ref_logp": reference.column("logp")}
    return batch.with_columns(columns), {"fresh": fresh, "stale": chance}


@pytest.fixture(scope="module")
def gradients(policies, listed) -> dict[str, Tensor]:
    """∇J, the gradient of the KL divergence from the reference, and what each method is expected to give."""
    batch, chance = listed
    probability = chance["fresh"]
    # ∇ KL(π‖ref) = Σ_y π(y) log(π(y)/ref(y)) ∇ log π(y), as Σ_y π(y) ∇ log π(y) = 0.
    ratio = (batch.column("logp") - batch.column("ref_logp")).sum(dim=1)
    fresh = batch.with_columns({"old_logp": batch.column("logp")})

    def expected(label: str, rows: RolloutBatch, law: str) -> Tensor:
        return _pull_back(policies["policy"], _expected_coefficients(compile(label), rows, chance[law]))

    objective = exact_gradient(policies["policy"], TASK, ITEMS)
    return {
        "objective": torch.cat([value.flatten() for value in objective.values()]),
        "divergence": _pull_back(policies["policy"], (probability * ratio)[:, None] * batch.mask / len(ITEMS)),
        "grpo": expected("grpo", fresh, "fresh"),
        "dr-grpo": expected("dr-grpo", fresh, "fresh"),
        "rloo": expected("rloo", fresh, "fresh"),
        "rloo without KL": expected("rloo[shaping.coefficient=0]", fresh, "fresh"),
        "stale dapo": expected("dapo", batch, "stale"),
    }


def test_leave_one_out_without_kl_gives_the_gradient_itself(gradients):
    error = (gradients["rloo without KL"] - gradients["objective"]).norm() / gradients["objective"].norm()
    assert error < 1e-3


def test_rloo_gives_the_gradient_of_its_regularised_objective(gradients):
    # The entry's coefficient is 0.03 and the KL stands in the reward: J − 0.03 KL(π‖ref).
    target = gradients["objective"] - 0.03 * gradients["divergence"]
    assert (gradients["rloo"] - target).norm() / target.norm() < 1e-3
    assert _differ(gradients["rloo"], gradients["objective"])


def test_dr_grpo_keeps_the_direction_and_scales_it(gradients):
    # The mean of two includes the sample itself, a factor 1 − 1/2; the constant is the longest answer, 4 tokens.
    objective, found = gradients["objective"], gradients["dr-grpo"]
    assert torch.cosine_similarity(found, objective, dim=0).item() > 1 - 1e-6
    assert _gain(found, objective) == pytest.approx(0.5 / 4, rel=1e-3)


@pytest.mark.parametrize("method", ["grpo", "stale dapo"])
def test_direction_is_another_where_spread_length_or_clip_enter(gradients, method):
    assert torch.cosine_similarity(gradients[method], gradients["objective"], dim=0).item() < 0.99


@pytest.mark.parametrize("pair", list(combinations(["objective", "grpo", "dr-grpo", "rloo", "stale dapo"], 2)))
def test_methods_differ_from_the_gradient_and_from_one_another(gradients, pair):
    assert _differ(gradients[pair[0]], gradients[pair[1]])


def test_one_batch_of_like_groups_is_many_batches_of_one(listed):
    # What `_expected_coefficients` rests on, for the method that divides by all tokens of a batch.
    batch, chance = listed
    estimator = compile("dapo")
    rows = torch.nonzero((batch.prompt == 2) & (chance["stale"] > 1e-4)).squeeze(1)[:12]
    together = {}
    for pairs, found in _by_kind(estimator, batch, torch.combinations(rows, 2)):
        together |= {tuple(pair): value for pair, value in zip(pairs.tolist(), found, strict=True)}
    for pair in list(together)[::5]:
        alone = estimator.coefficients(_in_groups(batch, torch.tensor([pair]))).total["logp"]
        torch.testing.assert_close(together[pair], alone, rtol=1e-10, atol=0)


def _expected_coefficients(estimator: CompiledEstimator, batch: RolloutBatch, chance: Tensor) -> Tensor:
    """Σ over pairs of probability times coefficient, for every token of every answer [N, T]; mean over prompts."""
    total = torch.zeros_like(batch.column("logp"))
    for prompt in range(len(ITEMS)):
        rows = torch.nonzero((batch.prompt == prompt) & (chance > RAREST)).squeeze(1)
        for pairs, found in _by_kind(estimator, batch, torch.cartesian_prod(rows, rows)):
            weighted = chance[pairs].prod(dim=1)[:, None, None] * found / len(ITEMS)
            total.index_add_(0, pairs.flatten(), weighted.flatten(0, 1))
    return total


def _by_kind(estimator: CompiledEstimator, batch: RolloutBatch, pairs: Tensor):
    """Pairs [K, 2] with the coefficients [K, 2, T] of a batch that is this pair alone.

    Pairs with the same number of tokens, all silent or none, go into one batch: a mean over it, whether of tokens or
    of sequences, is then the mean over its groups.
    """
    tokens = batch.length[pairs].sum(dim=1)
    silent = batch.reward[pairs[:, 0]] == batch.reward[pairs[:, 1]]
    for count in tokens.unique().tolist():
        for flag in (False, True):
            alike = pairs[(tokens == count) & (silent == flag)]
            if len(alike):
                found = estimator.coefficients(_in_groups(batch, alike)).total["logp"]
                yield alike, found.unflatten(0, (-1, 2)) * len(alike)


def _in_groups(batch: RolloutBatch, pairs: Tensor) -> RolloutBatch:
    rows = batch.rows(pairs.flatten())
    group = torch.arange(len(pairs)).repeat_interleave(2)
    return replace(rows, group=group, trajectory=torch.arange(rows.size))


def _pull_back(policy: HuggingFacePolicy, coefficients: Tensor) -> Tensor:
    """Σ C ∇ log π over all tokens of all answers, as one vector."""
    batch, _ = enumerate_answers(policy, TASK, ITEMS, grad=True)
    scalar = (coefficients * batch.column("logp")).sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(scalar, list(policy.model.parameters()))])


def _gain(found: Tensor, objective: Tensor) -> float:
    return (found @ objective / objective.pow(2).sum()).item()


def _differ(one: Tensor, other: Tensor, share: float = 0.01) -> bool:
    """By more than 1 % in direction (the angle, in radians) or in length."""
    cosine = torch.cosine_similarity(one, other, dim=0).clamp(-1, 1)
    return torch.acos(cosine).item() > share or abs(one.norm() / other.norm() - 1).item() > share
