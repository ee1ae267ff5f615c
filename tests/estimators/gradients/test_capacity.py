"""The largest models, from published sizes."""

from __future__ import annotations

import pytest
import torch
import transformers

from gradaxis.estimators.gradients.capacity import (
    ARCHITECTURES,
    Architecture,
    Setting,
    exact_need,
    largest_model,
    projected_need,
)


# The numbers of parameters that the models' authors publish.
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("SmolLM2-135M", 134_515_008),
        ("Qwen2.5-0.5B", 494_032_768),
        ("Llama-3.2-1B", 1_235_814_400),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Llama-3.1-8B", 8_030_261_248),
    ],
)
def test_sizes_are_those_published(name: str, values: int) -> None:
    assert ARCHITECTURES[name].values == values


def test_sizes_are_those_of_the_library() -> None:
    small = Architecture(2, 32, 48, 4, 2, 100, False, head_width=8)
    config = transformers.Qwen3Config(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=100, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert small.values == sum(value.numel() for value in model.parameters())


def test_more_memory_and_smaller_weights_fit_larger_models() -> None:
    def size(memory: int, itemsize: int, exact: bool = False, adapters: int | None = None) -> int:
        found = largest_model(exact_need if exact else projected_need, memory, Setting(), itemsize, adapters)
        return 0 if found is None else ARCHITECTURES[found[0]].values

    assert size(10**8, 4) == 0
    assert 0 < size(24 * 10**9, 4) < size(80 * 10**9, 4)
    assert size(80 * 10**9, 4) < size(80 * 10**9, 2)
    assert size(24 * 10**9, 4, adapters=16) >= size(24 * 10**9, 4)
    for itemsize in (2, 4):
        found = largest_model(exact_need, 24 * 10**9, Setting(), itemsize)
        assert found is not None
        assert ARCHITECTURES[found[0]].values * itemsize < found[1] <= 24 * 10**9
