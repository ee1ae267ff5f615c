"""The oracle against all groups, for every method that ships: every entry of mean and covariance."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.oracle import group_moments, of_a_random_prompt
from gradaxis.diagnostics.testbeds import load_testbed
from gradaxis.errors import InputError
from gradaxis.estimators import compile
from gradaxis.estimators.policies import embedded_policy, list_embedded
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask
from gradaxis.taxonomy import load_registry

EXACT = {"rtol": 0, "atol": 1e-12}
METHODS = {name: compile(method) for name, method in load_registry().methods.items() if method.executable}
APART = [name for name, estimator in METHODS.items() if estimator.couples in ("sample", "group")]
TOGETHER = [name for name, estimator in METHODS.items() if estimator.couples == "batch"]
SETTINGS = [*product(("binary", "graded", "continuous"), (False, True))]


def test_every_method_is_in_one_of_the_two_lists() -> None:
    assert {*APART, *TOGETHER} == set(METHODS)
    assert {"grpo", "rloo", "reinforce"} < set(APART)
    assert {"ppo", "dapo", "reinforce-baseline"} < set(TOGETHER)


@pytest.mark.parametrize("group_size", [2, 3])
@pytest.mark.parametrize("space", ["fixed", "variable"])
@pytest.mark.parametrize("name", APART)
def test_methods_that_couple_a_group(name, space, group_size, small, brute_force) -> None:
    for reward, stale in SETTINGS:
        policy, listing = small(space, reward, stale)
        truth = brute_force(METHODS[name], listing, group_size, apart=False)
        found = group_moments([METHODS[name]], listing, group_size)
        truth.check(found, f"{reward} {stale}")
    # the groups that stood side by side have, alone and by differentiation of the policy, the same gradients
    for place in np.linspace(0, len(truth.updates) - 1, 3).astype(int):
        alone = METHODS[name].gradient(policy, listing.batch.rows(truth.updates[place].tolist()))
        np.testing.assert_allclose(alone["logits"].numpy().ravel(), truth.gradients[place], **EXACT)


@pytest.mark.parametrize("space", ["short fixed", "short variable"])
@pytest.mark.parametrize("name", TOGETHER)
def test_methods_that_couple_the_batch_by_joint_counts_of_two_prompts(name, space, small, brute_force) -> None:
    for reward, stale in SETTINGS:
        _, listing = small(space, reward, stale, prompts=2)
        truth = brute_force(METHODS[name], listing, 2, apart=True)
        found = group_moments([METHODS[name]], listing, 2, hold_sampling=True)
        truth.check(found, f"{reward} {stale}")


@pytest.mark.parametrize("name", APART)
def test_independent_prompts_are_combined(name, small, brute_force) -> None:
    """Both prompts read one table, so that their parts fall on the same parameters."""
    _, listing = small("short variable", "graded", True, prompts=2, shared=True)
    truth = brute_force(METHODS[name], listing, 2, apart=True)
    found = group_moments([METHODS[name]], listing, 2)
    truth.check(found)
    assert len(found.prompts) == 2


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("name", APART)
def test_turns_and_states_of_an_environment(name, stale, brute_force) -> None:
    """Thirteen episodes with text that the environment writes; states are met again on other ways."""
    listing = load_testbed("environment", stale=stale, prompts=1)
    truth = brute_force(METHODS[name], listing, 2, apart=False)
    found = group_moments([METHODS[name]], listing, 2)
    truth.check(found)


@pytest.mark.parametrize(("names", "apart"), [(("grpo", "rloo", "gspo"), False), (("grpo", "ppo", "dapo"), True)])
def test_covariance_of_two_methods_on_the_same_rollouts(names, apart, small, brute_force) -> None:
    _, listing = small("short variable", "graded", True, prompts=2 if apart else 1)
    truths = [brute_force(METHODS[name], listing, 2, apart=apart) for name in names]
    found = group_moments([METHODS[name] for name in names], listing, 2, hold_sampling=True)
    trace = group_moments([METHODS[name] for name in names], listing, 2, covariance="trace", hold_sampling=True)
    assert found.methods == names
    assert found.covariance is not None
    for i, one in enumerate(truths):
        for j, other in enumerate(truths):
            expected = (one.gradients - one.mean).T @ ((other.gradients - other.mean) * other.probability[:, None])
            np.testing.assert_allclose(found.covariance[i, j].numpy(), expected, **EXACT)
            np.testing.assert_allclose(trace.trace[i, j].numpy(), np.trace(expected), **EXACT)
    assert trace.mean is not None
    np.testing.assert_allclose(trace.mean.numpy(), np.stack([one.mean for one in truths]), **EXACT)
    assert trace.covariance is None


def test_more_groups_of_a_prompt_are_averaged(small) -> None:
    _, listing = small("fixed", "graded", True)
    (mean, covariance), (mean4, covariance4) = (
        group_moments([METHODS["grpo"]], listing, 2, groups=groups).law() for groups in (1, 4)
    )
    torch.testing.assert_close(mean4, mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(covariance4, covariance / 4, rtol=0, atol=1e-14)


def test_a_prompt_that_is_drawn_at_random(small, brute_force) -> None:
    """A unit is one of three prompts with its group: the mixture of the three laws."""
    _, three = small("short variable", "graded", True, prompts=3)
    moments = group_moments([METHODS["grpo"]], three, 2)
    mean, covariance = of_a_random_prompt(moments, three).law()
    parts = [one.law() for one in moments.prompts]
    second = sum(c + torch.outer(m, m) for m, c in parts) / 3
    torch.testing.assert_close(mean, sum(m for m, _ in parts) / 3, rtol=0, atol=1e-14)
    torch.testing.assert_close(covariance, second - torch.outer(mean, mean), rtol=0, atol=1e-14)
    trace = of_a_random_prompt(group_moments([METHODS["grpo"]], three, 2, covariance="trace"), three).trace
    assert float(trace) == pytest.approx(float(covariance.trace()), rel=1e-12)
    coupled = group_moments([METHODS["ppo"]], three, 1)
    with pytest.raises(InputError, match="couple the batch"):
        of_a_random_prompt(coupled, three)


class TwoTokens(ArithmeticTask):
    max_new_tokens = 2


def test_trace_on_a_transformer() -> None:
    """57 answers; gradients over all parameters are known by their inner products only. All pairs, one by one."""
    task = TwoTokens()
    policies = {name: embedded_policy(name, dtype="float64") for name in ("policy", "stale", "reference")}
    listing = list_embedded(
        policies["policy"], task, task.prompts(1, 0), behavior=policies["stale"], reference=policies["reference"]
    )
    assert listing.size == 57
    probability, inner = listing.probability, listing.inner
    pairs = torch.tensor([*product(range(listing.size), repeat=2)])
    batch = replace(listing.batch.rows(pairs.flatten()), group=torch.arange(len(pairs)).repeat_interleave(2))
    for name in ("grpo", "rloo"):
        total = METHODS[name].coefficients(batch).total
        weights = listing.rows_to_vectors(total, pairs.flatten()).reshape(len(pairs), 2, -1).sum(dim=1) * len(pairs)
        law = probability[pairs].prod(dim=1)
        mean = law @ weights
        trace = law @ ((weights @ inner) * weights).sum(dim=1) - mean @ inner @ mean
        found = group_moments([METHODS[name]], listing, 2, covariance="trace")
        torch.testing.assert_close(found.weights[0], mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.trace[0, 0], trace, rtol=1e-10, atol=0)


def test_more_groups_where_the_batch_is_coupled(small) -> None:
    """Two groups of one prompt; going through all batches knows nothing of their being alike."""
    policy, listing = small("short variable", "graded", True)
    estimator = METHODS["cispo"]
    found = group_moments([estimator], listing, 2, groups=2)
    updates = np.array(list(product(range(4), repeat=4)))
    batches = [replace(listing.batch.rows(rows.tolist()), group=torch.tensor([0, 0, 1, 1])) for rows in updates]
    gradients = np.stack([estimator.gradient(policy, batch)["logits"].numpy().ravel() for batch in batches])
    probability = listing.probability.numpy()[updates].prod(axis=1)
    mean = probability @ gradients
    found_mean, found_covariance = (value.numpy() for value in found.law())
    np.testing.assert_allclose(found_mean, mean, **EXACT)
    spread = ((gradients - mean) * probability[:, None]).T @ (gradients - mean)
    np.testing.assert_allclose(found_covariance, spread, **EXACT)
