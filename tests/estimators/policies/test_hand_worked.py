"""Trees that can be worked out by hand, and answers whose closed form is known."""

from __future__ import annotations

import math

import pytest
import torch

from gradaxis.errors import InputError
from gradaxis.estimators.policies import (
    TabularPolicy,
    answer_entropy,
    build_space,
    expected_length,
    expected_reward,
    list_tabular,
    mean_step_entropy,
    pass_at_k,
    success_rate,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_one_token_of_two():
    # π(1) = 0.2, right only for 1. With z the difference of the logits, dp/dz = p (1 − p) = 0.16, and
    # dH/dz = −z p (1 − p), where z = log(0.2 / 0.8).
    space = build_space(1, 2, 1)
    logits = torch.tensor([[0.0, logit(0.2)]], dtype=torch.float64)
    listing = list_tabular(TabularPolicy(space, logits), lambda prompt, answer: answer[0])
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    for functional, value, slope in (
        (expected_reward, 0.2, 0.16),
        (success_rate, 0.2, 0.16),
        (pass_at_k(2), 0.36, 2 * 0.8 * 0.16),
        (pass_at_k(1), 0.2, 0.16),
        (answer_entropy, entropy, -logit(0.2) * 0.16),
        (mean_step_entropy, entropy, -logit(0.2) * 0.16),
        (expected_length, 1.0, 0.0),
    ):
        assert listing.value(functional).tolist() == pytest.approx([value], rel=1e-12)
        gradient = listing.to_parameters(listing.gradient(functional)).tolist()
        assert gradient == pytest.approx([-slope, slope], rel=1e-12, abs=1e-15)


def test_pass_at_no_answers_is_refused():
    with pytest.raises(InputError, match="k"):
        pass_at_k(0)


def test_tree_with_a_stochastic_environment():
    """A first move, what the world says, a second move.

        π(1) = 0.5     after 0 the episode ends with 0.4
                       after 1 the world says 2 with 0.25 or 3 with 0.75, and the first turn has earned 0.1
        after 2        π(1) = 0.2, move 1 earns 1, move 0 earns 0      still to come: 0.2
        after 3        π(1) = 0.6, move 1 earns 0, move 0 earns 1      still to come: 0.4

    So Q(0) = 0.4 and Q(1) = 0.1 + 0.25·0.2 + 0.75·0.4 = 0.45, and J = 0.425.
    """
    laws: dict[tuple[int, ...], dict[int, float]] = {(0,): {}, (1,): {2: 0.25, 3: 0.75}}
    space = build_space(1, 2, 3, environment=lambda prompt, prefix: laws.get(prefix))
    chances = {(): 0.5, (1, 2): 0.2, (1, 3): 0.6}
    logits, rows = torch.zeros(3, 2, dtype=torch.float64), {}
    for row in range(space.size):
        for position in torch.nonzero(space.mask[row]).flatten().tolist():
            prefix = tuple(space.tokens[row, :position].tolist())
            rows[prefix] = int(space.row[row, position])
            logits[rows[prefix], 1] = logit(chances[prefix])

    def step(prompt, so_far):
        if len(so_far) == 1:
            return 0.1 if so_far == (1,) else 0.4
        return float(so_far[2] == (1 if so_far[1] == 2 else 0))

    def episode(prompt, answer):
        return step(prompt, answer[:1]) + (step(prompt, answer) if len(answer) == 3 else 0.0)

    listing = list_tabular(TabularPolicy(space, logits), episode, step_reward=step)
    assert listing.value(expected_reward).tolist() == pytest.approx([0.425], rel=1e-12)
    assert listing.value(expected_length).tolist() == pytest.approx([1.5], rel=1e-12)

    batch = listing.batch
    answers = [tuple(batch.tokens[row, : int(batch.response[row].sum())].tolist()) for row in range(listing.size)]
    probability = dict(zip(answers, listing.policy_probability.tolist(), strict=True))
    assert probability == pytest.approx(
        {(0,): 0.5, (1, 2, 0): 0.1, (1, 2, 1): 0.025, (1, 3, 0): 0.15, (1, 3, 1): 0.225}, rel=1e-12
    )
    # V before each token, with what was earned: 0.425; after the word, 0.1 + 0.2 and 0.1 + 0.4.
    values = dict(zip(answers, listing.expected_rewards().tolist(), strict=True))
    assert values[0,] == pytest.approx([0.425, 0, 0])
    assert values[1, 2, 0] == pytest.approx([0.425, 0.45, 0.3])
    assert values[1, 3, 1] == pytest.approx([0.425, 0.45, 0.5])
    # A* = r + V(next) − V: −0.025 and 0.1 + 0.35 − 0.425 for the first move; then 1 − 0.2 or 0 − 0.2, and so on.
    advantages = dict(zip(answers, listing.advantages().tolist(), strict=True))
    assert advantages[0,] == pytest.approx([-0.025, 0, 0])
    assert advantages[1, 2, 0] == pytest.approx([0.025, 0, -0.2])
    assert advantages[1, 2, 1] == pytest.approx([0.025, 0, 0.8])
    assert advantages[1, 3, 0] == pytest.approx([0.025, 0, 0.6])
    assert advantages[1, 3, 1] == pytest.approx([0.025, 0, -0.4])
    # ∂J/∂z = visits · p (1 − p) · (Q(1) − Q(0)): 0.25 · 0.05; 0.125 · 0.16 · 1; 0.375 · 0.24 · (−1).
    gradient = listing.to_parameters(listing.gradient()).reshape(3, 2)[:, 1]
    assert gradient[rows[()]].item() == pytest.approx(0.0125, rel=1e-12)
    assert gradient[rows[1, 2]].item() == pytest.approx(0.02, rel=1e-12)
    assert gradient[rows[1, 3]].item() == pytest.approx(-0.09, rel=1e-12)
    # The world's law is no part of the policy's entropy: log 2 + 0.125 h(0.2) + 0.375 h(0.6).
    h = {p: -p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.2, 0.6)}
    entropy = math.log(2) + 0.125 * h[0.2] + 0.375 * h[0.6]
    assert listing.value(answer_entropy).tolist() == pytest.approx([entropy], rel=1e-12)
    assert batch.turns is not None
    assert batch.turns.reward.tolist() == pytest.approx(
        [r for answer in answers for r in ([step(0, answer[:1]), step(0, answer)] if len(answer) == 3 else [0.4])]
    )
    # The greedy episode: the tie goes to 0, which ends it.
    assert batch.companions["greedy"].tokens[0, 0] == 0


