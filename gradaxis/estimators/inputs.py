"""What operators read: each name of a declaration's `reads`, found in the batch and the quantities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError, MissingInputError
from gradaxis.estimators.levels import get_turns
from gradaxis.estimators.local_scope import number_micro_batches
from gradaxis.estimators.operators import find_operator
from gradaxis.estimators.quantities import QUANTITIES, at_least_float32
from gradaxis.estimators.rollouts.batch import TOKEN_COLUMNS, RolloutBatch
from gradaxis.taxonomy import Placed

_POLICY_PARAMETER = {"anchor_logp": "anchor", "target_logp": "to", "teacher_logp": "teacher"}
"""Reads whose column is named by a parameter: `target_logp` with `to: ref` is the column `ref_logp`."""


@dataclass(frozen=True)
class Inputs:
    """A batch in the dtype of the quantities, and the quantities, zero off the mask.

    What stands at padding and at observation tokens is replaced by zero before any operator sees it, so that not even
    a NaN there can reach a result.
    """

    batch: RolloutBatch
    quantities: Mapping[str, Tensor]

    @property
    def mask(self) -> Tensor:
        return self.batch.mask

    def detach(self) -> Inputs:
        """The same without gradients: what the reward side sees."""
        return Inputs(self.batch, {name: value.detach() for name, value in self.quantities.items()})

    def column(self, name: str) -> Tensor:
        """A token column [N, T], zero off the mask."""
        return torch.where(self.mask, self.batch.column(name), 0.0)

    def read(self, name: str, placed: Placed) -> Any:
        """The argument that an operator declares as `name`."""
        if name in QUANTITIES:
            return self.quantities[name]
        if name in _POLICY_PARAMETER:
            return self.column(f"{placed.parameters[_POLICY_PARAMETER[name]]}_logp")
        match name:
            case "mask":
                return self.mask
            case "length":
                return self.batch.length
            case "logp_at_sampling":
                return self.column("old_logp")
            case "turn_reward":
                return get_turns(self.batch).reward
            case "greedy_reward":
                return greedy_reward(self.batch)
            case "max_length":
                return self.batch.provenance.get("max_new_tokens")
            case "micro_batch":
                return number_micro_batches(self.batch)
        if name in TOKEN_COLUMNS or name.endswith("_logp"):
            return self.column(name)
        raise InputError(f"{placed.operator}.reads", repr(name), "a quantity that estimators know how to supply")


def prepare(batch: RolloutBatch, quantities: Mapping[str, Tensor], names: Iterable[str]) -> Inputs:
    """Check the quantities [N, T] against the batch and put both in one dtype, at least float32.

    Raises InputError when a quantity is not given, or has another shape or device than the batch.
    """
    chosen: dict[str, Tensor] = {}
    for name in names:
        if name not in quantities:
            raise InputError("quantities", ", ".join(quantities) or "none", f"{name!r} among them")
        value = quantities[name]
        if value.shape != batch.tokens.shape:
            raise InputError(f"quantities[{name!r}]", f"shape {tuple(value.shape)}", f"{tuple(batch.tokens.shape)}")
        if value.device != batch.device:
            raise InputError(f"quantities[{name!r}]", f"device {value.device}", f"{batch.device}, as the rollouts",
                             "move the rollouts with batch.to(device)")  # fmt: skip
        chosen[name] = torch.where(batch.mask, at_least_float32(value), 0.0)
    return Inputs(batch.to(dtype=chosen["logp"].dtype), chosen)


def apply(placed: Placed, inputs: Inputs, flowing: Mapping[str, Any]) -> Any:
    """Call the function of a placed operator; `flowing` holds what is computed on the way, the rest is read."""
    function = find_operator(placed.operator)
    arguments = [flowing[name] if name in flowing else inputs.read(name, placed) for name in placed.declaration.reads]
    return function(*arguments, **placed.parameters)


def greedy_reward(batch: RolloutBatch) -> Tensor:
    """The outcome reward of the greedy answer to each sample's prompt, [N]; the mean where there are several."""
    greedy = batch.companion("greedy")
    same = (batch.prompt.unsqueeze(1) == greedy.prompt.unsqueeze(0)).to(greedy.rewards.dtype)
    return (same * greedy.reward).sum(dim=1) / same.sum(dim=1).clamp(min=1)


def prompts_without_greedy(batch: RolloutBatch) -> list[int]:
    """Numbers of the prompts that the greedy companion does not answer."""
    answered = set(batch.companion("greedy").prompt.tolist())
    return sorted(set(batch.prompt.tolist()) - answered)


def need_column(batch: RolloutBatch, name: str, given: Iterable[str]) -> MissingInputError | None:
    """The error for a need that the batch does not meet, or None. Needs: a column, `turns`, `companion:<role>`."""
    if name in given:
        return None
    if name == "turns":
        reason = batch.missing.get("turns", "")
        return None if batch.turns is not None else MissingInputError(
            "turns", "store the spans of the policy's turns with their step rewards and states", reason)  # fmt: skip
    try:
        if name.startswith("companion:"):
            batch.companion(name.removeprefix("companion:"))
        else:
            batch.column(name)
    except MissingInputError as error:
        return error
    if name == "companion:greedy" and not batch.tokens.is_meta and (lacking := prompts_without_greedy(batch)):
        which = ", ".join(map(str, lacking[:5])) + (" …" if len(lacking) > 5 else "")
        return MissingInputError(name, "sample one greedy answer a prompt", f"no greedy answer to prompt {which}")
    return None
