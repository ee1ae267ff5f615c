"""The general estimator with special parameters equals the special one: one table, compared as coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp

import pytest
import torch
from torch import Tensor

from gradaxis.estimators import CompiledEstimator, compile, contract_batch
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import Registry

WIDE = "trust_region.low=1e9,trust_region.high=1e9"

TABLE = [
    ("grpo without KL and a reference that agrees", "grpo[terms.coefficient=0]", "grpo", "ref-is-policy"),
    ("bounds beyond every ratio", f"grpo[{WIDE}]", "grpo", "drift-of-5-percent"),
    ("no lower bound, and one below zero", "cispo", "cispo[trust_region.low=1e9]", ""),
    ("cispo without a bound met has the gradient of the plain ratio", "cispo[trust_region.high=1e9]",
     f"dapo[{WIDE},selection.statistics=all]", ""),
    ("a sequence ratio of one token is a token ratio", "gspo[trust_region.low=0.2,trust_region.high=0.2]", "grpo",
     "one-token"),
    ("leave-one-out and mean agree up to G/(G-1)", "rloo[shaping.coefficient=0,baseline.statistic=mean]",
     "rloo[shaping.coefficient=0]", "groups-of-four"),
    ("token and sequence means agree on one length", "grpo[aggregation.weight=one,aggregation.constant=tokens]", "grpo",
     "one-length"),
    ("Dr. GRPO's constant is the length when all have it", "dr-grpo", "dr-grpo[aggregation.constant=tokens]",
     "one-length"),
    ("λ = 1 and γ = 1: the reward minus the value", "ppo[credit.lam=1.0]", "reward-minus-value", ""),
    ("no teacher signal", "grpo-opd[credit.coefficient=0]", "grpo", ""),
    ("no step signal", "gigpo[credit.weights={main: 1.0, step: 0.0},terms.coefficient=0]", "centred-grpo", ""),
    ("fresh samples: every ratio is one and no bound acts", "dapo", f"dapo[{WIDE}]", "fresh"),
    ("fresh samples: a stopped ratio is a ratio", "cispo", "dapo[selection.statistics=all]", "fresh"),
    ("the penalty in the reward, by token and by sequence", "rloo[shaping.unit=token]", "rloo", "one-token"),
]  # fmt: skip
"""Reading, two entries, and the batch on which they agree."""


def adapt(batch: RolloutBatch, case: str) -> RolloutBatch:
    logp = batch.columns["logp"]
    whole = torch.zeros_like(batch.mask)
    match case:
        case "fresh":
            return batch.with_columns({"old_logp": logp})
        case "ref-is-policy":
            return batch.with_columns({"ref_logp": logp})
        case "drift-of-5-percent":
            return batch.with_columns({"old_logp": logp + 0.05 * (batch.columns["old_logp"] - logp).clamp(-1, 1)})
        case "one-token":
            whole[:, 0] = True
            return replace(batch, mask=whole, response=whole, turns=None)
        case "one-length":
            whole[:, :5] = True
            return replace(batch, mask=whole, response=whole, turns=None, provenance={"max_new_tokens": 5})
        case "groups-of-four":
            return batch.rows([0, 1, 2, 3, 7, 8, 9, 10])
    return batch


def build(text: str, registry: Registry) -> CompiledEstimator:
    """An entry of the table; two of its entries are made of others by taking an operator out."""
    if text == "reward-minus-value":
        ppo = compile("ppo", registry=registry).method
        return compile(replace(ppo, slots={**ppo.slots, "credit": ()}))
    if text == "centred-grpo":
        grpo = compile("grpo[terms.coefficient=0]", registry=registry).method
        return compile(replace(grpo, slots={**grpo.slots, "scale": ()}))
    return compile(text, registry=registry)


@pytest.mark.parametrize(("reading", "general", "special", "case"), TABLE, ids=[row[0] for row in TABLE])
def test_reduction(reading: str, general: str, special: str, case: str, registry: Registry) -> None:
    batch = adapt(contract_batch(), case)
    one, other = (build(text, registry).coefficients(batch).total["logp"] for text in (general, special))
    factor = 4 / 3 if "G/(G-1)" in reading else 1.0
    assert float(other.abs().max()) > 0
    torch.testing.assert_close(one * factor, other, rtol=1e-12, atol=1e-15)


def test_full_product_ratio_is_importance_sampling(
    ragged_batch: Callable[..., RolloutBatch], registry: Registry
) -> None:
    """Product ratio, sum over tokens, mean over sequences: L = (1/N) Σ_i w_i R_i, with w_i R_i / N at each token."""
    batch = ragged_batch(5)
    base = compile("reinforce", registry=registry).method
    ratio = compile("gspo[ratio.pool=product]", registry=registry).method.slots["ratio"]
    estimator = compile(replace(base, slots={**base.slots, "ratio": ratio}))
    logp, old = batch.columns["logp"], batch.columns["old_logp"]
    size, expected, value = batch.size, torch.zeros_like(batch.mask, dtype=torch.float64), 0.0
    for i in range(size):
        tokens = [t for t in range(batch.mask.shape[1]) if batch.mask[i, t]]
        weight = exp(sum(float(logp[i, t] - old[i, t]) for t in tokens))
        value += weight * float(batch.rewards[i, 0]) / size
        for t in tokens:
            expected[i, t] = weight * float(batch.rewards[i, 0]) / size
    assert float(estimator.objective({"logp": logp}, batch)) == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(estimator.coefficients(batch).total["logp"], expected, rtol=1e-12, atol=1e-15)


def test_value_of_the_product_surrogate_estimates_j_without_bias(registry: Registry) -> None:
    """All answers of two tokens over two letters, weighed by the old policy: the expected L is J of the new policy."""
    base = compile("reinforce", registry=registry).method
    ratio = compile("gspo[ratio.pool=product]", registry=registry).method.slots["ratio"]
    estimator = compile(replace(base, slots={**base.slots, "ratio": ratio}))
    old, new = (torch.tensor(p, dtype=torch.float64) for p in ((0.3, 0.7), (0.6, 0.4)))
    rewards = {(0, 0): 1.0, (0, 1): 0.2, (1, 0): 0.0, (1, 1): 0.5}
    expected = sum(float(new[a] * new[b]) * reward for (a, b), reward in rewards.items())
    template, total = contract_batch().rows([0]), 0.0
    mask = torch.tensor([[True, True, *[False] * 7]])
    for (a, b), reward in rewards.items():
        columns = {name: _row(policy.log(), a, b) for name, policy in (("logp", new), ("old_logp", old))}
        batch = replace(template, mask=mask, response=mask, turns=None, columns={},
                        rewards=torch.tensor([[reward]], dtype=torch.float64)).with_columns(columns)  # fmt: skip
        total += float(old[a] * old[b]) * float(estimator.objective({"logp": columns["logp"]}, batch))
    assert total == pytest.approx(expected, rel=1e-12)


def _row(logp: Tensor, first: int, second: int) -> Tensor:
    return torch.cat([logp[[first, second]], torch.zeros(7, dtype=torch.float64)]).unsqueeze(0)
