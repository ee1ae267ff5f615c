"""J, entropies, length, pass@k and their gradients on tables, against a walk through the problem in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch

from gradaxis.estimators import compile
from gradaxis.estimators.policies import (
    Functional,
    Listing,
    TabularPolicy,
    answer_entropy,
    build_space,
    expected_length,
    expected_reward,
    list_tabular,
    mean_step_entropy,
    pass_at_k,
    silent_group_probability,
    success_rate,
)

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Path:
    """One trajectory: its probability, and for each token that the policy chose, log π and the entropy there."""

    tokens: Prefix
    probability: float
    logp: tuple[float, ...]
    entropy: tuple[float, ...]


@dataclass(frozen=True)
class Walk:
    """The rules of a problem and a policy's logits by state, as plain dictionaries."""

    vocabulary: int
    longest: int
    end: int | None
    state: Callable[[int, Prefix], Hashable]
    environment: Callable[[int, Prefix], Mapping[int, float] | None]

    def law(self, logits: list[float]) -> list[float]:
        total = sum(math.exp(z) for z in logits)
        return [math.exp(z) / total for z in logits]

    def paths(
        self, table: Mapping[Hashable, list[float]], prompt: int, so_far: Path = Path((), 1.0, (), ())
    ) -> Iterator[Path]:
        """Every trajectory of a prompt, by recursion."""
        tokens = so_far.tokens
        spoken = self.environment(prompt, tokens[:-1]) is None if tokens else False
        if len(tokens) == self.longest or (spoken and tokens[-1] == self.end):
            yield so_far
            return
        world = self.environment(prompt, tokens)
        if world is None:
            chance = self.law(table[self.state(prompt, tokens)])
            entropy = -sum(p * math.log(p) for p in chance)
            for token, p in enumerate(chance):
                step = Path((*tokens, token), so_far.probability * p, (*so_far.logp, math.log(p)),
                            (*so_far.entropy, entropy))  # fmt: skip
                yield from self.paths(table, prompt, step)
        elif not world:
            yield so_far
        else:
            for token, p in world.items():
                step = Path((*tokens, token), so_far.probability * p, so_far.logp, so_far.entropy)
                yield from self.paths(table, prompt, step)


def table_of(policy: TabularPolicy, walk: Walk) -> tuple[dict[Hashable, list[float]], dict[Hashable, int]]:
    """A policy's logits by state, and the row of each; one state must have one row, and one row one state."""
    space, rows = policy.space, {}
    for index in range(space.size):
        for position in range(int(space.response[index].sum())):
            if space.mask[index, position]:
                prompt, prefix = int(space.prompt[index]), tuple(space.tokens[index, :position].tolist())
                row = int(space.row[index, position])
                assert rows.setdefault(walk.state(prompt, prefix), row) == row
    assert sorted(rows.values()) == list(range(space.rows))
    logits = policy.logits.detach().tolist()
    return {state: logits[row] for state, row in rows.items()}, rows


def differences(
    policy: TabularPolicy, walk: Walk, value: Callable[[Mapping[Hashable, list[float]]], float], step: float = 1e-5
) -> torch.Tensor:
    """The gradient of a number in all logits [S, V], by central differences."""
    table, rows = table_of(policy, walk)
    found = torch.zeros_like(policy.logits.detach())
    for state, row in rows.items():
        for token in range(walk.vocabulary):
            ends = []
            for sign in (1, -1):
                moved = {key: list(logits) for key, logits in table.items()}
                moved[state][token] += sign * step
                ends.append(value(moved))
            found[row, token] = (ends[0] - ends[1]) / (2 * step)
    return found


PROMPTS = 2


def _alone(prompt: int, prefix: Prefix) -> None:
    """There is no environment."""


