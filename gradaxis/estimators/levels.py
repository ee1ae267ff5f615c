"""The levels at which the reward side computes: a number a sample [N], a policy token [N, T] or a turn [S]."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradaxis.errors import NotYetError
from gradaxis.estimators.layout import copy_to_tokens
from gradaxis.estimators.peers import number_peers
from gradaxis.estimators.rollouts.batch import RolloutBatch, Turns

Level = Literal["sample", "token", "turn"]


def get_turns(batch: RolloutBatch) -> Turns:
    """The batch's turns; a batch without any is an internal slip here, since `missing` reports it first."""
    assert batch.turns is not None
    return batch.turns


def spread(per_sample: Tensor, level: Level, batch: RolloutBatch) -> Tensor:
    """A number a sample, [N], at each entry of a level."""
    if level == "sample":
        return per_sample
    if level == "token":
        return per_sample.unsqueeze(1).expand(batch.mask.shape)
    return per_sample[get_turns(batch).sequence]


def count_entries(kept: Tensor, level: Level, batch: RolloutBatch) -> Tensor:
    """Which entries of a level statistics count, given which samples they count, [N]: policy tokens only."""
    entries = spread(kept, level, batch)
    return entries & batch.mask if level == "token" else entries


def find_peers(over: str, level: Level, batch: RolloutBatch) -> Tensor:
    """The number of each entry's peer set. Raises NotYetError for a peer set that the level does not have."""
    if over == "batch":
        return torch.zeros_like(spread(batch.group, level, batch))
    if over == "group":
        return spread(number_peers(batch.group), level, batch)
    if over == "anchor_state" and level == "turn":
        return number_peers(spread(batch.group, level, batch), get_turns(batch).anchor)
    raise NotYetError(f"peers over {over} are not computed yet at the level of a {level}")


def widen(value: Tensor, level: Level, batch: RolloutBatch) -> Tensor:
    """Numbers of a level at the policy tokens that they speak of, zero elsewhere, [N, T]."""
    if level != "turn":
        return copy_to_tokens(value, batch.mask)
    padded = torch.cat([value.new_zeros(1), value])
    return torch.where(batch.mask, padded[number_turns(batch)], 0.0)


def number_turns(batch: RolloutBatch) -> Tensor:
    """One plus the number of the turn that each position lies in, 0 outside all turns, int64 [N, T]."""
    turns = get_turns(batch)
    rows, columns = batch.mask.shape
    number = torch.arange(1, turns.start.numel() + 1, device=batch.device)
    begins = torch.zeros(rows * columns, dtype=torch.int64, device=batch.device)
    begins = begins.scatter_reduce(0, _flat(turns, columns), number, "amax").reshape(rows, columns)
    latest = begins.cummax(dim=1).values
    ends = torch.cat([turns.end.new_zeros(1), turns.end])
    return torch.where(torch.arange(columns, device=batch.device) < ends[latest], latest, 0)


def lay_out(value: Tensor, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
    """Numbers a turn, [S], at the first token of each turn, with the mask of those tokens; both [N, T]."""
    turns = get_turns(batch)
    rows, columns = batch.mask.shape
    place = _flat(turns, columns)
    laid = value.new_zeros(rows * columns).scatter(0, place, value)
    mask = torch.zeros(rows * columns, dtype=torch.bool, device=batch.device)
    mask = mask.scatter(0, place, torch.ones_like(place, dtype=torch.bool))
    return laid.reshape(rows, columns), mask.reshape(rows, columns)


def collect(laid: Tensor, batch: RolloutBatch) -> Tensor:
    """The numbers [S] back from the first token of each turn, [N, T]."""
    turns = get_turns(batch)
    return laid.reshape(-1)[_flat(turns, laid.shape[1])]


def _flat(turns: Turns, columns: int) -> Tensor:
    return turns.sequence * columns + turns.start
