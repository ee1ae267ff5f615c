"""Every spine entry against a surrogate written out by hand, in loops, from the paper's equation.

Nothing of the package's operators is used here. Each function returns L; values and derivatives with respect to the
log-probabilities must agree to 1e-10 on the contract batch and on random ragged batches.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor

from gradaxis.estimators import compile, contract_batch
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import Registry

Surrogate = Callable[[Tensor, RolloutBatch], Tensor]


class Rows:
    """The batch as lists: `tokens[i]` are the positions that the policy wrote, `groups` the members of each group."""

    def __init__(self, batch: RolloutBatch) -> None:
        self.size = len(batch.completions)
        self.tokens = [[t for t, flag in enumerate(row) if flag] for row in batch.mask.tolist()]
        self.reward = [float(sum(row)) for row in batch.rewards.tolist()]
        self.group = batch.group.tolist()
        self.members = {g: [i for i in range(self.size) if self.group[i] == g] for g in self.group}
        self.count = sum(len(tokens) for tokens in self.tokens)


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """DeepSeekMath, equation 4: π_ref/π − log(π_ref/π) − 1."""
    ratio = torch.exp(ref - logp)
    return ratio - torch.log(ratio) - 1


def clipped(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    """PPO, equation 7: min(r A, clip(r, 1 − low, 1 + high) A)."""
    return torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - low, 1 + high) * advantage)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def sample_std(values: list[float]) -> float:
    """With the divisor n − 1."""
    center = mean(values)
    return sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1))


def standardised(rows: Rows, i: int) -> float:
    """DeepSeekMath, section 4.1.2, with 1e-4 added to the spread."""
    rewards = [rows.reward[j] for j in rows.members[rows.group[i]]]
    return (rows.reward[i] - mean(rewards)) / (sample_std(rewards) + 1e-4)


def reinforce(logp: Tensor, batch: RolloutBatch) -> Tensor:
    rows, total = Rows(batch), torch.zeros(())
    for i in range(rows.size):
        for t in rows.tokens[i]:
            total = total + rows.reward[i] * logp[i, t]
    return total / rows.size


def reinforce_baseline(logp: Tensor, batch: RolloutBatch) -> Tensor:
    rows, total = Rows(batch), torch.zeros(())
    for i in range(rows.size):
        for t in rows.tokens[i]:
            total = total + (rows.reward[i] - mean(rows.reward)) * logp[i, t]
    return total / rows.size


def remax(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """ReMax, algorithm 1: the reward minus that of the greedy answer to the same prompt."""
    rows, total = Rows(batch), torch.zeros(())
    greedy = batch.companions["greedy"]
    of_prompt = {p: sum(r) for p, r in zip(greedy.prompt.tolist(), greedy.rewards.tolist(), strict=True)}
    for i, prompt in enumerate(batch.prompt.tolist()):
        for t in rows.tokens[i]:
            total = total + (rows.reward[i] - of_prompt[prompt]) * logp[i, t]
    return total / rows.size


def rloo(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """Back to Basics, equations 3 and 9: R = r − β log(π_old/π_ref), minus the mean of the others."""
    rows, total = Rows(batch), torch.zeros(())
    old, ref = batch.columns["old_logp"], batch.columns["ref_logp"]
    penalised = [
        rows.reward[i] - 0.03 * sum(float(old[i, t] - ref[i, t]) for t in rows.tokens[i]) for i in range(rows.size)
    ]
    for i in range(rows.size):
        others = [penalised[j] for j in rows.members[rows.group[i]] if j != i]
        for t in rows.tokens[i]:
            total = total + (penalised[i] - mean(others)) * logp[i, t]
    return total / rows.size


def ppo(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """PPO, equation 7, with GAE (γ = 1, λ = 0.95) over the tokens that the policy wrote, averaged over all of them."""
    rows, total = Rows(batch), torch.zeros(())
    old, value = batch.columns["old_logp"], batch.columns["value"]
    for i in range(rows.size):
        following_value, following_advantage, advantages = 0.0, 0.0, {}
        for place, t in enumerate(reversed(rows.tokens[i])):
            received = rows.reward[i] if place == 0 else 0.0
            error = received + following_value - float(value[i, t])
            advantages[t] = error + 0.95 * following_advantage
            following_value, following_advantage = float(value[i, t]), advantages[t]
        for t in rows.tokens[i]:
            total = total + clipped(torch.exp(logp[i, t] - old[i, t]), advantages[t], 0.2, 0.2)
    return total / rows.count


def grpo(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """DeepSeekMath, equation 3, with β = 0.04."""
    rows, total = Rows(batch), torch.zeros(())
    old, ref = batch.columns["old_logp"], batch.columns["ref_logp"]
    for i in range(rows.size):
        for t in rows.tokens[i]:
            ratio = torch.exp(logp[i, t] - old[i, t])
            inner = clipped(ratio, standardised(rows, i), 0.2, 0.2) - 0.04 * k3(logp[i, t], ref[i, t])
            total = total + inner / len(rows.tokens[i])
    return total / rows.size


def dr_grpo(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """Dr. GRPO: no division by length or spread; the sum over tokens goes by the sampler's longest response."""
    rows, total = Rows(batch), torch.zeros(())
    old = batch.columns["old_logp"]
    for i in range(rows.size):
        advantage = rows.reward[i] - mean([rows.reward[j] for j in rows.members[rows.group[i]]])
        for t in rows.tokens[i]:
            total = total + clipped(torch.exp(logp[i, t] - old[i, t]), advantage, 0.2, 0.2)
    return total / (rows.size * batch.provenance["max_new_tokens"])


