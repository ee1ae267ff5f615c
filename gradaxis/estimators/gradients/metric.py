"""Inner products in another metric than the plain one: ⟨u, v⟩ = Σ w u v, with a weight for every parameter value.

Every gradient value, and every direction, is multiplied by √w as it comes in; all products after that are in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.gradients.sinks import Sink, as_matrix
from gradaxis.estimators.quantities import at_least_float32

Roots = Mapping[str, Tensor]
"""√w by parameter, each in the parameter's shape and on its device."""


class WeightedSink:
    """Hands blocks on to another sink, multiplied by √w."""

    def __init__(self, sink: Sink, roots: Roots) -> None:
        self._sink, self._roots = sink, roots

    def add(self, name: str, rows: slice | Tensor, block: Tensor) -> None:
        self._sink.add(name, rows, block * as_matrix(self._roots[name])[rows].to(block))


def in_metric(sink: Sink, roots: Roots | None) -> Sink:
    """The sink itself, or one before it that weighs what comes in."""
    return sink if roots is None else WeightedSink(sink, roots)


def weigh(vector: Mapping[str, Tensor], roots: Roots | None) -> dict[str, Tensor]:
    """A vector in parameter space, multiplied by √w."""
    if roots is None:
        return dict(vector)
    return {name: value * roots[name].to(value) if name in roots else value for name, value in vector.items()}


def square_roots(metric: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """√w of the parameters that count, in float32 or better.

    Args:
        metric: weights by parameter, in its shape; others may stand there.
        parameters: those that count.

    Raises:
        InputError: a parameter without weights, weights of another shape, or weights that are not finite and positive.
    """
    found = {}
    for name, parameter in parameters.items():
        if name not in metric or metric[name].shape != parameter.shape:
            got = f"shape {tuple(metric[name].shape)}" if name in metric else "nothing"
            raise InputError("metric", f"{got} for {name}", f"a tensor of shape {tuple(parameter.shape)}")
        weight = at_least_float32(metric[name].detach())
        if not bool((torch.isfinite(weight) & (weight > 0)).all()):
            raise InputError("metric", f"a weight of {name} that is not finite and positive", "positive numbers")
        found[name] = weight.sqrt().to(parameter.device)
    return found
