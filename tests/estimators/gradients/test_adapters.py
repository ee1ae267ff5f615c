"""Adapters of peft: their gradients are formed like those of any other layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradaxis.estimators.gradients import build_patterns, compute_gram, gradient_of
from gradaxis.estimators.policies import HuggingFacePolicy, embedded_policy
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.tasks import load_task

peft = pytest.importorskip("peft")

Make = Callable[..., Any]
TARGETS = {"gpt2": ["c_attn", "c_fc"], "gpt-neox": ["query_key_value", "dense_h_to_4h"]}


def adapted(model: Any, targets: list[str], seed: int = 0) -> Any:
    """The model with adapters of rank 3, all random: at the start of training B is zero and A has no gradient."""
    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    options = {"r": 3, "lora_alpha": 6, "lora_dropout": 0.1, "target_modules": targets, "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(model, peft.LoraConfig(**options, fan_in_fan_out=transposed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("architecture", ["llama", "qwen2-tied", "qwen3", "gemma2", "gpt2", "gpt-neox", "mistral"])
def test_equals_looped_autograd(
    architecture: str, tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    batch = tiny_batch()
    targets = TARGETS.get(architecture, ["q_proj", "v_proj", "down_proj"])
    model = adapted(tiny_policy(architecture).model, targets).double()
    policy = HuggingFacePolicy(model, params="lora")
    names = tuple(policy.parameters())
    assert len(names) == 2 * 2 * len(targets)  # A and B, in two layers
    assert all("lora_A" in name or "lora_B" in name for name in names)
    patterns = build_patterns([random_total(batch, seed) for seed in range(2)])
    sequence = [i for i in range(batch.size) for _ in range(patterns.size)]
    rows = looped_gradients(policy, batch, sequence, patterns.vectors.flatten(0, 1), patterns.quantities)
    norm = (rows @ rows.T).diagonal().sqrt().clamp(min=1e-30)
    for recompute in (False, True):
        gram = compute_gram(policy, batch, patterns, mode="exact", recompute=recompute)
        assert gram.covered == names
        assert gram.slow == ()
        assert float(((gram.matrix - rows @ rows.T) / (norm[:, None] * norm)).abs().max()) < 1e-5
    assert {name for name, value in model.named_parameters() if value.requires_grad} == set(names)


def test_adapters_on_an_embedding_take_the_slow_way(
    tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make
) -> None:
    batch = tiny_batch()
    policy = HuggingFacePolicy(adapted(tiny_policy("llama").model, ["embed_tokens", "q_proj"]).double(), params="lora")
    patterns = build_patterns([random_total(batch, 0)])
    gram = compute_gram(policy, batch, patterns, mode="exact")
    assert sorted(name.rsplit(".", 2)[1] for name in gram.slow) == ["lora_embedding_A", "lora_embedding_B"]
    rows = looped_gradients(policy, batch, list(range(6)), patterns.vectors[:, 0], patterns.quantities)
    torch.testing.assert_close(gram.matrix, rows @ rows.T, rtol=1e-5, atol=1e-9)


def test_an_adapter_folder_loads_as_a_policy(tmp_path: Path, random_total: Make) -> None:
    base = embedded_policy("policy")
    path = tmp_path / "base"
    base.model.save_pretrained(path)
    base.tokenizer.save_pretrained(path)
    model = adapted(HuggingFacePolicy.load(str(path)).model, ["q_proj", "down_proj"])
    model.save_pretrained(tmp_path / "adapter")
    base.tokenizer.save_pretrained(tmp_path / "adapter")
    policy, task = HuggingFacePolicy.load(str(tmp_path / "adapter"), params="lora"), load_task("arithmetic")
    batch = sample_rollouts(policy, task, task.prompts(3, 0), SamplingSettings(group_size=2, seed=1))
    here = HuggingFacePolicy(model, policy.tokenizer, params="lora")
    total = random_total(batch, 0)
    loaded, expected = gradient_of(policy, batch, total), gradient_of(here, batch, total)
    assert len(loaded) == len(expected) > 0
    for found, known in zip(loaded.values(), expected.values(), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-6)
    gram = compute_gram(policy, batch, build_patterns([total]))
    weights = build_patterns([total]).express(total)[0].flatten()
    square = sum(float(value.double().square().sum()) for value in expected.values())
    assert float(weights @ gram.matrix @ weights) == pytest.approx(square, rel=1e-4)
