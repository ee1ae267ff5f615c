"""Coefficients: ω ⊙ A + ρ is the derivative of L, ω is known where A is zero, and three ways to the gradient agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter

import pytest
import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators import compile, contract_batch
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import Registry, load_registry

EXECUTABLE = [name for name, method in load_registry().methods.items() if method.executable]


class Bigram:
    """A policy small enough to read: each token's law depends on the token before it. Parameters [V, V] and [V]."""

    def __init__(self, vocabulary: int = 12) -> None:
        self.vocabulary = vocabulary
        generator = torch.Generator().manual_seed(3)
        self.table = torch.randn(vocabulary, vocabulary, dtype=torch.float64, generator=generator).requires_grad_()
        self.bias = torch.randn(vocabulary, dtype=torch.float64, generator=generator).requires_grad_()

    def parameters(self) -> Mapping[str, Tensor]:
        return {"table": self.table, "bias": self.bias}

    def quantities(
        self, batch: RolloutBatch, names: Sequence[str], grad: bool = False, micro_batch: int | None = None
    ) -> dict[str, Tensor]:
        with torch.set_grad_enabled(grad):
            before = torch.cat([torch.zeros_like(batch.tokens[:, :1]), batch.tokens[:, :-1]], dim=1)
            law = torch.log_softmax(self.table[before] + self.bias, dim=-1)
            logp = law.gather(2, batch.tokens.unsqueeze(2)).squeeze(2)
            found = {"logp": logp, "entropy": -(law.exp() * law).sum(dim=-1)}
            return {name: torch.where(batch.mask, found[name], 0.0) for name in names}