def _world(prompt: int, prefix: Prefix) -> Mapping[int, float] | None:
    """After the first token of the policy the world says 3 or 1; after 3 and a second token 1 it is over."""
    if len(prefix) == 1:
        return {3: 0.25 + 0.5 * prefix[0], 1: 0.75 - 0.5 * prefix[0]} if prefix[0] < 2 else {1: 1.0}
    if len(prefix) == 3:
        return {} if prefix[1:] == (3, 1) else None
    return None


WALKS = {
    "fixed": Walk(2, 3, None, lambda prompt, prefix: (prompt, prefix), _alone),
    "end": Walk(3, 3, 0, lambda prompt, prefix: (prompt, prefix), _alone),
    "shared": Walk(3, 3, 0, lambda prompt, prefix: prefix if prefix else prompt, _alone),
    "two prefixes, one row": Walk(3, 3, 1, lambda prompt, prefix: (prompt, len(prefix)), _alone),
    "environment": Walk(3, 4, 0, lambda prompt, prefix: (prompt, prefix[1:]), _world),
}


def reward(prompt: int, response: Prefix) -> float:
    """Four levels: half a point for each of two properties, and a quarter less for long responses."""
    return 0.5 * (response[-1] == 1) + 0.5 * ((sum(response) + prompt) % 2) - 0.25 * (len(response) > 2)


def best_reward(walk: Walk, table: Mapping[Hashable, list[float]], prompt: int) -> float:
    return max(reward(prompt, path.tokens) for path in walk.paths(table, prompt))


def p_best(walk: Walk, table: Mapping[Hashable, list[float]], prompt: int) -> float:
    best = best_reward(walk, table, prompt)
    return sum(path.probability for path in walk.paths(table, prompt) if reward(prompt, path.tokens) == best)


def per_path(number: Callable[[int, Path], float]) -> Callable[..., float]:
    """The mean of a number that each trajectory has."""

    def mean(walk: Walk, table: Mapping[Hashable, list[float]], prompt: int) -> float:
        return sum(path.probability * number(prompt, path) for path in walk.paths(table, prompt))

    return mean


TRUTHS: dict[str, tuple[Functional, Callable[..., float]]] = {
    "J": (expected_reward, per_path(lambda prompt, path: reward(prompt, path.tokens))),
    "length": (expected_length, per_path(lambda prompt, path: len(path.logp))),
    "entropy": (answer_entropy, per_path(lambda prompt, path: sum(path.entropy))),
    "entropy a step": (mean_step_entropy, per_path(lambda prompt, path: sum(path.entropy) / len(path.entropy))),
    "success": (success_rate, p_best),
    "pass@3": (pass_at_k(3), lambda *given: 1 - (1 - p_best(*given)) ** 3),
}


def make(name: str, seed: int = 0) -> tuple[TabularPolicy, Walk]:
    walk = WALKS[name]
    space = build_space(
        PROMPTS, walk.vocabulary, walk.longest, end=walk.end, row=walk.state, environment=walk.environment
    )
    return TabularPolicy.random(space, torch.Generator().manual_seed(seed)), walk


@pytest.fixture(scope="module", params=WALKS)
def case(request: pytest.FixtureRequest) -> tuple[TabularPolicy, Walk, Listing]:
    policy, walk = make(request.param)
    return policy, walk, list_tabular(policy, reward)


def test_trajectories_and_their_probabilities(case):
    policy, walk, listing = case
    table, _ = table_of(policy, walk)
    for prompt in range(PROMPTS):
        expected = {path.tokens: path for path in walk.paths(table, prompt)}
        rows = torch.nonzero(listing.batch.prompt == prompt).squeeze(1).tolist()
        assert len(rows) == len(expected)
        for row in rows:
            path = expected[tuple(listing.batch.tokens[row, : int(listing.batch.response[row].sum())].tolist())]
            assert float(listing.policy_probability[row]) == pytest.approx(path.probability, rel=1e-12)
            mask = listing.batch.mask[row]
            assert listing.batch.column("logp")[row][mask].tolist() == pytest.approx(path.logp, rel=1e-12)
            assert listing.batch.column("entropy")[row][mask].tolist() == pytest.approx(path.entropy, rel=1e-12)
        assert float(listing.probability[rows].sum()) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("name", TRUTHS)
