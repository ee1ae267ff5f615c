"""One forward pass whose head sees only the positions that predict a response token.

Letters: N sequences, L positions of prompt and response together, T response positions, V vocabulary, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradaxis.errors import InputError, NotYetError
from gradaxis.estimators.policies.inputs import ModelInputs
from gradaxis.estimators.quantities import token_quantities


def output_head(model: Any) -> nn.Module:
    """The module that turns hidden states into logits. Raises InputError when the model has none."""
    head = model.get_output_embeddings()
    if head is None:
        raise InputError("model", f"{type(model).__name__}, which has no output head", "a causal language model")
    return head


def run_model(model: Any, inputs: ModelInputs) -> Tensor:
    """Logits at whatever positions the head is given. The cache is off; positions are explicit where accepted."""
    arguments: dict[str, Any] = {"input_ids": inputs.ids, "attention_mask": inputs.attention, "use_cache": False}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = inputs.positions
    return model(**arguments).logits


def response_logits(model: Any, inputs: ModelInputs) -> Tensor:
    """Logits [N, T, V] that predict each response token; those of no token are of position 0."""
    with intercepted_head(model, inputs, lambda hidden: hidden):
        return run_model(model, inputs)


def sequence_quantities(model: Any, inputs: ModelInputs, names: Sequence[str]) -> dict[str, Tensor]:
    """Quantities in nats of every policy token, [N, T] each, zero off the mask; differentiable where autograd is on."""
    found = token_quantities(response_logits(model, inputs), inputs.tokens, names, inputs.temperature)
    return {name: torch.where(inputs.mask, value, 0.0) for name, value in found.items()}


@contextmanager
def intercepted_head(model: Any, inputs: ModelInputs, take: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the head gets `take(hidden [N, T, H])` in place of the hidden states [N, L, H] of every position.

    Raises:
        NotYetError: the head is not given one hidden state a position.
    """

    def gather(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = arguments[0]
        if hidden.shape[:2] != inputs.ids.shape:
            raise NotYetError(f"a head that is given hidden states of shape {tuple(hidden.shape)}")
        index = inputs.predictor[..., None].expand(-1, -1, hidden.shape[-1])
        return (take(hidden.gather(1, index)), *arguments[1:])

    handle = output_head(model).register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
