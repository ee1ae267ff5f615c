"""All answers of the embedded policy, and what is exact because they are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gradaxis.errors import InputError
from gradaxis.estimators.policies import (
    HuggingFacePolicy,
    answer_entropy,
    build_tree,
    effective_share,
    embedded_policy,
    enumerate_answers,
    exact,
    exact_gradient,
    exact_objective,
    exact_token_entropy,
    exact_values,
    expected_length,
    expected_reward,
    list_answers,
    mean_step_entropy,
    silent_group_probability,
    success_rate,
)
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings

TASK = ArithmeticTask()
ITEMS = TASK.prompts(3, seed=0)
"""One sum each of one, two and three digits."""


@pytest.fixture(scope="module", autouse=True)
def _norms_in_float64():
    """The normalisation of transformers computes in float32, whatever the weights; here differences are to be exact."""

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield


@pytest.fixture(scope="module")
def policy() -> HuggingFacePolicy:
    return embedded_policy("policy", dtype="float64")


@pytest.fixture(scope="module")
def enumerated(policy):
    return enumerate_answers(policy, TASK, ITEMS)


def test_tree_of_three_tokens_and_two_steps():
    # Tokens: 0 pads, 1 ends, 2 is a digit. Prefixes: (), (0), (2).
    tree = build_tree(vocabulary=3, end=1, pad=0, max_new_tokens=2)
    answers = {(tuple(row[:length]), cut) for row, length, cut in zip(
        tree.tokens.tolist(), tree.mask.sum(dim=1).tolist(), tree.truncated.tolist(), strict=True)}  # fmt: skip
    assert answers == {
        ((1,), False), ((0, 1), False), ((2, 1), False),
        ((0, 0), True), ((0, 2), True), ((2, 0), True), ((2, 2), True),
    }  # fmt: skip
    assert len(tree.tokens) == 7
    assert tree.token.tolist() == [0, 0, 2]
    assert tree.parent.tolist() == [0, 0, 0]
    assert tree.depth.tolist() == [0, 1, 1]
    assert tree.ancestors.tolist() == [[False] * 3, [False, True, False], [False, False, True]]


def test_tree_that_is_too_large_is_refused():
    with pytest.raises(InputError, match="small policies"):
        build_tree(vocabulary=50_000, end=1, pad=0, max_new_tokens=3)


def test_every_prompt_has_all_answers_and_probability_one(policy, enumerated):
    batch, probability = enumerated
    # 1 + 7 + 49 + 343 prefixes, each of which may end, and 7⁴ answers that are cut off.
    assert batch.size == 3 * (400 + 2401)
    for prompt in range(3):
        rows = batch.tokens[batch.prompt == prompt]
        assert len({tuple(row) for row in torch.where(batch.mask[batch.prompt == prompt], rows, -1).tolist()}) == 2801
        assert probability[batch.prompt == prompt].sum().item() == pytest.approx(1, abs=1e-12)


def test_log_probabilities_and_entropies_equal_a_plain_forward_pass(policy, enumerated):
    batch, _ = enumerated
    rows = batch.rows(torch.randperm(batch.size, generator=torch.Generator().manual_seed(0))[:300])
    plain = policy.quantities(rows, ("logp", "entropy"))
    torch.testing.assert_close(rows.column("logp"), plain["logp"], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(rows.column("entropy"), plain["entropy"], atol=1e-10, rtol=1e-10)


def test_temperature_is_that_of_the_batch(policy):
    batch, probability = enumerate_answers(policy, TASK, ITEMS[:1], temperature=2.0)
    rows = batch.rows(range(0, batch.size, 100))
    plain = policy.quantities(rows, ("logp",))
    torch.testing.assert_close(rows.column("logp"), plain["logp"], atol=1e-10, rtol=1e-10)
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)


def test_rewards_are_those_of_the_text(enumerated):
    batch, _ = enumerated
    by_text = {
        batch.completions[row]: batch.reward[row].item()
        for row in range(batch.size) if batch.prompt[row] == 2 and not batch.truncated[row]
    }  # fmt: skip
    answer = ITEMS[2].data["answer"]
    assert by_text[answer] == pytest.approx(1.0)
    assert by_text[""] == by_text["01"] == by_text[f"{answer[:2]}<pad>"] == by_text[f"+{answer[:2]}"] == 0.0
    assert by_text["0"] == pytest.approx(0.2)


def test_gradient_equals_the_score_function_sum_of_a_plain_forward_pass(policy):
    batch, probability = enumerate_answers(policy, TASK, ITEMS[2:])
    logp = policy.quantities(batch, ("logp",), grad=True)["logp"]
    parameters = dict(policy.model.named_parameters())
    loss = (probability * batch.reward * logp.sum(dim=1)).sum()
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    found = exact_gradient(policy, TASK, ITEMS[2:])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-9 * value.norm(), name


@pytest.mark.parametrize("functional", [expected_reward, success_rate, answer_entropy, mean_step_entropy])
def test_gradient_equals_finite_differences(policy, functional):
    gradient = exact_gradient(policy, TASK, ITEMS, functional)
    slope = _slope(policy, gradient, lambda: exact(policy, TASK, ITEMS, functional).mean().item())
    assert slope == pytest.approx(_norm(gradient), rel=1e-5)


def test_gradient_of_the_entropy_a_token_equals_finite_differences(policy):
    value, gradient = exact_token_entropy(policy, TASK, ITEMS)
    batch, probability = enumerate_answers(policy, TASK, ITEMS)
    tokens = probability[:, None] * batch.mask
    assert value == pytest.approx(((tokens * batch.column("entropy")).sum() / tokens.sum()).item(), rel=1e-10)
    slope = _slope(policy, gradient, lambda: exact_token_entropy(policy, TASK, ITEMS)[0])
    assert slope == pytest.approx(_norm(gradient), rel=1e-5)


def test_entropy_of_the_answer_is_the_sum_of_the_entropies_of_its_steps(enumerated, policy):
    batch, probability = enumerated
    by_steps = torch.zeros(3, dtype=torch.float64).index_add_(
        0, batch.prompt, probability * batch.column("entropy").sum(dim=1)
    )
    torch.testing.assert_close(exact(policy, TASK, ITEMS, answer_entropy), by_steps, rtol=1e-10, atol=0)


def test_objective_success_and_length_agree_with_sampled_rollouts(policy):
    rollouts = sample_rollouts(policy, TASK, ITEMS, SamplingSettings(group_size=400, seed=1))
    successes = (rollouts.reward > 0.9).double()
    for sampled, truth in (
        (rollouts.reward.double(), exact_objective(policy, TASK, ITEMS)),
        (successes, exact(policy, TASK, ITEMS, success_rate).mean().item()),
        (rollouts.length.double(), exact(policy, TASK, ITEMS, expected_length).mean().item()),
    ):
        within = torch.stack([sampled[rollouts.prompt == prompt].var() / 400 for prompt in range(3)])
        error = within.sum().sqrt().item() / 3
        assert 0 < error < 0.05
        assert abs(sampled.mean().item() - truth) < 4 * error


def test_silent_groups_of_two_equal_a_sum_over_all_pairs(policy):
    answers = next(list_answers(policy, TASK, ITEMS))
    found = silent_group_probability(answers, 2)
    for prompt in range(3):
        alike = answers.reward[prompt][:, None] == answers.reward[prompt][None, :]
        pairs = answers.probability[prompt][:, None] * answers.probability[prompt][None, :]
        assert found[prompt].item() == pytest.approx(pairs[alike].sum().item(), rel=1e-10)


def test_effective_share_is_that_of_weights_on_all_answers(policy):
    stale = embedded_policy("stale", dtype="float64")
    old, chance = enumerate_answers(stale, TASK, ITEMS)
    weight = (policy.quantities(old, ("logp",))["logp"].sum(dim=1) - old.column("logp").sum(dim=1)).exp()
    share = effective_share(policy, stale, TASK, ITEMS)
    for prompt in range(3):
        mu, w = chance[old.prompt == prompt], weight[old.prompt == prompt]
        assert share[prompt].item() == pytest.approx(((mu * w).sum() ** 2 / (mu * w**2).sum()).item(), rel=1e-8)
    torch.testing.assert_close(effective_share(policy, policy, TASK, ITEMS), torch.ones(3, dtype=torch.float64))


def test_values_are_conditional_expectations(policy, enumerated):
    everything, probability = enumerated
    rollouts = sample_rollouts(policy, TASK, ITEMS, SamplingSettings(group_size=3, seed=3))
    value = exact_values(policy, TASK, rollouts)
    for row in range(rollouts.size):
        for position in range(int(rollouts.length[row])):
            prefix = rollouts.tokens[row, :position]
            longer = everything.mask.sum(dim=1) > position
            with_prefix = (everything.prompt == rollouts.prompt[row]) & longer
            with_prefix &= (everything.tokens[:, :position] == prefix).all(dim=1)
            mass = probability[with_prefix]
            expected = (mass * everything.reward[with_prefix]).sum() / mass.sum()
            assert value[row, position].item() == pytest.approx(expected.item(), rel=1e-9)
    assert (value[~rollouts.mask] == 0).all()


def test_values_refuse_what_has_none(policy, enumerated):
    row = enumerated[0].rows([0])  # the empty answer: the end token alone
    assert row.tokens[0, 0] == policy.tokenizer.eos_token_id
    two = torch.tensor([[True, True, False, False]])
    with pytest.raises(InputError, match="behind the end"):
        exact_values(policy, TASK, replace(row, mask=two, response=two))
    with pytest.raises(InputError, match="one turn"):
        exact_values(policy, TASK, replace(row, response=two))


def _norm(gradient: dict[str, torch.Tensor]) -> float:
    return sum(value.pow(2).sum().item() for value in gradient.values()) ** 0.5


def _slope(policy, gradient, value, step: float = 1e-5) -> float:
    """The central difference of `value` along the gradient's own direction."""
    parameters, norm, found = dict(policy.model.named_parameters()), _norm(gradient), []
    for sign in (1, -2, 1):  # there, across to the other side, and back
        with torch.no_grad():
            for name, direction in gradient.items():
                parameters[name] += sign * step * direction / norm
        found.append(value())
    return (found[0] - found[1]) / (2 * step)
