"""Types are as coarse as they may be and no coarser: combinations that no entry has, and keys that leave things out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from gradaxis.diagnostics.oracle import count_vectors_needed, group_moments, number_types
from gradaxis.diagnostics.testbeds import load_testbed
from gradaxis.errors import InputError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.taxonomy import Registry

HEAD = "id: mine\nname: Mine\nextends: {parent}\nfamily: grpo\nyear: 2025\nsummary: a combination\n"

COMBINATIONS = {
    "a gate on how the group came out, and nothing else that couples": ("ppo", """
        trajectory:
          trust_region: {set: {clip_ratio: {where: {group: mixed}}}}
          aggregation: {drop: [aggregate_tokens]}
    """),
    "a spread for mixed groups only": ("grpo", "reward: {scale: {set: {divide_by_spread: {where: {group: mixed}}}}}"),
    "a spread for truncated answers only": ("grpo", """
        reward: {scale: {set: {divide_by_spread: {where: {truncated: true}}}}}
    """),
    "a selection that later statistics do not see": ("grpo", """
        reward: {selection: {add: [{operator: drop_zero_variance, statistics: all}]}}
    """),
    "a selection among truncated answers that they do see": ("grpo", """
        reward: {selection: {add: [{operator: drop_zero_variance, statistics: kept, where: {truncated: true}}]}}
    """),
    "selection and nothing that divides": ("reinforce", """
        reward: {selection: {add: [{operator: drop_zero_variance, statistics: kept}]}}
    """),
    "token rewards compared within the group": ("reinforce-plus-plus", """
        reward: {baseline: {set: {center_rewards: {over: group}}}, scale: {set: {divide_by_spread: {over: group}}}}
        trajectory: {aggregation: {set: {aggregate_tokens: {constant: sequences}}}}
    """),
    "a mean of the group and a spread of the batch": ("reinforce-plus-plus", """
        reward: {baseline: {set: {center_rewards: {over: group}}}}
    """),
    "a critic between two comparisons": ("grpo", """
        reward:
          baseline: {set: [{operator: center_rewards, over: group}, {operator: subtract_critic}]}
          scale: {set: {divide_by_spread: {over: group}}}
    """),
    "a length penalty before the comparison": ("grpo", """
        reward: {shaping: {add: [{operator: shape_by_length, limit: 2, buffer: 2}]}}
    """),
}  # fmt: skip


@pytest.fixture
def combination(tmp_path: Path, registry: Registry) -> Any:
    def build(name: str) -> CompiledEstimator:
        parent, body = COMBINATIONS[name]
        path = tmp_path / "mine.yaml"
        path.write_text(HEAD.format(parent=parent) + dedent(body))
        return compile(path, registry=registry)

    return build


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_against_brute_force(name, combination, small, brute_force) -> None:
    estimator = combination(name)
    batch = estimator.couples == "batch"
    _, listing = small("short variable", "graded", True, prompts=2 if batch else 1)
    found = group_moments([estimator], listing, 2)
    truth = brute_force(estimator, listing, 2, apart=batch)
    truth.check(found)


def test_a_gate_on_the_group_couples_it(combination) -> None:
    assert combination("a gate on how the group came out, and nothing else that couples").couples == "group"


def test_steps_scaled_by_their_state(tmp_path, registry, brute_force) -> None:
    """A second comparison in a stream, over states that are met again."""
    path = tmp_path / "mine.yaml"
    spread = "{operator: divide_by_spread, ddof: 0, epsilon: 0.1, over: anchor_state}"
    path.write_text(HEAD.format(parent="gigpo") + f"streams: {{step: {{scale: {{add: [{spread}]}}}}}}\n")
    estimator = compile(path, registry=registry)
    listing = load_testbed("environment", stale=True, prompts=1)
    truth = brute_force(estimator, listing, 2, apart=False)
    found = group_moments([estimator], listing, 2)
    truth.check(found)


# What a key holds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "space", "reward", "types"),
    [
        ("reinforce", "variable", "continuous", 1),  # nobody reads anybody else
        ("grpo", "variable", "binary", 2),  # the reward
        ("grpo", "variable", "graded", 3),
        ("grpo", "variable", "continuous", 7),
        ("ppo", "variable", "continuous", 2),  # the length
        ("ppo", "fixed", "continuous", 1),
        ("cispo", "fixed", "graded", 3),  # the reward; lengths are equal
        ("rloo", "fixed", "binary", 8),  # the reward with its own divergence
        ("rloo[shaping.coefficient=0]", "fixed", "binary", 2),
    ],
)
def test_number_of_types(name, space, reward, types, small) -> None:
    _, listing = small(space, reward, True)
    assert number_types([compile(name)], listing.batch).unique().numel() == types


def test_joint_key_of_two_methods_serves_both(small) -> None:
    _, listing = small("variable", "binary", True)
    both = number_types([compile("grpo"), compile("ppo")], listing.batch)
    pairs = {(float(r), int(n)) for r, n in zip(listing.batch.reward, listing.batch.length, strict=True)}
    assert both.unique().numel() == len(pairs)


def test_types_tell_prompts_apart(small) -> None:
    _, listing = small("fixed", "binary", False, prompts=2)
    kinds = number_types([compile("reinforce")], listing.batch)
    assert len({(int(k), int(p)) for k, p in zip(kinds, listing.batch.prompt, strict=True)}) == 2


def test_rounding_makes_no_types(small) -> None:
    """Rewards that are equal but for the order in which they were added up are one type."""
    _, listing = small("fixed", "binary", False)
    noise = 1 + torch.tensor([0.0, 1, -1, 2, -2, 1, 0, -1], dtype=torch.float64)[:, None] * 2e-16
    noisy = replace(listing, batch=replace(listing.batch, rewards=listing.batch.rewards * noise))
    assert number_types([compile("grpo")], noisy.batch).unique().numel() == 2


def test_a_finer_key_gives_the_same(small) -> None:
    _, listing = small("fixed", "binary", True)
    estimator = compile("grpo")
    coarse = group_moments([estimator], listing, 3)
    fine = group_moments([estimator], listing, 3, types=torch.arange(listing.size))
    assert (coarse.types, fine.types) == ((2,), (8,))
    torch.testing.assert_close(fine.mean, coarse.mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(fine.covariance, coarse.covariance, rtol=0, atol=1e-13)


# What a key leaves out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "space", "reward", "operators"),
    [
        ("grpo", "fixed", "binary", ("baseline.center_rewards", "scale.divide_by_spread")),
        ("grpo", "variable", "graded", ("baseline.center_rewards", "scale.divide_by_spread")),
        ("rloo", "fixed", "continuous", ("baseline.center_rewards",)),
        ("dr-grpo", "variable", "continuous", ("baseline.center_rewards",)),
        ("gspo", "fixed", "graded", ("baseline.center_rewards",)),
        ("ppo", "variable", "binary", ("aggregation.aggregate_tokens",)),
        ("cispo", "variable", "binary", ("aggregation.aggregate_tokens", "baseline.center_rewards")),
        ("dapo", "variable", "binary", ("selection.drop_zero_variance",)),
        ("reinforce-baseline", "fixed", "binary", ("baseline.center_rewards",)),
        ("reinforce-plus-plus", "fixed", "binary", ("baseline.center_rewards", "scale.divide_by_spread")),
        ("gigpo", "fixed", "graded", ("step.baseline.center_rewards",)),
    ],
)
@pytest.mark.parametrize("group_size", [2, 3])
def test_a_key_that_is_too_coarse_is_refused(name, space, reward, operators, group_size, small) -> None:
    """Two trajectories of different types are said to be alike: each pair of types in turn."""
    _, listing = small(space, reward, True)
    estimator = compile(name)
    right = number_types([estimator], listing.batch)
    number = int(right.max()) + 1
    assert number >= 2
    for first in range(number - 1):
        merged = torch.where(right == first + 1, first, right)
        with pytest.raises(InputError) as refused:
            group_moments([estimator], listing, group_size, types=merged, hold_sampling=True)
        assert estimator.label in str(refused.value)
        for operator in operators:
            assert operator in str(refused.value)


def test_an_operator_that_hides_what_it_reads_is_refused(small) -> None:
    """The key follows from declarations: with a wrong one the coefficients give it away."""
    _, listing = small("fixed", "graded", True)
    lying = _redeclare(compile("dr-grpo"), "baseline", of_others=["peers"])
    with pytest.raises(InputError, match=r"Correct `of_others` of baseline.center_rewards"):
        group_moments([lying], listing, 2)


def test_an_operator_that_hides_that_it_couples_is_refused(small) -> None:
    _, listing = small("fixed", "graded", True)
    lying = _redeclare(compile("dr-grpo"), "baseline", couples="sample", of_others=[])
    with pytest.raises(InputError, match="No operator declares that it reads other samples"):
        group_moments([lying], listing, 2)


def test_an_operator_that_hides_that_it_couples_the_batch_is_refused(small) -> None:
    _, listing = small("variable", "graded", True)
    lying = _redeclare(compile("cispo"), "aggregation", couples="sample", of_others=[])
    assert lying.couples == "group"
    with pytest.raises(InputError, match="depend on other groups of the batch"):
        group_moments([lying], listing, 2)


def _redeclare(estimator: CompiledEstimator, slot: str, **changes: Any) -> CompiledEstimator:
    [placed] = estimator.method.slots[slot]
    wrong = replace(placed, declaration=placed.declaration.model_copy(update=changes))
    return replace(estimator, method=replace(estimator.method, slots={**estimator.method.slots, slot: (wrong,)}))


# What is refused otherwise ------------------------------------------------------------------------------------------


def test_a_law_that_draws_again_is_refused_unless_held_fixed(small) -> None:
    _, listing = small("fixed", "binary", True)
    with pytest.raises(InputError, match=r"dapo: sampling.refill_groups: got the law 'refilled'"):
        group_moments([compile("dapo")], listing, 2)
    held = group_moments([compile("dapo")], listing, 2, hold_sampling=True)
    assert held.held_fixed == ("sampling.refill_groups",)
    assert group_moments([compile("gigpo")], listing, 2).held_fixed == ()


def test_too_many_count_vectors_are_brute_force_only(small) -> None:
    _, listing = small("variable", "continuous", True, prompts=2)
    assert count_vectors_needed([compile("reinforce-baseline")], listing, 8) == 3003**2  # C(8 + 7 - 1, 6), twice
    with pytest.raises(InputError, match="Brute force only"):
        group_moments([compile("reinforce-baseline")], listing, 8)


def test_full_covariance_needs_vectors(small) -> None:
    _, listing = small("fixed", "binary", True)
    bare = replace(listing, vectors=None)
    with pytest.raises(InputError, match="trace"):
        group_moments([compile("grpo")], bare, 2)
    found = group_moments([compile("grpo")], bare, 2, covariance="trace")
    full = group_moments([compile("grpo")], listing, 2)
    assert found.mean is None
    torch.testing.assert_close(found.trace, full.trace, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.weights, full.weights, rtol=0, atol=1e-15)


def test_nothing_to_judge(small) -> None:
    _, listing = small("fixed", "binary", True)
    for methods, size in (([], 2), ([compile("grpo")], 0)):
        with pytest.raises(InputError, match="one or more"):
            group_moments(methods, listing, size)
