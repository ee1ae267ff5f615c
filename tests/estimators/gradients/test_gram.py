"""The streaming Gram matrix against looped autograd, over all parameters."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators.gradients import Patterns, build_patterns, compute_gram, gradient_of, self_test
from gradaxis.estimators.gradients.passes import InstrumentedPass
from gradaxis.estimators.gradients.sinks import Hashes
from gradaxis.estimators.policies import HuggingFacePolicy, embedded_policy
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.tasks import load_task

Make = Callable[..., Any]


def expected_rows(loop: Make, policy: HuggingFacePolicy, batch: RolloutBatch, patterns: Patterns) -> Tensor:
    """Gradients of all (sequence, pattern) pairs by plain autograd, [N·B, values]."""
    sequence = [i for i in range(batch.size) for _ in range(patterns.size)]
    return loop(policy, batch, sequence, patterns.vectors.flatten(0, 1), patterns.quantities)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference of inner products relative to the norms of the two vectors."""
    norm = expected.diagonal().sqrt().clamp(min=1e-30)
    return float(((found - expected) / (norm[:, None] * norm)).abs().max())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("architecture", ["phi", "qwen2-moe"])
def test_equals_looped_autograd(
    architecture: str, recompute: bool, device: str, tiny_policy: Make, tiny_batch: Make, random_total: Make,
    looped_gradients: Make,
) -> None:  # fmt: skip
    policy, batch = tiny_policy(architecture, device), tiny_batch(device=device)
    patterns = build_patterns([random_total(batch, seed) for seed in range(2)])
    gram = compute_gram(policy, batch, patterns, mode="exact", recompute=recompute)
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    assert gram.exact
    assert gram.covered == tuple(policy.parameters())
    assert relative(gram.matrix, rows @ rows.T) < 1e-5
    assert bool(gram.slow) == (architecture == "qwen2-moe")
    torch.testing.assert_close(sum(gram.energy.values()), gram.matrix.diagonal(), rtol=1e-9, atol=1e-12)
    assert all(parameter.requires_grad for parameter in policy.parameters().values())
    assert all(parameter.grad is None for parameter in policy.model.parameters())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2-tied", "qwen3", "gemma2", "gpt2", "gpt-neox", "mistral"])
def test_every_architecture_tied_and_untied(
    architecture: str, tied: bool, device: str, tiny_policy: Make, tiny_batch: Make, random_total: Make,
    looped_gradients: Make,
) -> None:  # fmt: skip
    policy, batch = tiny_policy(architecture, device, tied=tied), tiny_batch(device=device)
    head, embedding = policy.model.get_output_embeddings(), policy.model.get_input_embeddings()
    assert (head.weight is embedding.weight) == tied
    patterns = build_patterns([random_total(batch, seed) for seed in range(2)])
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    for recompute in (False, True):
        gram = compute_gram(policy, batch, patterns, mode="exact", recompute=recompute)
        assert gram.covered == tuple(policy.parameters())
        assert gram.slow == ()
        assert relative(gram.matrix, rows @ rows.T) < 1e-5


