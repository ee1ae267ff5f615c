"""Tiny models of several architectures, ragged batches, and gradients by plain autograd, one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from gradaxis.estimators.policies import HuggingFacePolicy
from gradaxis.estimators.rollouts import Prompt, RolloutBatch

VOCABULARY = 23
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
ARCHITECTURES: Mapping[str, tuple[str, dict[str, Any]]] = {
    # Llama with biases in attention; `pad_token_id` gives its embedding a padding_idx, and id 0 stands in the prompts
    "llama": ("Llama", {**COMMON, "attention_bias": True}),
    "qwen2-tied": ("Qwen2", {**COMMON, "tie_word_embeddings": True}),
    "gpt2": (  # Conv1D, LayerNorm, biases, learned positions, tied head
        "GPT2",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 32,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gemma2": ("Gemma2", {**COMMON, "head_dim": 8}),  # capped logits, scaled embedding, 1 + weight in the norms
    "qwen3": ("Qwen3", {**COMMON, "head_dim": 8}),  # a norm a head
    # learned nothing but weights: a sliding window of three positions, so that the attention mask is not the plain one
    "mistral": ("Mistral", {**COMMON, "sliding_window": 3}),
    "gpt-neox": (  # one matrix for queries, keys and values, LayerNorm, parallel residuals, rotary part
        "GPTNeoX",
        {
            **{name: value for name, value in COMMON.items() if name != "num_key_value_heads"},
            "rotary_pct": 0.5,
            "use_parallel_residual": True,
        },
    ),
    "phi": ("Phi", {**COMMON, "num_key_value_heads": 4}),  # a bias in the head
    "qwen2-moe": (  # experts see tokens of all sequences mixed
        "Qwen2Moe",
        {
            **COMMON,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "experts_implementation": "eager",
        },
    ),
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device"))])  # fmt: skip
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tiny_policy() -> Callable[..., HuggingFacePolicy]:
    """A maker of random policies by architecture; the weights are large enough for every path to matter."""

    def make(
        architecture: str,
        device: str = "cpu",
        dtype: torch.dtype = torch.float64,
        params: str = "all",
        tied: bool | None = None,
    ) -> HuggingFacePolicy:
        family, options = ARCHITECTURES[architecture]
        config = getattr(transformers, f"{family}Config")(**options)
        if tied is not None:
            config.tie_word_embeddings = tied
        model = transformers.AutoModelForCausalLM.from_config(config)
        generator = torch.Generator().manual_seed(len(architecture))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return HuggingFacePolicy(model.to(device, dtype), params=params)

    return make


@pytest.fixture
def tiny_batch() -> Callable[..., RolloutBatch]:
    """A maker of six ragged responses to three prompts of different lengths; one response holds an observation."""

    def make(seed: int = 0, device: str = "cpu", temperature: float = 0.7, size: int = 6) -> RolloutBatch:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randint(0, VOCABULARY, shape, generator=generator)

        prompts = tuple(Prompt(f"prompt {n}", (0, *draw(n).tolist())) for n in (2, 4, 1))
        lengths = torch.randint(1, 6, (size,), generator=generator)
        lengths[0] = 5
        response = torch.arange(5) < lengths[:, None]
        mask = response.clone()
        mask[0, 1:3] = False
        batch = RolloutBatch(
            prompts=prompts, prompt=torch.arange(size) % 3, group=torch.arange(size) % 3,
            trajectory=torch.arange(size), rewards=torch.rand(size, 1, generator=generator), reward_names=("task",),
            truncated=torch.zeros(size, dtype=torch.bool), policy_version=torch.zeros(size, dtype=torch.int64),
            tokens=draw(size, 5), mask=mask, response=response, completions=("text",) * size,
            provenance={"temperature": temperature},
        )  # fmt: skip
        return batch.to(device)

    return make


@pytest.fixture
def random_total() -> Callable[..., dict[str, Tensor]]:
    """A maker of random coefficients on the policy's tokens, for log-probability and entropy."""

    def make(batch: RolloutBatch, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(2, *batch.tokens.shape, generator=generator, dtype=torch.float64).to(batch.device)
        return {"logp": values[0] * batch.mask, "entropy": values[1] * batch.mask}

    return make


def naive_quantities(policy: HuggingFacePolicy, batch: RolloutBatch, row: int) -> dict[str, Tensor]:
    """Log-probability and entropy of one response, from one unpadded row and the logits of every position."""
    length = int(batch.response[row].sum())
    prompt = batch.prompts[int(batch.prompt[row])].tokens
    tokens = batch.tokens[row, :length].tolist()
    ids = torch.tensor([[*prompt, *tokens]], device=policy.device)
    logits = policy.model(input_ids=ids, use_cache=False).logits[0] / batch.provenance["temperature"]
    law = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    logp = torch.stack([law[t, token] for t, token in enumerate(tokens)])
    return {"logp": logp, "entropy": -(law.exp() * law).sum(dim=-1)}


@pytest.fixture
def naive() -> Callable[..., dict[str, Tensor]]:
    return naive_quantities


@pytest.fixture
def looped_gradients() -> Callable[..., Tensor]:
    """∇ Σ C q for every row of coefficients [R, C, T], over all selected parameters, as a matrix [R, values]."""

    def loop(
        policy: HuggingFacePolicy, batch: RolloutBatch, sequence: list[int], rows: Tensor, names: tuple[str, ...]
    ) -> Tensor:
        found = []
        for row, coefficients in zip(sequence, rows, strict=True):
            values = naive_quantities(policy, batch, row)
            length = len(values["logp"])
            total = sum(
                (values[name] * coefficients[c, :length].to(values[name])).sum() for c, name in enumerate(names)
            )
            gradients = torch.autograd.grad(total, list(policy.parameters().values()), materialize_grads=True)  # type: ignore[arg-type]
            found.append(torch.cat([gradient.flatten().double() for gradient in gradients]))
        return torch.stack(found)

    return loop