def test_value_of_every_prompt(case, name):
    policy, walk, listing = case
    functional, truth = TRUTHS[name]
    table, _ = table_of(policy, walk)
    expected = [truth(walk, table, prompt) for prompt in range(PROMPTS)]
    assert listing.value(functional).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", TRUTHS)
def test_gradient_equals_finite_differences(case, name):
    policy, walk, listing = case
    functional, truth = TRUTHS[name]
    found = listing.to_parameters(listing.gradient(functional)).reshape(policy.logits.shape)
    mean = differences(policy, walk, lambda table: sum(truth(walk, table, p) for p in range(PROMPTS)) / PROMPTS)
    torch.testing.assert_close(found, mean, atol=1e-9, rtol=1e-6)
    second = listing.to_parameters(listing.gradient(functional, prompt=1)).reshape(policy.logits.shape)
    torch.testing.assert_close(second, differences(policy, walk, lambda table: truth(walk, table, 1)), atol=1e-9,
                               rtol=1e-6)  # fmt: skip


def test_entropy_a_token_and_its_gradient(case):
    policy, walk, listing = case

    def ratio(table: Mapping[Hashable, list[float]]) -> float:
        every = [path for prompt in range(PROMPTS) for path in walk.paths(table, prompt)]
        return sum(p.probability * sum(p.entropy) for p in every) / sum(p.probability * len(p.logp) for p in every)

    value, gradient = listing.token_entropy()
    assert value == pytest.approx(ratio(table_of(policy, walk)[0]), rel=1e-12)
    found = listing.to_parameters(gradient).reshape(policy.logits.shape)
    torch.testing.assert_close(found, differences(policy, walk, ratio), atol=1e-9, rtol=1e-6)