@pytest.mark.parametrize("params", ["*.mlp.*", r"layers\.1\.self_attn|norm", "*.layers.0.mlp.down_proj.weight"])
def test_a_chosen_subset(
    params: str, tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    policy, batch = tiny_policy("mistral", params=params), tiny_batch()
    assert 0 < len(policy.parameters()) < len(list(policy.model.parameters()))
    patterns = build_patterns([random_total(batch, seed) for seed in range(2)])
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    gram = compute_gram(policy, batch, patterns)
    assert gram.covered == tuple(policy.parameters())
    assert relative(gram.matrix, rows @ rows.T) < 1e-5


def test_energy_is_each_parameters_own(
    tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    policy, batch = tiny_policy("qwen2-tied"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    gram = compute_gram(policy, batch, patterns)
    parts = rows.split([value.numel() for value in policy.parameters().values()], dim=1)
    for name, part in zip(policy.parameters(), parts, strict=True):
        torch.testing.assert_close(gram.energy[name], part.square().sum(dim=1), rtol=1e-5, atol=1e-9)


def test_a_padding_token_inside_a_prompt_counts_as_autograd_counts_it(
    tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    policy, batch = tiny_policy("llama", params="*embed_tokens*"), tiny_batch()
    assert policy.model.get_input_embeddings().padding_idx == 0  # and every prompt begins with id 0
    patterns = build_patterns([random_total(batch, 0)])
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    assert relative(compute_gram(policy, batch, patterns).matrix, rows @ rows.T) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_embedded_policy(dtype: torch.dtype, device: str, random_total: Make, looped_gradients: Make) -> None:
    policy, task = embedded_policy("policy", dtype=dtype, device=device), load_task("arithmetic")
    batch = sample_rollouts(policy, task, task.prompts(4, 0), SamplingSettings(group_size=3, seed=1))
    patterns = build_patterns([random_total(batch, seed) for seed in range(2)])
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    assert "lm_head.weight" not in policy.parameters()  # tied: one matrix
    bound = 1e-5 if dtype is torch.float64 else 1e-3
    assert relative(compute_gram(policy, batch, patterns, mode="exact").matrix, rows @ rows.T) < bound


def test_methods_are_quadratic_forms_and_directions_are_inner_products(
    tiny_policy: Make, tiny_batch: Make, random_total: Make, device: str
) -> None:
    policy, batch = tiny_policy("qwen2-tied", device), tiny_batch(device=device)
    totals = [random_total(batch, seed) for seed in range(4)]
    gradients = [gradient_of(policy, batch, total) for total in totals]
    flat = torch.stack([torch.cat([value.flatten() for value in gradient.values()]) for gradient in gradients])
    patterns = build_patterns(totals[:3])
    gram = compute_gram(policy, batch, patterns, directions={"a": gradients[0], "b": gradients[3]})
    weights = torch.stack([patterns.express(total)[0].flatten() for total in totals[:3]])
    truth = flat @ flat.T
    torch.testing.assert_close(weights @ gram.matrix @ weights.T, truth[:3, :3], rtol=1e-5, atol=1e-6)
    assert gram.direction_names == ("a", "b")
    torch.testing.assert_close(weights @ gram.directions, truth[:3][:, [0, 3]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gram.direction_gram, truth[[0, 3]][:, [0, 3]], rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_the_loss(tiny_policy: Make, tiny_batch: Make, random_total: Make, device: str) -> None:
    policy, batch = tiny_policy("gpt2", device), tiny_batch(device=device)
    total = random_total(batch, 0)
    quantities = policy.quantities(batch, ("logp", "entropy"), grad=True)
    sum((quantities[name] * total[name]).sum() for name in total).backward()  # type: ignore[union-attr]
    for size in (None, 1, 4):
        for name, value in gradient_of(policy, batch, total, micro_batch=size).items():
            expected = policy.parameters()[name].grad
            assert expected is not None
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def test_complete_patterns_give_every_tokens_gradient(
    tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)], complete=True, mask=batch.mask)
    assert int(patterns.rank.sum()) == 2 * int(batch.mask.sum())
    gram = compute_gram(policy, batch, patterns)
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    assert relative(gram.matrix, rows @ rows.T) < 1e-5
    assert bool(gram.matrix[~patterns.live.flatten()].eq(0).all())


def test_parts_of_the_model_add_up(tiny_policy: Make, tiny_batch: Make, random_total: Make) -> None:
    batch = tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    whole = compute_gram(tiny_policy("gpt2"), batch, patterns)
    parts = [
        compute_gram(tiny_policy("gpt2", params=part), batch, patterns) for part in ("transformer.h.*", r"wte|wpe|ln_f")
    ]
    assert {name for part in parts for name in part.covered} == set(whole.covered)
    torch.testing.assert_close(sum(part.matrix for part in parts), whole.matrix, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_layer_that_is_used_twice_takes_the_slow_way(
    recompute: bool, tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    batch = tiny_batch()
    model = tiny_policy("llama").model
    model.model.layers[1] = model.model.layers[0]
    policy = HuggingFacePolicy(model)
    patterns = build_patterns([random_total(batch, 0)])
    gram = compute_gram(policy, batch, patterns, mode="exact", recompute=recompute)
    assert set(gram.slow) == {name for name in policy.parameters() if ".layers." in name}
    rows = expected_rows(looped_gradients, policy, batch, patterns)
    assert relative(gram.matrix, rows @ rows.T) < 1e-5


@pytest.mark.parametrize("architecture", ["qwen2-tied", "qwen2-moe"])
def test_the_projection_is_unbiased_with_the_stated_error(
    architecture: str, tiny_policy: Make, tiny_batch: Make, random_total: Make, device: str
) -> None:
    policy, batch = tiny_policy(architecture, device), tiny_batch(device=device)
    totals = [random_total(batch, seed) for seed in range(2)]
    patterns = build_patterns(totals)
    directions = {"a": gradient_of(policy, batch, totals[0])}
    exact = compute_gram(policy, batch, patterns, mode="exact", directions=directions)
    columns, repeats = 64, 60
    draws = []
    for seed in range(repeats):
        gram = compute_gram(
            policy, batch, patterns, mode="projected", columns=columns, micro_batch=4, directions=directions,
            generator=torch.Generator().manual_seed(seed), test=False,
        )  # fmt: skip
        draws.append(gram.matrix)
    assert not gram.exact
    assert gram.columns == columns
    assert gram.relative_error == pytest.approx((2 / columns) ** 0.5)
    assert gram.covered == exact.covered
    torch.testing.assert_close(gram.directions, exact.directions, rtol=1e-5, atol=1e-6)
    for name, value in exact.energy.items():
        torch.testing.assert_close(gram.energy[name], value, rtol=1e-5, atol=1e-9)
    norm = exact.matrix.diagonal().sqrt()
    scale = norm[:, None] * norm
    error = (torch.stack(draws) - exact.matrix) / scale
    stated = ((1 + (exact.matrix / scale).square()) / columns).sqrt()
    assert bool((error.mean(dim=0).abs() < 5 * stated / repeats**0.5).all())
    spread = error.square().mean(dim=0).sqrt() / stated
    assert float(spread.min()) > 0.5
    assert float(spread.max()) < 1.6


def test_one_seed_gives_one_projection_however_it_is_cut(
    tiny_policy: Make, tiny_batch: Make, random_total: Make
) -> None:
    policy, batch = tiny_policy("gpt2"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    matrices = [
        compute_gram(
            policy, batch, patterns, mode="projected", columns=50, micro_batch=size,
            generator=torch.Generator().manual_seed(3), test=False,
        ).matrix
        for size in (1, 4, 6)
    ]  # fmt: skip
    torch.testing.assert_close(matrices[0], matrices[1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(matrices[0], matrices[2], rtol=1e-6, atol=1e-8)


def test_runs_and_lookups_of_a_sketch_agree(device: str) -> None:
    hashes = Hashes(7, {"weight": 45}, torch.Generator().manual_seed(0), torch.device(device))
    column, sign = hashes.lookup("weight", torch.arange(45, device=device))
    assert set(sign.tolist()) == {-1, 1}
    for start, end in ((0, 45), (3, 4), (6, 30)):
        pieces = hashes.runs("weight", start, end)
        assert [place for begin, stop, _ in pieces for place in range(begin, stop)] == list(range(start, end))
        found = [first + place - begin for begin, stop, first in pieces for place in range(begin, stop)]
        assert found == column[start:end].tolist()
    for run in range(6):  # the values of one run never meet
        assert len(set(column[7 * run : 7 * run + 7].tolist())) == 7


def test_the_self_test_passes_and_finds_a_backend_that_is_wrong(
    tiny_policy: Make, tiny_batch: Make, random_total: Make
) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    assert self_test(policy, batch, patterns, columns=512, generator=torch.Generator().manual_seed(0)) < 1e-6
    # Somebody else's hook doubles an output: what the module multiplied is no longer what the loss saw.
    policy.model.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, arguments, output: 2 * output)
    with pytest.raises(GradaxisError, match="disagree with autograd"):
        compute_gram(policy, batch, patterns)


@pytest.mark.parametrize("mode", ["exact", "projected"])
def test_no_pass_outlives_its_use(
    mode: Any, tiny_policy: Make, tiny_batch: Make, random_total: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    passes: list[weakref.ref[InstrumentedPass]] = []
    enter = InstrumentedPass.__enter__

    def remember(self: InstrumentedPass) -> InstrumentedPass:
        passes.append(weakref.ref(self))
        return enter(self)

    monkeypatch.setattr(InstrumentedPass, "__enter__", remember)
    patterns = build_patterns([random_total(batch, 0)])
    gc.disable()  # it runs when there are many objects, not when they are large
    try:
        compute_gram(policy, batch, patterns, mode=mode, columns=8, generator=torch.Generator(), micro_batch=2)
        assert len(passes) >= 2  # the self-test and the work
        assert all(reference() is None for reference in passes)
    finally:
        gc.enable()


def test_no_coefficients_give_a_zero_matrix(tiny_policy: Make, tiny_batch: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([{"logp": torch.zeros(batch.tokens.shape)}])
    gram = compute_gram(policy, batch, patterns)
    assert gram.matrix.shape == (6, 6)
    assert bool(gram.matrix.eq(0).all())


def test_bad_input_is_refused(tiny_policy: Make, tiny_batch: Make, random_total: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    incomplete: Mapping[str, Mapping[str, Tensor]] = {"a": {"lm_head.weight": torch.ones(23, 16)}}
    with pytest.raises(InputError, match="direction 'a'"):
        compute_gram(policy, batch, patterns, directions=incomplete)
    with pytest.raises(InputError, match="patterns"):
        compute_gram(policy, batch.rows([0, 1]), patterns)
    with pytest.raises(InputError, match="mode"):
        compute_gram(policy, batch, patterns, mode="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shape"):
        gradient_of(policy, batch, {"logp": torch.ones(6, 4)})
