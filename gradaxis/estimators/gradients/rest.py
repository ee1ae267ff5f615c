"""Gradients of the parameters that no hook covers: one forward pass a sequence, one backward pass a pattern."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from gradaxis.estimators.gradients.sinks import Sink, as_matrix
from gradaxis.estimators.policies.forward import sequence_quantities
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.policies.inputs import ModelInputs
from gradaxis.estimators.quantities import at_least_float32

VALUES_AT_ONCE = 2**27
"""Gradient values kept at a time, over all rows."""


def row_gradients(
    policy: HuggingFacePolicy,
    inputs: ModelInputs,
    sequence: Tensor,
    coefficients: Mapping[str, Tensor],
    names: Sequence[str],
) -> Iterator[dict[str, Tensor]]:
    """∇ Σ_{t,c} C[r, t, c] q_c[r, t] by plain autograd, row by row: name to gradient.

    Args:
        policy: the model.
        inputs: of N sequences.
        sequence: which of them each row is of, int64 [R]; rows of one sequence stand together.
        coefficients: quantity to [R, T].
        names: of selected parameters.
    """
    chosen = [policy.parameters()[name] for name in names]
    rows = sequence.tolist()
    for place, index in enumerate(rows):
        if place == 0 or index != rows[place - 1]:
            piece = inputs.rows(sequence[place : place + 1])
            with torch.enable_grad():
                values = sequence_quantities(policy.model, piece, tuple(coefficients))
        chosen_row = {name: value[place, : piece.mask.shape[1]] for name, value in coefficients.items()}
        weighted = [(value * chosen_row[name].to(value)).sum() for name, value in values.items()]
        last = place + 1 == len(rows) or rows[place + 1] != index
        found = torch.autograd.grad(
            torch.stack(weighted).sum(), chosen, retain_graph=not last, materialize_grads=True
        )  # fmt: skip
        yield dict(zip(names, found, strict=True))


def add_rest(
    policy: HuggingFacePolicy,
    inputs: ModelInputs,
    sequence: Tensor,
    coefficients: Mapping[str, Tensor],
    names: Sequence[str],
    sink: Sink,
) -> None:
    """Adds the gradients of `names` to the sink, a few parameters at a time. Arguments as for `row_gradients`."""
    for group in parameter_groups(policy, names, len(sequence)):
        gathered: dict[str, list[Tensor]] = {name: [] for name in group}
        for gradients in row_gradients(policy, inputs, sequence, coefficients, group):
            for name, value in gradients.items():
                gathered[name].append(at_least_float32(as_matrix(value)))
        for name in group:
            block = torch.stack(gathered.pop(name))
            sink.add(name, slice(0, block.shape[1]), block)


def parameter_groups(
    policy: HuggingFacePolicy, names: Sequence[str], rows: int, values_at_once: int | None = None
) -> Iterator[list[str]]:
    """The names in groups whose gradients for so many rows are no more than so many values, one name at least."""
    group: list[str] = []
    size = 0
    for name in names:
        values = rows * policy.parameters()[name].numel()
        if group and size + values > (values_at_once or VALUES_AT_ONCE):
            yield group
            group, size = [], 0
        group.append(name)
        size += values
    if group:
        yield group
