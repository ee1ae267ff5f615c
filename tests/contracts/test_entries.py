"""What every executable entry must keep, whatever it computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gradaxis.errors import InputError
from gradaxis.estimators import CompiledEstimator, compile, contract_batch
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import Method, Registry, load_registry

ENTRIES = {name: method for name, method in load_registry().methods.items() if method.executable}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

pytestmark = pytest.mark.parametrize("name", ENTRIES)


def build(name: str) -> CompiledEstimator:
    return compile(ENTRIES[name])


def total(estimator: CompiledEstimator, batch: RolloutBatch) -> torch.Tensor:
    return estimator.coefficients(batch).total["logp"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_keeps_dtype_and_device(name: str, device: str, dtype: torch.dtype) -> None:
    batch = contract_batch(device, dtype)
    found = build(name).coefficients(batch)
    for value in (found.omega, found.advantage, *found.total.values(), *found.rho.values()):
        assert value.dtype == dtype
        assert value.device.type == device
        assert not value.requires_grad
    expected = total(build(name), contract_batch())
    torch.testing.assert_close(found.total["logp"].double().cpu(), expected, rtol=3e-4, atol=3e-6)


def test_runs_without_data(name: str) -> None:
    """On the meta device there are shapes only: nothing may be read from a tensor, and mixing devices raises."""
    batch = contract_batch("meta")
    estimator = build(name)
    found = estimator.coefficients(batch)
    assert found.total["logp"].shape == batch.tokens.shape
    assert found.total["logp"].is_meta
    assert estimator.objective({"logp": batch.columns["logp"]}, batch).shape == ()


def test_observation_and_padding_have_no_coefficient(name: str) -> None:
    batch = contract_batch()
    found = build(name).coefficients(batch)
    for value in (found.omega, found.advantage, *found.total.values()):
        assert float(value[~batch.mask].abs().max()) == 0


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -50.0])
def test_does_not_see_what_stands_off_the_mask(name: str, garbage: float) -> None:
    batch, estimator = contract_batch(), build(name)
    dirty = batch.with_columns({n: torch.where(batch.mask, c, garbage) for n, c in batch.columns.items()})
    expected = total(estimator, batch)
    assert total(estimator, dirty).equal(expected)
    leaf = dirty.columns["logp"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(estimator.objective({"logp": leaf}, dirty), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_does_not_see_padding(name: str) -> None:
    """Three more columns of padding change nothing."""
    batch, estimator = contract_batch(), build(name)

    def pad(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value, torch.full_like(value[:, :3], 1)], dim=1)

    nothing = torch.zeros(batch.size, 3, dtype=torch.bool)
    wider = replace(
        batch, tokens=pad(batch.tokens), mask=torch.cat([batch.mask, nothing], dim=1),
        response=torch.cat([batch.response, nothing], dim=1),
        columns={n: pad(c) for n, c in batch.columns.items()},
    )  # fmt: skip
    found = total(estimator, wider)
    torch.testing.assert_close(found[:, :-3], total(estimator, batch), rtol=1e-12, atol=1e-15)
    assert float(found[:, -3:].abs().max()) == 0


def test_does_not_care_for_the_order_of_sequences(name: str) -> None:
    batch, estimator = contract_batch(), build(name)
    order = torch.tensor([(5 * i) % 21 for i in range(21)])
    torch.testing.assert_close(
        total(estimator, batch.rows(order)), total(estimator, batch)[order], rtol=1e-11, atol=1e-15
    )


def test_does_not_care_for_the_numbers_of_groups_and_prompts(name: str) -> None:
    batch, estimator = contract_batch(), build(name)
    greedy = batch.companions["greedy"]
    renamed = replace(batch, group=70 - 3 * batch.group, prompt=5 - batch.prompt,
                      companions={"greedy": replace(greedy, prompt=5 - greedy.prompt)})  # fmt: skip
    torch.testing.assert_close(total(estimator, renamed), total(estimator, batch), rtol=1e-11, atol=1e-15)


def test_is_finite_on_silent_groups(name: str) -> None:
    batch, estimator = contract_batch(), build(name)
    for rewards in (torch.zeros_like(batch.rewards), torch.full_like(batch.rewards, 0.1)):
        found = estimator.coefficients(replace(batch, rewards=rewards))
        assert all(bool(torch.isfinite(value).all()) for value in (found.omega, found.advantage, *found.total.values()))


def test_is_finite_or_refuses_a_single_sample(name: str) -> None:
    batch, estimator = contract_batch().rows([3]), build(name)
    if "leave_one_out" in str(ENTRIES[name].slots["baseline"]):
        with pytest.raises(InputError, match="group 0"):
            estimator.coefficients(batch)
        return
    assert bool(torch.isfinite(total(estimator, batch)).all())


def test_accepts_a_batch_without_sequences_and_one_without_policy_tokens(name: str) -> None:
    batch, estimator = contract_batch(), build(name)
    assert total(estimator, batch.rows([])).shape == (0, 9)
    mute = replace(batch, mask=batch.mask & (torch.arange(21) != 2).unsqueeze(1))
    assert bool(torch.isfinite(total(estimator, mute)).all())
    assert float(total(estimator, mute)[2].abs().max()) == 0


def test_is_linear_in_what_it_ascends(name: str) -> None:
    """The same L on two copies of the batch side by side is L: every divisor is a mean."""
    batch, estimator = contract_batch(), build(name)
    double = batch.rows([*range(21), *range(21)])
    double = replace(double, group=double.group + 6 * (torch.arange(42) >= 21))
    one, two = (estimator.objective({"logp": b.columns["logp"]}, b) for b in (batch, double))
    over_batch = any(placed.over == "batch" for placed in ENTRIES[name].slots["scale"])
    torch.testing.assert_close(two, one, rtol=2e-2 if over_batch else 1e-12, atol=1e-12)


def test_declared_coupling_holds(name: str) -> None:
    """What a group, or a sample, gives does not depend on the others but for the mean, unless the batch is coupled."""
    batch, estimator = contract_batch(), build(name)
    part = [0] if estimator.couples == "sample" else [0, 1, 2, 3]
    alone, together = estimator.coefficients(batch.rows(part)), estimator.coefficients(batch)
    parts = alone.total["logp"] * len(part) / 21, together.total["logp"][part]
    assert torch.allclose(*parts, rtol=1e-11, atol=1e-15) == (estimator.couples != "batch")


def test_differs_from_every_entry_that_it_does_not_name(name: str) -> None:
    """Entries whose coefficients coincide on the contract batch name each other in `coincides_with`."""
    batch = contract_batch()
    mine = total(build(name), batch)
    for other, method in ENTRIES.items():
        if other == name:
            continue
        same = torch.allclose(mine, total(build(other), batch), rtol=1e-9, atol=1e-12)
        assert same == (other in ENTRIES[name].coincides_with), other
        assert (other in ENTRIES[name].coincides_with) == (name in method.coincides_with), other


def test_resolved_entry_is_all_that_is_read(name: str, registry: Registry) -> None:
    """An entry under another id, name, family and status compiles to the same estimator."""
    method: Method = registry.method(name)
    entry = method.entry.model_copy(
        update={"id": "other", "name": "Other", "family": "foundations", "status": "preview"}
    )
    renamed = compile(replace(method, entry=entry, label="other"))
    batch = contract_batch()
    assert total(renamed, batch).equal(total(build(name), batch))