def dapo(logp: Tensor, batch: RolloutBatch, limit: int = 20480, buffer: int = 4096) -> Tensor:
    """DAPO, equations 8 to 13: only groups with different outcomes, the mean over their tokens, bounds 0.2 and 0.28."""
    rows, total, count = Rows(batch), torch.zeros(()), 0
    old = batch.columns["old_logp"]
    kept = [i for i in range(rows.size) if len({rows.reward[j] for j in rows.members[rows.group[i]]}) > 1]
    for i in range(rows.size):
        length = len(rows.tokens[i])
        if length > limit:
            rows.reward[i] -= 1
        elif length > limit - buffer:
            rows.reward[i] += (limit - buffer - length) / buffer
    for i in kept:
        for t in rows.tokens[i]:
            count += 1
            total = total + clipped(torch.exp(logp[i, t] - old[i, t]), standardised(rows, i), 0.2, 0.28)
    return total / max(count, 1) + 0 * logp[0, 0]


def gspo(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """GSPO, equations 5 to 7, with GRPO's KL term beside it."""
    rows, total = Rows(batch), torch.zeros(())
    old, ref = batch.columns["old_logp"], batch.columns["ref_logp"]
    for i in range(rows.size):
        length = len(rows.tokens[i])
        ratio = torch.exp(torch.stack([logp[i, t] - old[i, t] for t in rows.tokens[i]]).sum() / length)
        total = total + clipped(ratio, standardised(rows, i), 3e-4, 4e-4)
        total = total - 0.04 * sum(k3(logp[i, t], ref[i, t]) for t in rows.tokens[i]) / length
    return total / rows.size


def cispo(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """MiniMax-M1, equations 4 and 5: sg(min(r, 1 + high)) A log π, averaged over all tokens; no lower bound."""
    rows, total = Rows(batch), torch.zeros(())
    old = batch.columns["old_logp"]
    for i in range(rows.size):
        for t in rows.tokens[i]:
            weight = min(float(torch.exp(logp[i, t] - old[i, t]).detach()), 1.2)
            total = total + weight * standardised(rows, i) * logp[i, t]
    return total / rows.count


def reinforce_plus_plus(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """REINFORCE++, equations 1, 4 and 5: the return of each token, k1 included, standardised over all tokens."""
    rows, total = Rows(batch), torch.zeros(())
    old, ref = batch.columns["old_logp"], batch.columns["ref_logp"]
    returns: dict[tuple[int, int], float] = {}
    for i in range(rows.size):
        later = rows.reward[i]
        for t in reversed(rows.tokens[i]):
            later -= 0.01 * float(old[i, t] - ref[i, t])
            returns[i, t] = later
    center, spread = mean(list(returns.values())), sample_std(list(returns.values()))
    for (i, t), value in returns.items():
        ratio = torch.exp(logp[i, t] - old[i, t])
        total = total + clipped(ratio, (value - center) / (spread + 1e-8), 0.2, 0.2)
    return total / rows.count


def gigpo(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """GiGPO, equations 3 and 5 to 9: episode advantage plus that among turns from one state, F_norm = 1, γ = 0.95."""
    rows, total = Rows(batch), torch.zeros(())
    old, ref = batch.columns["old_logp"], batch.columns["ref_logp"]
    assert batch.turns is not None
    names = ("sequence", "start", "end", "reward", "anchor")
    turns = list(zip(*(getattr(batch.turns, name).tolist() for name in names), strict=True))
    returns = []
    for place, (i, *_) in enumerate(turns):
        later = [turn for turn in turns[place:] if turn[0] == i]
        returns.append(sum(0.95**k * turn[3] for k, turn in enumerate(later)))
    for place, (i, start, end, _, anchor) in enumerate(turns):
        same = [k for k, turn in enumerate(turns) if rows.group[turn[0]] == rows.group[i] and turn[4] == anchor]
        step = returns[place] - mean([returns[k] for k in same])
        episode = rows.reward[i] - mean([rows.reward[j] for j in rows.members[rows.group[i]]])
        for t in rows.tokens[i]:
            if start <= t < end:
                ratio = torch.exp(logp[i, t] - old[i, t])
                inner = clipped(ratio, episode + step, 0.2, 0.2) - 0.01 * k3(logp[i, t], ref[i, t])
                total = total + inner / len(rows.tokens[i])
    return total / rows.size


def grpo_opd(logp: Tensor, batch: RolloutBatch) -> Tensor:
    """GRPO whose advantage has log π_teacher − log π_old added to it at each token."""
    rows, total = Rows(batch), torch.zeros(())
    old, ref, teacher = (batch.columns[f"{name}_logp"] for name in ("old", "ref", "teacher"))
    for i in range(rows.size):
        for t in rows.tokens[i]:
            advantage = standardised(rows, i) + float(teacher[i, t] - old[i, t])
            inner = clipped(torch.exp(logp[i, t] - old[i, t]), advantage, 0.2, 0.2) - 0.04 * k3(logp[i, t], ref[i, t])
            total = total + inner / len(rows.tokens[i])
    return total / rows.size


SURROGATES: dict[str, Surrogate] = {
    "reinforce": reinforce, "reinforce-baseline": reinforce_baseline, "remax": remax, "rloo": rloo, "ppo": ppo,
    "grpo": grpo, "dr-grpo": dr_grpo, "dapo": dapo, "gspo": gspo, "cispo": cispo,
    "reinforce-plus-plus": reinforce_plus_plus, "gigpo": gigpo, "grpo-opd": grpo_opd,
}  # fmt: skip


def compare(name: str, surrogate: Surrogate, batch: RolloutBatch, registry: Registry) -> None:
    estimator = compile(name, registry=registry)
    logp = batch.columns["logp"].clone().requires_grad_()
    expected = surrogate(logp, batch)
    (gradient,) = torch.autograd.grad(expected, logp)
    gradient = torch.where(batch.mask, gradient, 0.0)
    ours = batch.columns["logp"].clone().requires_grad_()
    value = estimator.objective({"logp": ours}, batch)
    (direct,) = torch.autograd.grad(value, ours)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-10, abs=1e-10)
    assert float(gradient.abs().max()) > 0
    torch.testing.assert_close(direct, gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(estimator.coefficients(batch).total["logp"], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SURROGATES)
def test_entry_equals_the_surrogate_of_its_paper_on_the_contract_batch(name: str, registry: Registry) -> None:
    compare(name, SURROGATES[name], contract_batch(), registry)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", SURROGATES)
def test_entry_equals_the_surrogate_of_its_paper_on_ragged_batches(
    name: str, seed: int, ragged_batch: Callable[[int], RolloutBatch], registry: Registry
) -> None:
    compare(name, SURROGATES[name], ragged_batch(seed), registry)


@pytest.mark.parametrize("seed", range(4))
def test_dapo_with_a_length_penalty_that_acts(
    seed: int, ragged_batch: Callable[[int], RolloutBatch], registry: Registry
) -> None:
    """With limit 5 and buffer 3 responses of 3 tokens and more are penalised; the filter still looks at outcomes."""
    batch = ragged_batch(seed)
    entry = "dapo[shaping.limit=5,shaping.buffer=3]"
    compare(entry, lambda logp, rows: dapo(logp, rows, limit=5, buffer=3), batch, registry)


def test_every_executable_entry_has_a_surrogate(registry: Registry) -> None:
    assert {name for name, method in registry.methods.items() if method.executable} == set(SURROGATES)