def test_inner_products_are_those_of_gradients_by_autograd(case):
    policy, _, listing = case
    live = policy.quantities(listing.batch, grad=True)
    generator = torch.Generator().manual_seed(1)
    coefficients = [{name: torch.randn(listing.batch.tokens.shape, dtype=torch.float64, generator=generator)
                     for name in live} for _ in range(3)]  # fmt: skip
    explicit = []
    for total in coefficients:
        scalar = torch.zeros(()) + sum((total[name] * live[name]).sum() for name in live)
        explicit.append(torch.autograd.grad(scalar, policy.logits, retain_graph=True)[0].flatten())
    weights = torch.stack([listing.coefficients_to_vector(total) for total in coefficients])
    torch.testing.assert_close(listing.to_parameters(weights), torch.stack(explicit), atol=1e-12, rtol=1e-10)
    expected = torch.stack(explicit) @ torch.stack(explicit).T
    torch.testing.assert_close(weights @ listing.inner @ weights.T, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_everything_is_on_the_device_of_the_logits(case, device):
    policy, _, listing = case
    moved = list_tabular(TabularPolicy(policy.space, policy.logits.detach().to(device)), reward)
    assert {value.device.type for value in (moved.inner, moved.node, moved.probability, moved.batch.tokens)} == {device}
    torch.testing.assert_close(moved.gradient(pass_at_k(3)).cpu(), listing.gradient(pass_at_k(3)))
    torch.testing.assert_close(moved.advantages().cpu(), listing.advantages())
    torch.testing.assert_close(moved.inner.cpu(), listing.inner)
    weights = moved.coefficients_to_vector(compile("ppo").coefficients(moved.batch).total)
    assert weights.device.type == device


def test_rows_alone_add_up_to_the_whole(case):
    listing = case[2]
    rows = torch.tensor([3, 0, 3, listing.size - 1])
    total = {"logp": torch.arange(float(4 * listing.batch.tokens.shape[1])).reshape(4, -1)}
    alone = listing.rows_to_vectors(total, rows)
    torch.testing.assert_close(alone.sum(dim=0), listing.coefficients_to_vector(total, rows))
    one = listing.coefficients_to_vector({"logp": total["logp"][:1]}, rows[:1])
    torch.testing.assert_close(alone[0], one)


def test_values_are_conditional_means_and_advantages_have_zero_mean(case):
    policy, walk, listing = case
    table, _ = table_of(policy, walk)
    batch, values, advantages = listing.batch, listing.expected_rewards(), listing.advantages()
    for prompt in range(PROMPTS):
        every = list(walk.paths(table, prompt))

        def mean(prefix: Prefix, every: list[Path] = every, prompt: int = prompt) -> float:
            inside = [path for path in every if path.tokens[: len(prefix)] == prefix]
            mass = sum(path.probability for path in inside)
            return sum(path.probability * reward(prompt, path.tokens) for path in inside) / mass

        seen: dict[Prefix, dict[int, float]] = {}
        for row in torch.nonzero(batch.prompt == prompt).squeeze(1).tolist():
            tokens = tuple(batch.tokens[row, : int(batch.response[row].sum())].tolist())
            for position, token in enumerate(tokens):
                prefix = tokens[:position]
                assert float(values[row, position]) == pytest.approx(mean(prefix), rel=1e-11)
                if batch.mask[row, position]:
                    expected = mean((*prefix, token)) - mean(prefix)
                    assert float(advantages[row, position]) == pytest.approx(expected, rel=1e-10, abs=1e-13)
                    assert float(batch.column("value")[row, position]) == pytest.approx(mean(prefix), rel=1e-11)
                    seen.setdefault(prefix, {})[token] = float(advantages[row, position])
                else:
                    assert float(advantages[row, position]) == 0 == float(batch.column("value")[row, position])
        for prefix, by_token in seen.items():
            law = walk.law(table[walk.state(prompt, prefix)])
            assert sum(law[token] * value for token, value in by_token.items()) == pytest.approx(0, abs=1e-13)


def test_advantages_times_scores_give_the_gradient(case):
    listing = case[2]
    total = {"logp": listing.policy_probability[:, None] * listing.advantages() / PROMPTS}
    found = listing.to_parameters(listing.coefficients_to_vector(total))
    torch.testing.assert_close(found, listing.to_parameters(listing.gradient()), atol=1e-13, rtol=1e-11)


def test_mean_of_reinforce_over_all_trajectories_is_the_gradient(case):
    # One sample at a time: its coefficients are those that it has in any batch, times the batch's size.
    listing = case[2]
    total = compile("reinforce").coefficients(listing.batch).total["logp"] * listing.size
    weights = listing.coefficients_to_vector({"logp": listing.probability[:, None] * total / PROMPTS})
    expected = listing.to_parameters(listing.gradient())
    torch.testing.assert_close(listing.to_parameters(weights), expected, atol=1e-13, rtol=1e-11)


def test_estimator_gradient_on_a_table_is_the_pull_back_of_its_coefficients(case):
    policy, _, listing = case
    batch = listing.batch.rows([0, 2, 2, 5, listing.size - 1])
    gradient = compile("ppo").gradient(policy, batch)
    assert gradient.keys() == {"logits"}
    assert policy.logits.grad is None
    weights = listing.coefficients_to_vector(compile("ppo").coefficients(batch).total, listing.locate(batch))
    torch.testing.assert_close(gradient["logits"].flatten(), listing.to_parameters(weights))


def test_silent_groups_of_three_equal_a_sum_over_all_triples(case):
    policy, walk, listing = case
    table, _ = table_of(policy, walk)
    found = silent_group_probability(listing.outcomes(), 3)
    for prompt in range(PROMPTS):
        every = [(path.probability, reward(prompt, path.tokens)) for path in walk.paths(table, prompt)]
        alike = sum(p * q * r for p, x in every for q, y in every if x == y for r, z in every if z == x)
        assert float(found[prompt]) == pytest.approx(alike, rel=1e-11)
