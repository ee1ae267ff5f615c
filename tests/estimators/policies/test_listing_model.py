"""The embedded transformer with all its answers listed, against plain forward passes and autograd."""

from __future__ import annotations

import pytest
import torch

from gradaxis.errors import InputError
from gradaxis.estimators import compile
from gradaxis.estimators.policies import (
    HuggingFacePolicy,
    Listing,
    answer_entropy,
    embedded_policy,
    exact,
    exact_gradient,
    exact_token_entropy,
    exact_values,
    expected_length,
    expected_reward,
    list_embedded,
    mean_step_entropy,
    pass_at_k,
    success_rate,
)
from gradaxis.estimators.policies.atoms import atom_products
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask
from gradaxis.estimators.rollouts.checks import check_batch

pytestmark = pytest.mark.usefixtures("exact_norms")

FUNCTIONALS = {
    "J": expected_reward, "success": success_rate, "pass@4": pass_at_k(4), "entropy": answer_entropy,
    "entropy a step": mean_step_entropy, "length": expected_length,
}  # fmt: skip


class Short(ArithmeticTask):
    """Answers of at most two tokens."""

    max_new_tokens = 2


TASK = Short()
ITEMS = TASK.prompts(3, seed=1)
"""One sum each of one, two and three digits; prompts of different lengths."""


@pytest.fixture(scope="module")
def models(exact_norms) -> dict[str, HuggingFacePolicy]:
    return {name: embedded_policy(name, dtype="float64") for name in ("policy", "stale", "reference", "teacher")}


@pytest.fixture(scope="module")
def listing(models) -> Listing:
    return list_embedded(
        models["policy"], TASK, ITEMS, behavior=models["stale"], reference=models["reference"],
        teacher=models["teacher"], keep_vectors=True,
    )  # fmt: skip


def flat(gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in gradient.values()])


def test_listing_is_a_batch_with_the_columns_of_plain_forward_passes(models, listing):
    check_batch(listing.batch)
    assert listing.size == 3 * (1 + 7 + 49)
    for column, name in {
        "logp": "policy", "behavior_logp": "stale", "old_logp": "stale", "ref_logp": "reference",
        "teacher_logp": "teacher",
    }.items():  # fmt: skip
        plain = models[name].quantities(listing.batch, ("logp",))["logp"]
        torch.testing.assert_close(listing.batch.column(column), plain, atol=1e-10, rtol=1e-10)
    for prompt in range(3):
        own = listing.batch.prompt == prompt
        for chance in (listing.probability, listing.policy_probability):
            assert chance[own].sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(listing.batch.column("value"), exact_values(models["policy"], TASK, listing.batch))


def test_atoms_are_gradients_by_autograd(models, listing):
    """Each atom by a backward pass of its own through a plain forward pass of the whole sequence."""
    policy, parameters = models["policy"], list(models["policy"].parameters().values())
    chosen = torch.randperm(listing.size, generator=torch.Generator().manual_seed(0))[:12]
    live = policy.quantities(listing.batch.rows(chosen), grad=True)
    places, explicit = [], []
    for place, row in enumerate(chosen.tolist()):
        for position in range(int(listing.batch.length[row])):
            for name in ("logp", "entropy"):
                parts = torch.autograd.grad(live[name][place, position], parameters, retain_graph=True)
                explicit.append(torch.cat([part.flatten() for part in parts]))
                places.append(int(listing.atoms[name][row, position]))
    truth = torch.stack(explicit)
    scale = float(truth.norm(dim=1).max())
    torch.testing.assert_close(listing.vectors[places], truth, atol=1e-10 * scale, rtol=1e-8)
    found = listing.inner[places][:, places]
    torch.testing.assert_close(found, truth @ truth.T, atol=1e-10 * scale**2, rtol=1e-8)


