"""Where numbers of a sequence sit among its tokens, and sums that run backwards over them.

Observation tokens lie inside a response and off the mask: sums pass over them as if they were not there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mark_last(mask: Tensor) -> Tensor:
    """True at the last policy token of each sequence, bool [N, T]; all false for a sequence without one."""
    remaining = mask.flip(1).cumsum(1).flip(1)
    return mask & (remaining == 1)


def place_at_end(amount: Tensor, mask: Tensor) -> Tensor:
    """A number a sequence [N] given to its last policy token, [N, T]. What is [N, T] already is returned as it is.

    A sequence without policy tokens has no place for it: its row is zero.
    """
    if amount.dim() == 2:
        return amount
    return torch.where(mark_last(mask), amount.unsqueeze(1), 0.0)


def copy_to_tokens(amount: Tensor, mask: Tensor) -> Tensor:
    """A number a sequence [N], or a token [N, T], at every policy token and zero elsewhere, [N, T]."""
    return torch.where(mask, amount if amount.dim() == 2 else amount.unsqueeze(1), 0.0)


def sum_backwards(amount: Tensor, decay: Tensor) -> Tensor:
    """y_t = amount_t + decay_t · y_{t+1} with y = 0 after the last column; all [N, T].

    Works in ⌈log2 T⌉ steps by composing the recursion with itself, so it is fast on long responses and, with decays
    of at most one, never divides nor grows.
    """
    total, factor, shift = amount, decay, 1
    while shift < amount.shape[1]:
        total = total + factor * _pull(total, shift)
        factor = factor * _pull(factor, shift)
        shift *= 2
    return total


def next_on_mask(values: Tensor, mask: Tensor) -> Tensor:
    """The value at the next policy token after each position, zero where none follows, [N, T]."""
    length = mask.shape[1]
    position = torch.arange(length, device=mask.device).expand_as(mask)
    here_or_later = torch.where(mask, position, length).flip(1).cummin(dim=1).values.flip(1)
    after = torch.cat([here_or_later[:, 1:], torch.full_like(here_or_later[:, :1], length)], dim=1)
    return torch.cat([values, torch.zeros_like(values[:, :1])], dim=1).gather(1, after)


def _pull(values: Tensor, shift: int) -> Tensor:
    """values_{t+shift}, zero past the end."""
    return torch.cat([values[:, shift:], torch.zeros_like(values[:, :shift])], dim=1)
