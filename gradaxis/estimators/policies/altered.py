"""Policies made from a policy: with noise on its weights, in another precision, or with quantised weights.

They stand for what samples in practice when it is not quite the policy: an older version of it, or an engine that
holds the same weights in other numbers. Each is a copy; the one given stays as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gradaxis.errors import InputError
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"
ENGINES = (*PRECISIONS, INT8)
"""Names of sampling engines that differ from the policy in their numbers alone."""

LARGEST = 127
"""The largest integer of a symmetric int8 grid; −128 is left out, so that the grid has a middle."""


def perturbed_policy(policy: HuggingFacePolicy, size: float, generator: torch.Generator) -> HuggingFacePolicy:
    """A copy with W + size · rms(W) · ε, ε standard normal, for every parameter W, biases and norms included.

    With one seed, copies of different sizes lie on one line through the policy, so that drift grows with the size. The
    direction is random: it stands for no training run.

    Args:
        policy: whose weights are perturbed. size: of the noise relative to each parameter's root mean square.
        generator: on the CPU.
    """
    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * (size * parameter.square().mean().sqrt()))
    return _renamed(policy, model, f"noise {size:g}")


def engine_policy(policy: HuggingFacePolicy, engine: str) -> HuggingFacePolicy:
    """A copy that holds the policy's weights as a sampling engine would.

    `bfloat16` and `float16` compute in that precision throughout; buffers, such as the frequencies of rotary positions,
    stay as they are. `int8` rounds the weights of linear layers to a grid of their own for every output channel
    (`quantize_channels`) and computes in the policy's precision; embeddings and the output head are not rounded.

    Raises InputError for another engine.
    """
    if engine not in ENGINES:
        raise InputError("engine", repr(engine), f"one of {', '.join(ENGINES)}")
    model: Any = copy.deepcopy(policy.model)
    with torch.no_grad():
        if engine == INT8:
            head = model.get_output_embeddings()
            for module in model.modules():
                channels = _output_channels(module)
                if channels is not None and module is not head:
                    module.weight.copy_(dequantize_channels(*quantize_channels(module.weight, channels), channels))
        else:
            for parameter in model.parameters():
                parameter.data = parameter.data.to(PRECISIONS[engine])
    return _renamed(policy, model, engine)


def quantize_channels(weight: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Round to nearest on a symmetric grid of 255 integers for every channel.

        q = round(W / Δ),   Δ = max |W| / 127 over the channel

    Args:
        weight: [channels, inputs], or the other way round. dim: which dimension numbers the channels.

    Returns the integers, int8 of the weight's shape, and Δ [channels] in the weight's type; Δ = 0 where a channel is
    zero.

    >>> integers, step = quantize_channels(torch.tensor([[1.27, -0.634, 0.0]]))
    >>> integers.tolist(), round(float(step), 4)
    ([[127, -63, 0]], 0.01)
    """
    step = weight.abs().amax(dim=1 - dim, keepdim=True) / LARGEST
    integers = torch.where(step > 0, weight / step, 0.0).round().clamp(-LARGEST, LARGEST)
    return integers.to(torch.int8), step.squeeze(1 - dim)


def dequantize_channels(integers: Tensor, step: Tensor, dim: int = 0) -> Tensor:
    """The weight that integers and steps stand for: q · Δ, in the type of Δ."""
    return integers.to(step.dtype) * step.unsqueeze(1 - dim)


def _output_channels(module: nn.Module) -> int | None:
    """The dimension of a linear layer's weight that numbers its outputs; None for any other module."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return 0
    return 1 if isinstance(module, Conv1D) else None


def _renamed(policy: HuggingFacePolicy, model: Any, change: str) -> HuggingFacePolicy:
    return HuggingFacePolicy(model, policy.tokenizer, policy.params, f"{policy.name} with {change}", policy.memory)
