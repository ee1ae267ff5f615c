"""The rollout batch: what every estimator, probe and report reads.

Letters: P prompts, N sequences, T response positions, K rewards, S turns. What is missing is missing, with a reason,
and never filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError, MissingInputError

TOKEN_COLUMNS: Mapping[str, str] = {
    "logp": "score the rollouts with the policy (--model)",
    "old_logp": "score the rollouts with the policy at the start of the update (--model, or --behavior)",
    "behavior_logp": "store the log-probabilities of the engine that sampled",
    "ref_logp": "give the reference policy (--reference)",
    "teacher_logp": "give the teacher policy (--teacher)",
    "value": "give a critic (--critic)",
    "entropy": "score the rollouts with the policy (--model)",
}
"""Optional token columns [N, T], each with the remedy for its absence. A teacher named `x` has the column `x_logp`."""

COMPANION_REMEDIES: Mapping[str, str] = {
    "greedy": "sample one greedy answer a prompt (the sampler does so when a chosen method needs it)",
}


@dataclass(frozen=True)
class Prompt:
    """One prompt. `data` is what the task needs to score an answer again."""

    text: str
    tokens: tuple[int, ...]
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turns:
    """Ragged spans of policy text, one row a turn, in order within a sequence. All tensors have shape [S].

    `sequence` is the row of the batch; `start` and `end` are response positions, end exclusive; `reward` is the
    environment's step reward; `anchor` numbers the state in which the turn begins, so that equal numbers within a
    group are equal states (GiGPO, arXiv 2505.10978).
    """

    sequence: Tensor
    start: Tensor
    end: Tensor
    reward: Tensor
    anchor: Tensor


@dataclass(frozen=True)
class RolloutBatch:
    """Sampled responses with their rewards and log-probabilities.

    Shapes: `prompt`, `group`, `trajectory`, `truncated`, `policy_version` [N]; `rewards` [N, K]; `tokens`, `mask` and
    every tensor of `columns` [N, T], right-padded. `mask` is true where the policy wrote the token; observation tokens
    inside a response are false there and true in `response`. Log-probabilities are in nats. `columns` values off the
    mask are ignored. `missing` says why a column is absent. `provenance` holds the sampling settings
    (`temperature`, `top_k`, `top_p`, `max_new_tokens`, `law`) and the identity of the models.
    """

    prompts: tuple[Prompt, ...]
    prompt: Tensor
    group: Tensor
    trajectory: Tensor
    rewards: Tensor
    reward_names: tuple[str, ...]
    truncated: Tensor
    policy_version: Tensor
    tokens: Tensor
    mask: Tensor
    response: Tensor
    completions: tuple[str, ...]
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    turns: Turns | None = None
    companions: Mapping[str, RolloutBatch] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """N, the number of sequences."""
        return self.tokens.shape[0]

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @property
    def length(self) -> Tensor:
        """Policy tokens a sequence, int64 [N]."""
        return self.mask.sum(dim=1)

    @property
    def reward(self) -> Tensor:
        """The outcome reward [N]: the sum of the reward vector."""
        return self.rewards.sum(dim=1)

    def column(self, name: str) -> Tensor:
        """A token column [N, T]. Raises MissingInputError with the remedy when the batch lacks it."""
        if name in self.columns:
            return self.columns[name]
        remedy = TOKEN_COLUMNS.get(name, f"add the column {name!r} to the rollouts")
        raise MissingInputError(name, remedy, self.missing.get(name, ""))

    def companion(self, role: str) -> RolloutBatch:
        """A companion batch such as `greedy`. Raises MissingInputError when the batch lacks it."""
        if role in self.companions:
            return self.companions[role]
        remedy = COMPANION_REMEDIES.get(role, f"add {role!r} rows to the rollouts")
        raise MissingInputError(f"companion:{role}", remedy, self.missing.get(f"companion:{role}", ""))

    def with_columns(self, columns: Mapping[str, Tensor]) -> RolloutBatch:
        """The same batch with token columns [N, T] added or replaced. Raises InputError on another shape."""
        for name, value in columns.items():
            if value.shape != self.tokens.shape:
                raise InputError(f"column {name!r}", f"shape {tuple(value.shape)}", f"{tuple(self.tokens.shape)}")
        return replace(self, columns={**self.columns, **columns})

    def rows(self, index: Tensor | Sequence[int]) -> RolloutBatch:
        """The sequences of `index` (int64, any order, repeats allowed), with their turns and with all companions."""
        index = torch.as_tensor(index, dtype=torch.int64, device=self.device)
        turns = None if self.turns is None else _take_turns(self.turns, index, self.size)
        chosen = index.tolist()
        return replace(
            self, prompt=self.prompt[index], group=self.group[index], trajectory=self.trajectory[index],
            rewards=self.rewards[index], truncated=self.truncated[index], policy_version=self.policy_version[index],
            tokens=self.tokens[index], mask=self.mask[index], response=self.response[index],
            completions=tuple(self.completions[i] for i in chosen),
            columns={name: value[index] for name, value in self.columns.items()}, turns=turns,
            labels={name: tuple(value[i] for i in chosen) for name, value in self.labels.items()},
        )  # fmt: skip

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RolloutBatch:
        """The batch on another device, its floating-point tensors in another dtype."""

        def move(value: Tensor) -> Tensor:
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        turns = self.turns
        if turns is not None:
            turns = Turns(*(move(t) for t in (turns.sequence, turns.start, turns.end, turns.reward, turns.anchor)))
        return replace(
            self, prompt=move(self.prompt), group=move(self.group), trajectory=move(self.trajectory),
            rewards=move(self.rewards), truncated=move(self.truncated), policy_version=move(self.policy_version),
            tokens=move(self.tokens), mask=move(self.mask), response=move(self.response),
            columns={name: move(value) for name, value in self.columns.items()}, turns=turns,
            companions={role: batch.to(device, dtype) for role, batch in self.companions.items()},
        )  # fmt: skip


def _take_turns(turns: Turns, index: Tensor, size: int) -> Turns:
    """The turns of the sequences of `index`, in its order; a sequence that stands there twice has its turns twice."""
    order = turns.sequence.argsort(stable=True)
    counts = torch.bincount(turns.sequence, minlength=size)
    first = counts.cumsum(0) - counts
    taken = counts[index]
    sequence = torch.arange(len(index), device=index.device).repeat_interleave(taken)
    within = torch.arange(len(sequence), device=index.device) - (taken.cumsum(0) - taken)[sequence]
    source = order[first[index][sequence] + within]
    return Turns(sequence, turns.start[source], turns.end[source], turns.reward[source], turns.anchor[source])
