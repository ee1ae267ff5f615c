"""Listening to a model's backward pass, and running its layers again instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def tap(output: Tensor, value: Tensor, receive: Callable[[Tensor, Tensor], None]) -> Tensor:
    """`output` itself; in the backward pass `receive` gets `value` and the cotangent of the output.

    The value is saved for the backward pass like any other tensor, so that recomputed layers do not hold it.
    """
    tapped = _Tap.apply(output, value.detach(), receive)
    assert isinstance(tapped, Tensor)
    return tapped


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, value: Tensor, receive: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(value)
        ctx.receive = receive
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        ctx.receive(ctx.saved_tensors[0], cotangents[0])
        return cotangents[0], None, None


def repeated_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The layers that transformers lets one recompute, outermost only."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inside:
            layers.append(module)
            inside.update(id(inner) for inner in module.modules())
    return tuple(layers)


@contextmanager
def recomputed(layer: nn.Module) -> Iterator[None]:
    """Inside, the layer keeps its input only, and runs again in the backward pass. Random state is not repeated."""
    own = layer.__dict__.get("forward")
    layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter requires a gradient, so that autograd builds none beside what is tapped."""
    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)
