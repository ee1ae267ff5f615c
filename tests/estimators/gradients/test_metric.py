"""Inner products weighed by Adam's second moments, against explicit weighting of looped autograd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators.gradients import build_patterns, compute_gram, gradient_of, self_test
from gradaxis.estimators.gradients.metric import WeightedSink
from gradaxis.estimators.policies import HuggingFacePolicy, read_optimizer_state

Make = Callable[..., Any]


def random_metric(policy: HuggingFacePolicy, seed: int = 0) -> dict[str, Tensor]:
    """Weights over four orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 10 ** (4 * torch.rand(value.shape, generator=generator, dtype=torch.float64))
        for name, value in policy.parameters().items()
    }


def flat(vector: dict[str, Tensor], policy: HuggingFacePolicy) -> Tensor:
    return torch.cat([vector[name].flatten().double() for name in policy.parameters()])


@pytest.mark.parametrize(
    ("architecture", "mode"),
    [*((name, mode) for name in ("llama", "qwen2-tied", "gpt2") for mode in ("exact", "projected")),
     ("qwen2-moe", "exact")],
)  # fmt: skip
def test_equals_explicit_weighting(
    architecture: str, mode: Any, tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    """Σ w u v over all parameters; the projection is compared in what it knows exactly, and on average."""
    policy, batch = tiny_policy(architecture), tiny_batch()
    totals = [random_total(batch, seed) for seed in range(2)]
    patterns = build_patterns(totals)
    sequence = [i for i in range(batch.size) for _ in range(patterns.size)]
    rows = looped_gradients(policy, batch, sequence, patterns.vectors.flatten(0, 1), patterns.quantities)
    metric = random_metric(policy)
    weight = flat(metric, policy)
    direction = gradient_of(policy, batch, totals[0])
    gram = compute_gram(policy, batch, patterns, mode=mode, metric=metric, directions={"g": direction}, columns=4096,
                        generator=torch.Generator().manual_seed(3))  # fmt: skip
    expected = (rows * weight) @ rows.T
    norm = expected.diagonal().sqrt().clamp(min=1e-30)
    tolerance = 1e-5 if mode == "exact" else 6 * (2 / 4096) ** 0.5
    assert float(((gram.matrix - expected) / (norm[:, None] * norm)).abs().max()) < tolerance
    along = flat(direction, policy)
    torch.testing.assert_close(gram.directions[:, 0], (rows * weight) @ along, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gram.direction_gram[0, 0], (along * weight) @ along, rtol=1e-6, atol=0)
    torch.testing.assert_close(sum(gram.energy.values()), expected.diagonal(), rtol=1e-5, atol=1e-9)


def test_unit_sums_are_in_the_metric_too(
    tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    rows = looped_gradients(policy, batch, list(range(batch.size)), patterns.vectors.flatten(0, 1), patterns.quantities)
    metric = random_metric(policy)
    units = torch.rand(3, batch.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gram = compute_gram(policy, batch, patterns, mode="exact", metric=metric, units={"m": units})
    parts = (units @ rows).split([value.numel() for value in policy.parameters().values()], dim=1)
    for name, part in zip(policy.parameters(), parts, strict=True):
        weight = metric[name].flatten()
        alone, together = gram.by_parameter[name]["m"]
        assert float(alone) == pytest.approx(float((part.square() * weight).sum()), rel=1e-5)
        assert float(together) == pytest.approx(float((part.sum(dim=0).square() * weight).sum()), rel=1e-5)


def test_weights_of_one_change_nothing(tiny_policy: Make, tiny_batch: Make, random_total: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    ones = {name: torch.ones_like(value) for name, value in policy.parameters().items()}
    plain, weighed = (compute_gram(policy, batch, patterns, mode="exact", metric=metric) for metric in (None, ones))
    torch.testing.assert_close(weighed.matrix, plain.matrix, rtol=1e-12, atol=0)


def test_the_self_test_compares_in_the_metric(
    tiny_policy: Make, tiny_batch: Make, random_total: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that forgets the weights agrees with autograd without a metric, and disagrees in one."""
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    roots = {name: value.sqrt() for name, value in random_metric(policy).items()}
    assert self_test(policy, batch, patterns, roots=roots) < 1e-5
    monkeypatch.setattr(WeightedSink, "add", lambda self, name, rows, block: self._sink.add(name, rows, block))
    assert self_test(policy, batch, patterns) < 1e-5
    with pytest.raises(GradaxisError, match="disagree with autograd"):
        self_test(policy, batch, patterns, roots=roots)


@pytest.mark.parametrize("broken", ["missing", "shape", "zero", "nan"])
def test_a_metric_that_is_none_is_refused(broken: str, tiny_policy: Make, tiny_batch: Make, random_total: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    metric, name = random_metric(policy), "model.norm.weight"
    if broken == "missing":
        del metric[name]
    else:
        metric[name] = {"shape": metric[name][:-1], "zero": 0 * metric[name], "nan": torch.nan * metric[name]}[broken]
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        compute_gram(policy, batch, build_patterns([random_total(batch, 0)]), metric=metric)


# Optimizer states ---------------------------------------------------------------------------------------------------


def train(policy: HuggingFacePolicy, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """Steps on a loss whose gradients differ from value to value, and from step to step."""
    for step in range(steps):
        optimizer.zero_grad()
        sum(
            (value * (torch.arange(value.numel()).reshape(value.shape) + step).sin()).sum()
            for value in policy.parameters().values()
        ).backward()  # type: ignore[union-attr]
        optimizer.step()
    policy.model.zero_grad()


def expected_weights(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor:
    """1 / (√v̂ + ε), from what the optimizer itself holds for the parameter."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    state = optimizer.state[parameter]
    corrected = state["exp_avg_sq"].numpy() / (1 - group["betas"][1] ** float(state["step"]))
    return torch.from_numpy(1 / (corrected**0.5 + group["eps"]))


def groups_as_trainers_make_them(policy: HuggingFacePolicy) -> list[dict[str, Any]]:
    """Matrices decay and vectors do not, as transformers' trainer has it."""
    values = list(policy.parameters().values())
    return [{"params": [v for v in values if v.dim() > 1], "weight_decay": 0.1},
            {"params": [v for v in values if v.dim() < 2], "weight_decay": 0.0}]  # fmt: skip


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize("order", ["plain", "decay groups", "named"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_reads_a_checkpoint_of_torch(kind: str, order: str, wrapped: bool, tiny_policy: Make, tmp_path: Path) -> None:
    policy = tiny_policy("llama")
    given: Any = {
        "plain": lambda: list(policy.parameters().values()),
        "decay groups": lambda: groups_as_trainers_make_them(policy),
        "named": lambda: list(reversed(policy.parameters().items())),
    }[order]()  # fmt: skip
    optimizer = getattr(torch.optim, kind)(given, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    train(policy, optimizer)
    state = optimizer.state_dict()
    torch.save({"optimizer": state, "step": 3} if wrapped else state, tmp_path / "optimizer.pt")
    with pytest.raises(InputError, match="--allow-pickle"):
        read_optimizer_state(tmp_path / "optimizer.pt", policy)
    found = read_optimizer_state(tmp_path / "optimizer.pt", policy, allow_pickle=True)
    assert found.facts["steps"] == [3, 3]
    for name, parameter in policy.parameters().items():
        torch.testing.assert_close(
            found.weights[name].double(), expected_weights(optimizer, parameter), rtol=1e-5, atol=0
        )


def test_the_weights_are_how_adam_moves(tiny_policy: Make, tmp_path: Path) -> None:
    """Two steps of Adam from one state whose gradients differ by a little: they differ by lr · w · (1 − β₁)/(1 − β₁ᵗ)
    times what the gradients differ by, but for what the gradient does to v̂, which β₂ near 1 makes small."""
    policy = tiny_policy("gpt2")
    optimizer = torch.optim.Adam(list(policy.parameters().values()), lr=1.0, betas=(0.5, 1 - 1e-9), eps=1e-6)
    train(policy, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "adam.pt")
    weights = read_optimizer_state(tmp_path / "adam.pt", policy, allow_pickle=True).weights
    name = "transformer.h.0.attn.c_attn.weight"
    parameter, change = policy.parameters()[name], 1e-3
    before, state, ends = parameter.detach().clone(), optimizer.state_dict(), []
    for shift in (0.0, change):
        probe = torch.optim.Adam(list(policy.parameters().values()))
        probe.load_state_dict({**state, "state": {k: {n: torch.as_tensor(x).clone() for n, x in v.items()}
                                                  for k, v in state["state"].items()}})  # fmt: skip
        parameter.data.copy_(before)
        parameter.grad = torch.full_like(parameter, shift)
        probe.step()
        ends.append(parameter.detach().clone())
    parameter.grad = None
    found = (ends[0] - ends[1]) / (change * 0.5 / (1 - 0.5**4))
    # v̂ of step 4 is (3 v + g²)/4 of step 3's: the weights are those of v at the next step up to its correction.
    torch.testing.assert_close(found, weights[name].double() * (4 / 3) ** 0.5, rtol=1e-2, atol=0)


def test_reads_safetensors_by_name(tiny_policy: Make, tmp_path: Path) -> None:
    policy = tiny_policy("qwen2-tied")
    moments = {name: torch.rand(value.shape) for name, value in policy.parameters().items()}
    save_file({f"{name}.exp_avg_sq": value for name, value in moments.items()}, tmp_path / "v.safetensors",
              metadata={"step": "5", "beta2": "0.9", "eps": "0.01"})  # fmt: skip
    save_file(moments, tmp_path / "corrected.safetensors")
    found = read_optimizer_state(tmp_path / "v.safetensors", policy)
    plain = read_optimizer_state(tmp_path / "corrected.safetensors", policy)
    assert (found.facts["steps"], plain.facts["steps"]) == ([5, 5], None)
    for name, value in moments.items():
        torch.testing.assert_close(found.weights[name], 1 / ((value / (1 - 0.9**5)).sqrt() + 0.01), rtol=1e-5, atol=0)
        torch.testing.assert_close(plain.weights[name], 1 / (value.sqrt() + 1e-8), rtol=1e-5, atol=0)


def test_tells_of_values_that_never_had_a_gradient(tiny_policy: Make, tmp_path: Path) -> None:
    policy = tiny_policy("llama", params="*norm*")
    moments = {name: torch.zeros(value.shape) for name, value in policy.parameters().items()}
    moments["model.norm.weight"] += 1.0
    save_file(moments, tmp_path / "v.safetensors")
    share = 1 - 1 / len(moments)
    assert read_optimizer_state(tmp_path / "v.safetensors", policy).facts["untouched"] == pytest.approx(share)


def test_refuses_what_does_not_fit(tiny_policy: Make, tmp_path: Path) -> None:
    policy, other = tiny_policy("llama"), tiny_policy("gpt2")
    optimizer = torch.optim.Adam(list(other.parameters().values()))
    train(other, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match="shapes do not follow the model's order"):
        read_optimizer_state(tmp_path / "other.pt", policy, allow_pickle=True)
    torch.save({"model": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="param_groups"):
        read_optimizer_state(tmp_path / "model.pt", policy, allow_pickle=True)
    torch.save({"state": {}, "param_groups": [], "danger": HuggingFacePolicy}, tmp_path / "code.pt")
    with pytest.raises(InputError, match="plain data"):
        read_optimizer_state(tmp_path / "code.pt", policy, allow_pickle=True)
    with pytest.raises(InputError, match="does not exist"):
        read_optimizer_state(tmp_path / "none.safetensors", policy)
    moments = {name: torch.ones(value.shape) for name, value in policy.parameters().items()}
    for change, message in (
        (torch.ones(3), "of shape"),
        (-moments["model.norm.weight"], "negative"),
        (None, "no second"),
    ):
        broken = {**moments, "model.norm.weight": change}
        save_file({name: value for name, value in broken.items() if value is not None}, tmp_path / "v.safetensors")
        with pytest.raises(InputError, match=f"{message}.*model.norm.weight|model.norm.weight.*{message}"):
            read_optimizer_state(tmp_path / "v.safetensors", policy)
    torch.save(torch.optim.Adam(list(policy.parameters().values())).state_dict(), tmp_path / "unused.pt")
    with pytest.raises(InputError, match="no second moment"):
        read_optimizer_state(tmp_path / "unused.pt", policy, allow_pickle=True)
