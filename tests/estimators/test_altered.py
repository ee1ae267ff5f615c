"""Perturbed copies and sampling engines: what becomes of the weights, and that engines sample what they say."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gradaxis.errors import InputError
from gradaxis.estimators.policies import (
    HuggingFacePolicy,
    dequantize_channels,
    embedded_policy,
    engine_policy,
    perturbed_policy,
    quantize_channels,
)
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.tasks import load_task


@pytest.fixture(scope="module")
def policy():
    return embedded_policy("policy")


def weights(policy):
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


@pytest.mark.parametrize("dim", [0, 1])
def test_quantising_equals_a_loop_and_rounds_to_nearest(dim):
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight.select(dim, 2).zero_()
    integers, step = quantize_channels(weight, dim)
    found = dequantize_channels(integers, step, dim)
    assert integers.dtype == torch.int8
    for channel in range(weight.shape[dim]):
        row, rounded = weight.select(dim, channel), found.select(dim, channel)
        size = max(abs(float(value)) for value in row) / 127
        for value, other in zip(row.tolist(), rounded.tolist(), strict=True):
            assert other == pytest.approx(0.0 if size == 0 else round(value / size) * size, abs=1e-12)
            assert abs(other - value) <= size / 2 + 1e-12
    # What lies on the grid stays there.
    assert torch.allclose(dequantize_channels(*quantize_channels(found, dim), dim), found, atol=1e-12)


def test_int8_rounds_linear_layers_alone(policy):
    before, engine = weights(policy), engine_policy(policy, "int8")
    after = weights(engine)
    rounded = {name for name, value in before.items() if not torch.equal(value, after[name])}
    linear = {f"{name}.weight" for name, module in policy.model.named_modules() if isinstance(module, torch.nn.Linear)}
    head = {"lm_head.weight"}
    assert rounded == linear - head
    for name in rounded:
        values = after[name] / (before[name].abs().amax(dim=1, keepdim=True) / 127)
        assert (values - values.round()).abs().max() < 1e-3
    assert all(torch.equal(value, weights(policy)[name]) for name, value in before.items())
    assert engine.identity != policy.identity


def test_gpt2_layers_are_rounded_along_their_outputs():
    """Their weight is [inputs, outputs]: a column, and not a row, lies on a grid of 255 steps."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    engine = engine_policy(HuggingFacePolicy(GPT2LMHeadModel(config)), "int8")
    weight = engine.model.transformer.h[0].mlp.c_fc.weight.detach()
    assert weight.shape == (8, 32)
    steps = weight / (weight.abs().amax(dim=0, keepdim=True) / 127)
    assert (steps - steps.round()).abs().max() < 1e-3


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_half_precision_casts_every_parameter_and_no_buffer(policy, name, dtype):
    engine = engine_policy(policy, name)
    before = weights(policy)
    assert {value.dtype for value in engine.model.parameters()} == {dtype}
    assert all(torch.equal(value, before[key].to(dtype)) for key, value in engine.model.named_parameters())
    buffers = dict(policy.model.named_buffers())
    assert buffers
    assert all(value.dtype == buffers[key].dtype for key, value in engine.model.named_buffers())
    assert policy.dtype == torch.float32


def test_an_unknown_engine_is_refused(policy):
    with pytest.raises(InputError, match="int8"):
        engine_policy(policy, "int4")


def test_noise_is_relative_to_each_parameter_and_grows_along_one_line(policy):
    before = weights(policy)
    small, large = (weights(perturbed_policy(policy, size, torch.Generator().manual_seed(3))) for size in (0.01, 0.03))
    other = weights(perturbed_policy(policy, 0.01, torch.Generator().manual_seed(4)))
    moved = squares = 0.0
    for name, value in before.items():
        step = small[name] - value
        root = math.sqrt(sum(float(x) ** 2 for x in value.flatten().tolist()) / value.numel())
        moved, squares = moved + value.numel(), squares + float((step / (0.01 * root)).double().square().sum())
        assert torch.allclose(large[name] - value, 3 * step, atol=1e-6 * root)
        assert not torch.allclose(other[name], small[name])
    assert squares / moved == pytest.approx(1.0, abs=5 * math.sqrt(2 / moved))
    assert all(torch.equal(value, weights(policy)[name]) for name, value in before.items())


def test_the_stored_log_probabilities_are_those_that_int8_sampled_with(policy):
    task, engine = load_task("arithmetic"), engine_policy(policy, "int8")
    batch = sample_rollouts(engine, task, task.prompts(6, 0), SamplingSettings(group_size=4, seed=1))
    stored = batch.columns["behavior_logp"]
    own = engine.quantities(batch, ("logp",))["logp"]
    assert (stored - own)[batch.mask].abs().max() < 1e-5
    assert (stored - policy.quantities(batch, ("logp",))["logp"])[batch.mask].abs().max() > 1e-4
    assert batch.provenance["policy"].startswith("embedded:policy with int8@")


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_the_stored_log_probabilities_are_those_that_half_precision_sampled_with(policy, name):
    """One answer at a time, the engine's own cached passes, token by token: equal to the last bit."""
    task, engine = load_task("arithmetic"), engine_policy(policy, name)
    batch = sample_rollouts(
        engine, task, task.prompts(4, 0), SamplingSettings(group_size=1, seed=1), micro_batch=1
    )  # fmt: skip
    stored, gaps = batch.columns["behavior_logp"], []
    exact = policy.quantities(batch, ("logp",))["logp"]
    accepted = inspect.signature(engine.model.forward).parameters
    argument = "cache" if "cache" in accepted else "past_key_values"  # older versions of transformers
    for row in range(batch.size):
        tokens = torch.tensor([batch.prompts[int(batch.prompt[row])].tokens])
        cache, feed = None, tokens
        for place in range(int(batch.length[row])):
            with torch.no_grad():
                output = engine.model(input_ids=feed, use_cache=True, **{argument: cache})
            cache, token = output[argument], batch.tokens[row, place]
            law = torch.log_softmax(output.logits[0, -1].double(), dim=-1)
            assert float(law[token]) == pytest.approx(float(stored[row, place]), abs=1e-6)
            gaps.append(abs(float(law[token].exp() - exact[row, place].exp())))
            feed = token.reshape(1, 1)
    assert 0 < max(gaps) < 0.1  # close to the policy, and not the policy
