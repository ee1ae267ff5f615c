"""One fixed batch on which every entry is rehearsed, compared and fingerprinted.

It has what makes estimators differ: stale samples, ragged and truncated responses with observation tokens inside,
uneven groups, graded rewards, silent groups of both kinds, a teacher, a critic, turns whose states recur, greedy
answers, and micro-batches that cut through groups. Its numbers come from a low-discrepancy sequence, so that they are
the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradaxis.estimators.local_scope import MICRO_BATCH
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch, Turns

_WIDTH = 9
_GOLDEN = 0.6180339887498949
_REWARDS = (
    (1.0, 0.0, 0.1, 0.0),
    (1.0, 1.0, 1.0),
    (0.0, 0.0, 0.0, 0.0),
    (0.1, 1.0, 1.0, 0.0, 1.0),
    (0.0, 1.0),
    (0.1, 0.1, 0.0),
)
"""Outcome rewards of each prompt's group; the second and third groups are silent."""

_GREEDY_REWARDS = (0.1, 1.0, 0.0, 1.0, 0.0, 0.1)

_RESPONSES = (
    "ppop", "ppoopop", "p", "ppooppop",
    "ppp", "poppp", "pp",
    "pppopp", "ppppoopp", "pppp", "p",
    "ppppp", "pp", "ppooopp", "ppp", "pppppopp",
    "pppopp", "pppp",
    "pppppp", "ppopp", "pppoppp",
)  # fmt: skip
"""Each sequence's tokens: p is written by the policy, o is observed. Every run of p is a turn."""


def contract_batch(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> RolloutBatch:
    """The contract batch: P = 6 prompts, N = 21 sequences, T = 9 positions, every column, and `companions["greedy"]`.

    Args:
        device: where its tensors are; on `meta` they have shapes only.
        dtype: of rewards and token columns.
    """
    rewards = [reward for group in _REWARDS for reward in group]
    prompt = [number for number, group in enumerate(_REWARDS) for _ in group]
    batch = _fill(prompt, rewards, _RESPONSES)
    greedy = _fill(range(len(_REWARDS)), _GREEDY_REWARDS, ["ppp"] * len(_REWARDS))
    labels = {MICRO_BATCH: tuple(str(row // 4) for row in range(batch.size))}
    batch = replace(batch, turns=_find_turns(batch), companions={"greedy": greedy}, labels=labels)
    shape = batch.tokens.shape
    logp = -0.1 - 2.4 * _spread_numbers(shape, 1)
    away = {"old": 0.9, "behavior": 1.0, "ref": 1.2, "teacher": 1.6}
    columns = {
        f"{name}_logp": (logp + width * (_spread_numbers(shape, seed) - 0.5)).clamp(max=-0.01)
        for seed, (name, width) in enumerate(away.items(), start=2)
    }
    columns |= {"logp": logp, "value": 0.8 * _spread_numbers(shape, 7), "entropy": 0.2 + _spread_numbers(shape, 8)}
    return batch.with_columns(columns).to(device=device, dtype=dtype)


def _fill(prompt: Sequence[int], rewards: Sequence[float], responses: Sequence[str]) -> RolloutBatch:
    """A batch in float64 on the CPU without columns."""
    size = len(responses)
    written = torch.tensor([[kind == "p" for kind in text.ljust(_WIDTH)] for text in responses])
    present = torch.tensor([[kind != " " for kind in text.ljust(_WIDTH)] for text in responses])
    tokens = torch.arange(size * _WIDTH).reshape(size, _WIDTH) % 11 + 1
    return RolloutBatch(
        prompts=tuple(Prompt(f"prompt {number}", (1, 2 + number)) for number in range(len(_REWARDS))),
        prompt=torch.tensor(list(prompt)),
        group=torch.tensor(list(prompt)),
        trajectory=torch.arange(size),
        rewards=torch.tensor(list(rewards), dtype=torch.float64).unsqueeze(1),
        reward_names=("task",),
        truncated=present.sum(dim=1) == 8,
        policy_version=torch.zeros(size, dtype=torch.int64),
        tokens=torch.where(present, tokens, 0),
        mask=written,
        response=present,
        completions=tuple(f"answer {number}" for number in range(size)),
        provenance={"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 12, "law": "iid"},
    )


def _find_turns(batch: RolloutBatch) -> Turns:
    """Every run of policy tokens is a turn. First turns share their group's state; later ones share it by parity."""
    rows, starts, ends, anchors = [], [], [], []
    for row, flags in enumerate(batch.mask.tolist()):
        edges = [False, *flags, False]
        begun = [t for t in range(_WIDTH) if edges[t + 1] and not edges[t]]
        done = [t + 1 for t in range(_WIDTH) if edges[t + 1] and not edges[t + 2]]
        for turn, (start, end) in enumerate(zip(begun, done, strict=True)):
            rows, starts, ends = [*rows, row], [*starts, start], [*ends, end]
            anchors.append(0 if turn == 0 else 1 + row % 2)
    sequence = torch.tensor(rows)
    last = torch.cat([sequence[1:] != sequence[:-1], torch.tensor([True])])
    reward = 0.2 * _spread_numbers(sequence.shape, 9) + torch.where(last, batch.reward[sequence], 0.0)
    return Turns(sequence, torch.tensor(starts), torch.tensor(ends), reward, torch.tensor(anchors))


def _spread_numbers(shape: torch.Size, seed: int) -> Tensor:
    """Numbers spread evenly over [0, 1), float64: multiples of the golden ratio, another multiple for each seed."""
    step = (seed * 0.7548776662466927 + _GOLDEN) % 1
    return ((torch.arange(shape.numel(), dtype=torch.float64) + seed) * step % 1).reshape(shape)