@pytest.mark.parametrize("stop", [0.1, 0.5])
@pytest.mark.parametrize("longest", [1, 3, 5])
def test_answers_that_end_with_one_chance_at_every_step(stop, longest):
    """E[|y|] = (1 − (1 − q)^T) / q, a geometric law cut off at T, and the entropy is E[|y|] times that of a step."""
    space = build_space(1, 3, longest, end=0)
    row = torch.tensor([stop, 0.7 * (1 - stop), 0.3 * (1 - stop)], dtype=torch.float64).log()
    listing = list_tabular(TabularPolicy(space, row.expand(space.rows, 3)), lambda prompt, answer: answer[-1] == 0)
    length = (1 - (1 - stop) ** longest) / stop
    step = -float((row.exp() * row).sum())
    assert listing.value(expected_length).item() == pytest.approx(length, rel=1e-12)
    assert listing.value(answer_entropy).item() == pytest.approx(length * step, rel=1e-12)
    assert listing.value(mean_step_entropy).item() == pytest.approx(step, rel=1e-12)
    assert listing.token_entropy()[0] == pytest.approx(step, rel=1e-12)
    right = 1 - (1 - stop) ** longest
    assert listing.value(expected_reward).item() == pytest.approx(right, rel=1e-12)
    assert listing.value(pass_at_k(4)).item() == pytest.approx(1 - (1 - right) ** 4, rel=1e-12)
    # Every logit of the end token moved by one and the same step: dq = q (1 − q), dE[|y|]/dq by differentiation.
    together = torch.zeros(space.rows, 3, dtype=torch.float64)
    together[:, 0] = 1
    slope = ((1 - stop) ** (longest - 1) * longest * stop - (1 - (1 - stop) ** longest)) / stop**2 * stop * (1 - stop)
    found = listing.to_parameters(listing.gradient(expected_length)) @ together.flatten()
    assert found.item() == pytest.approx(slope, rel=1e-11, abs=1e-14)
    weight = 4 * (1 - right) ** 3 * longest * (1 - stop) ** (longest - 1) * stop * (1 - stop)
    found = listing.to_parameters(listing.gradient(pass_at_k(4))) @ together.flatten()
    assert found.item() == pytest.approx(weight, rel=1e-11)