@pytest.mark.parametrize("name", EXECUTABLE)
def test_total_is_omega_times_advantage_plus_rho(name: str, registry: Registry) -> None:
    found = compile(name, registry=registry).coefficients(contract_batch())
    assert set(found.total) == set(found.rho)
    torch.testing.assert_close(
        found.total["logp"], found.omega * found.advantage + found.rho["logp"], rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", EXECUTABLE)
def test_total_is_omega_times_advantage_plus_rho_on_ragged_batches(
    name: str, seed: int, registry: Registry, ragged_batch: Callable[..., RolloutBatch]
) -> None:
    found = compile(name, registry=registry).coefficients(ragged_batch(seed))
    torch.testing.assert_close(
        found.total["logp"], found.omega * found.advantage + found.rho["logp"], rtol=1e-12, atol=1e-14
    )


def test_omega_is_known_where_the_advantage_is_zero(registry: Registry) -> None:
    """Group 1 is silent: its advantages are zero, and its ω is that of the unclipped ratio, r/(N L)."""
    batch = contract_batch()
    found = compile("grpo", registry=registry).coefficients(batch)
    i, t = 4, 1
    assert found.advantage[i].abs().sum() == 0
    ratio = float(torch.exp(batch.columns["logp"][i, t] - batch.columns["old_logp"][i, t]))
    assert float(found.omega[i, t]) == pytest.approx(ratio / (21 * 3), rel=1e-12)


def test_rho_comes_from_terms_alone(registry: Registry) -> None:
    without = compile("grpo[terms.coefficient=0]", registry=registry).coefficients(contract_batch())
    assert float(without.rho["logp"].abs().max()) == 0
    found = compile("grpo", registry=registry).coefficients(contract_batch())
    assert float(found.rho["logp"].abs().max()) > 0
    assert found.omega.equal(without.omega)


@pytest.mark.parametrize("name", EXECUTABLE)
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_loss_coefficients_and_gradient_agree(name: str, micro_batch: int | None, registry: Registry) -> None:
    """Through the loss by autograd; through the coefficients by hand; and what `gradient` returns."""
    policy, batch, estimator = Bigram(), contract_batch(), compile(name, registry=registry)
    live = policy.quantities(batch, estimator.quantities, grad=True)
    parameters = policy.parameters()
    through_loss = torch.autograd.grad(-estimator.loss(live, batch), list(parameters.values()), retain_graph=True)
    total = estimator.coefficients(batch, {name: value.detach() for name, value in live.items()}).total
    pulled = torch.stack([(total[name] * live[name]).sum() for name in total]).sum()
    through_coefficients = torch.autograd.grad(pulled, list(parameters.values()))
    gradient = estimator.gradient(policy, batch, micro_batch)
    for key, one, other in zip(parameters, through_loss, through_coefficients, strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(gradient[key], one, rtol=1e-10, atol=1e-14)
        assert parameters[key].grad is None


def test_objective_descends_as_loss(registry: Registry) -> None:
    batch, estimator = contract_batch(), compile("ppo", registry=registry)
    quantities = {"logp": batch.columns["logp"]}
    assert float(estimator.loss(quantities, batch)) == -float(estimator.objective(quantities, batch))


def test_given_quantities_replace_the_columns(registry: Registry) -> None:
    batch, estimator = contract_batch(), compile("grpo", registry=registry)
    moved = {"logp": batch.columns["logp"] - 0.1}
    expected = estimator.coefficients(batch.with_columns(moved)).total["logp"]
    assert estimator.coefficients(batch, moved).total["logp"].equal(expected)


def test_entropy_is_a_quantity_of_its_own(registry: Registry) -> None:
    """c · H at weight 1/(N L): the coefficient of entropy is c/(N L), and log π is not touched by it."""
    grpo = compile("grpo[terms.coefficient=0]", registry=registry).method
    declaration = registry.operators["add_entropy_bonus"]
    bonus = replace(grpo.slots["terms"][0], operator="add_entropy_bonus", label="add_entropy_bonus",
                    parameters={"coefficient": 0.5}, declaration=declaration)  # fmt: skip
    estimator = compile(replace(grpo, slots={**grpo.slots, "terms": (bonus,)}))
    batch = contract_batch()
    found = estimator.coefficients(batch)
    assert estimator.quantities == ("logp", "entropy")
    expected = torch.where(batch.mask, 0.5 / (21 * batch.length.double().unsqueeze(1)), 0.0)
    torch.testing.assert_close(found.total["entropy"], expected)
    assert found.total["logp"].equal(compile(grpo).coefficients(batch).total["logp"])
    with pytest.raises(InputError, match="entropy"):
        estimator.objective({"logp": batch.columns["logp"]}, batch)


def test_batch_in_which_every_group_is_dropped_has_no_gradient(registry: Registry) -> None:
    silent = contract_batch().rows([4, 5, 6, 7, 8, 9, 10])
    for name in ("dapo", "dapo[selection.statistics=all]"):
        found = compile(name, registry=registry).coefficients(silent)
        assert float(found.total["logp"].abs().max()) == 0
        assert float(found.omega.abs().max()) == 0


def test_statistics_say_who_is_counted(registry: Registry) -> None:
    """DAPO drops 7 of 21 sequences with 27 of their tokens; what is left is the same but for the divisor."""
    batch = contract_batch()
    kept = compile("dapo", registry=registry).coefficients(batch).total["logp"]
    every = compile("dapo[selection.statistics=all]", registry=registry).coefficients(batch).total["logp"]
    tokens, dropped = int(batch.mask.sum()), int(batch.mask[4:11].sum())
    torch.testing.assert_close(kept * (tokens - dropped) / tokens, every, rtol=1e-12, atol=1e-16)
    assert float(kept[4:11].abs().max()) == 0


def test_dropped_samples_give_no_term_either(registry: Registry) -> None:
    grpo, dapo = (compile(name, registry=registry).method for name in ("grpo", "dapo"))
    estimator = compile(replace(dapo, slots={**dapo.slots, "terms": grpo.slots["terms"]}))
    rho = estimator.coefficients(contract_batch()).rho["logp"]
    assert float(rho[4:11].abs().max()) == 0
    assert float(rho[:4].abs().max()) > 0


def test_overflowing_ratio_is_an_error_and_not_a_number(registry: Registry) -> None:
    batch = contract_batch()
    logp = batch.columns["logp"].clone()
    old = batch.columns["old_logp"].clone()
    old[3, 0] = -1e4
    with pytest.raises(InputError, match="sequence 3"):
        compile("grpo", registry=registry).coefficients(batch.with_columns({"logp": logp, "old_logp": old}))


def test_coefficients_take_milliseconds(registry: Registry) -> None:
    """512 sequences of about 5 tokens; the bound is fifty times what they take on one idle core."""
    batch = contract_batch().rows(torch.arange(512) % 21)
    estimators = [compile(name, registry=registry) for name in EXECUTABLE]
    for estimator in estimators:
        started = perf_counter()
        estimator.coefficients(batch)
        assert perf_counter() - started < 1.0, estimator.label