def test_atoms_in_parts_at_a_temperature_and_over_a_subset_of_parameters(models):
    contexts = [(5, 2, 6, 3), (5, 2, 6, 3, 4), (2,), (5, 5)]
    policy = models["policy"]
    whole, vectors = atom_products(policy, contexts, temperature=2.0, keep_vectors=True)
    parts, none = atom_products(policy, contexts, temperature=2.0, memory=1)
    assert none is None
    assert vectors is not None
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-10)
    logits = policy.model(input_ids=torch.tensor([contexts[1]])).logits[0, -1]
    law = torch.log_softmax(logits / 2, dim=0)
    for value, place in ((law[3], 1 * 8 + 3), (-(law.exp() * law).sum(), 4 * 8 + 1)):
        explicit = torch.autograd.grad(value, list(policy.parameters().values()), retain_graph=True)
        expected = torch.cat([part.flatten() for part in explicit])
        torch.testing.assert_close(vectors[place], expected, atol=1e-10, rtol=1e-9)
    some = embedded_policy("policy", dtype="float64", params="*.layers.1.mlp.*")
    names = list(policy.parameters())
    sizes = [value.numel() for value in policy.parameters().values()]
    pieces = dict(zip(names, vectors.split(sizes, dim=1), strict=True))
    expected = sum(pieces[name] @ pieces[name].T for name in some.parameters())
    assert 0 < len(some.parameters()) < len(names)
    torch.testing.assert_close(atom_products(some, contexts, temperature=2.0)[0], expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_functionals_are_those_of_the_model(models, listing, name):
    functional = FUNCTIONALS[name]
    expected = exact(models["policy"], TASK, ITEMS, functional)
    torch.testing.assert_close(listing.value(functional), expected, atol=1e-12, rtol=1e-10)
    gradient = flat(exact_gradient(models["policy"], TASK, ITEMS, functional))
    found = listing.to_parameters(listing.gradient(functional))
    torch.testing.assert_close(found, gradient, atol=1e-9 * float(gradient.norm()), rtol=1e-7)
    weights = listing.gradient(functional)
    assert (weights @ listing.inner @ weights).item() == pytest.approx(gradient.square().sum().item(), rel=1e-8)


def test_gradient_of_pass_at_k_equals_finite_differences(models):
    policy, functional = models["policy"], pass_at_k(3)
    gradient = exact_gradient(policy, TASK, ITEMS, functional)
    parameters, norm, found = dict(policy.model.named_parameters()), float(flat(gradient).norm()), []
    for sign in (1, -2, 1):  # there, across to the other side, and back
        with torch.no_grad():
            for name, direction in gradient.items():
                parameters[name] += sign * 1e-5 * direction / norm
        found.append(exact(policy, TASK, ITEMS, functional).mean().item())
    assert (found[0] - found[1]) / 2e-5 == pytest.approx(norm, rel=1e-5)


def test_entropy_a_token(models, listing):
    value, gradient = listing.token_entropy()
    expected, slope = exact_token_entropy(models["policy"], TASK, ITEMS)
    assert value == pytest.approx(expected, rel=1e-10)
    slope = flat(slope)
    torch.testing.assert_close(listing.to_parameters(gradient), slope, atol=1e-9 * float(slope.norm()), rtol=1e-7)


@pytest.mark.parametrize("method", ["grpo", "ppo", "gspo"])
def test_gradient_of_an_estimator_is_a_sum_of_atoms(models, listing, method):
    rows = torch.tensor([0, 5, 5, 40, 56, 57, 80, 113, 170, 114])
    batch = listing.batch.rows(rows)
    estimator = compile(method)
    explicit = flat(estimator.gradient(models["policy"], batch))
    weights = listing.coefficients_to_vector(estimator.coefficients(batch).total, listing.locate(batch))
    found = listing.to_parameters(weights)
    torch.testing.assert_close(found, explicit, atol=1e-9 * float(explicit.norm()), rtol=1e-6)


def test_advantages_times_scores_give_the_gradient_and_have_zero_mean(listing):
    batch, advantages = listing.batch, listing.advantages()
    total = {"logp": listing.policy_probability[:, None] * advantages / 3}
    found, expected = listing.to_parameters(listing.coefficients_to_vector(total)), listing.gradient()
    expected = listing.to_parameters(expected)
    torch.testing.assert_close(found, expected, atol=1e-12 * float(expected.norm()), rtol=1e-8)
    means: dict[int, dict[int, float]] = {}
    for row in range(listing.size):
        for position in range(int(batch.length[row])):
            chance = batch.column("logp")[row, position].exp().item()
            at = means.setdefault(int(listing.node[row, position]), {})
            at[int(batch.tokens[row, position])] = chance * advantages[row, position].item()
    assert len(means) == 3 * 8
    assert all(len(at) == 8 and abs(sum(at.values())) < 1e-12 for at in means.values())


def test_what_cannot_be_exact_or_held_is_refused(models):
    with pytest.raises(InputError, match="float64"):
        list_embedded(embedded_policy("policy"), TASK, ITEMS)
    with pytest.raises(InputError, match="fewer prompts"):
        list_embedded(models["policy"], ArithmeticTask(), ArithmeticTask().prompts(4))
    small = list_embedded(models["policy"], TASK, ITEMS[:1])
    assert small.vectors is None
    with pytest.raises(InputError, match="inner products"):
        small.to_parameters(small.gradient())
