"""The instrumented gradient: coefficients go backward through the policy.

∇L = Σ_{i,t,c} C[i,t,c] ∇q_c[i,t] (N sequences, T response positions, C quantities): the coefficients are all that the
model needs to know of a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.memory import backward_bytes, rows_that_fit
from gradaxis.estimators.policies.hugging_face import LOGITS_AT_ONCE, HuggingFacePolicy
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.micro_batches import in_micro_batches

ROWS_AT_ONCE = 16


class Policy(Protocol):
    """What is asked of a policy here; `HuggingFacePolicy` has it. `vocabulary` is V, the size of a token's law."""

    @property
    def vocabulary(self) -> int: ...

    def parameters(self) -> Mapping[str, Tensor]: ...

    def quantities(
        self, batch: RolloutBatch, names: Sequence[str], grad: bool = False, micro_batch: int | None = None
    ) -> dict[str, Tensor]: ...


def gradient_of(
    policy: Policy, batch: RolloutBatch, total: Mapping[str, Tensor], micro_batch: int | None = None
) -> dict[str, Tensor]:
    """∇L by name of the policy's selected parameters, in their shape.

    Args:
        policy: at whose parameters the gradient is taken; their `.grad` is left alone.
        batch: the responses.
        total: quantity to coefficients [N, T] (`Coefficients.total`); they are constants.
        micro_batch: sequences a backward pass; fewer where the policy's limit of memory asks for it, and halved when
            memory runs out.

    Raises:
        InputError: the batch does not fit the policy, coefficients of another shape, or memory that was limited to less
            than one sequence needs.
    """
    for name, value in total.items():
        if value.shape != batch.tokens.shape:
            raise InputError(f"total[{name!r}]", f"shape {tuple(value.shape)}", f"{tuple(batch.tokens.shape)}")
    parameters = policy.parameters()
    size = micro_batch or min(ROWS_AT_ONCE, max(1, LOGITS_AT_ONCE // (policy.vocabulary * batch.tokens.shape[1])))
    if isinstance(policy, HuggingFacePolicy) and policy.memory is not None:
        positions = policy.inputs(batch).ids.shape[1]
        itemsize = policy.dtype.itemsize
        one = backward_bytes(policy.model.config, positions, batch.tokens.shape[1], policy.vocabulary, itemsize)
        kept = 2 * itemsize * sum(value.numel() for value in parameters.values())  # this gradient, and one piece of it
        size = rows_that_fit(one, policy.memory_left() - kept, size, policy.memory, "the gradient of one sequence")

    def run(rows: Sequence[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(list(rows), device=batch.device)
        live = policy.quantities(batch.rows(index), tuple(total), grad=True)
        parts = [(value * total[name][index].detach().to(value)).sum() for name, value in live.items()]
        return torch.autograd.grad(torch.stack(parts).sum(), list(parameters.values()), materialize_grads=True)

    gradient = {name: torch.zeros_like(value, requires_grad=False) for name, value in parameters.items()}
    for _, pieces in in_micro_batches(run, range(batch.size), size):
        for accumulated, piece in zip(gradient.values(), pieces, strict=True):
            accumulated += piece
    return gradient
