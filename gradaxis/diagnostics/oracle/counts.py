"""How many members of each type a group may hold, and with what probability.

Letters: K types, G members of a group, n count vectors, B groups that are judged together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, prod

import numpy as np
import torch
from torch import Tensor

from gradaxis.errors import InputError

MOST_COUNTS = 20_000
"""Count vectors up to which everything takes seconds."""


def number_of_counts(types: int, group_size: int) -> int:
    """C(G + K − 1, K − 1), the number of ways in which G members can be of K types."""
    return comb(group_size + types - 1, types - 1)


def count_vectors(share: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Every count vector, int64 [n, K], and its probability [n] under the multinomial law.

    Args:
        share: q, the probability of each type [K].
        group_size: G.

    >>> counts, probability = count_vectors(torch.tensor([0.5, 0.5], dtype=torch.float64), 2)
    >>> counts.tolist(), probability.tolist()
    ([[0, 2], [1, 1], [2, 0]], [0.25, 0.5, 0.25])
    """
    types = len(share)
    bars = np.array(list(combinations(range(group_size + types - 1), types - 1)), dtype=np.int64)
    bars = bars.reshape(number_of_counts(types, group_size), types - 1)
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), group_size + types - 1)], axis=1)
    counts = torch.from_numpy(np.diff(edges, axis=1) - 1).to(share.device)
    probability = torch.ones(len(counts), dtype=torch.float64, device=share.device)
    left = torch.full((len(counts),), group_size, device=share.device)
    ways = torch.tensor([[comb(a, b) for b in range(group_size + 1)] for a in range(group_size + 1)],
                        dtype=torch.float64, device=share.device)  # fmt: skip
    for number, chance in zip(counts.unbind(dim=1), share.double(), strict=True):
        probability = probability * ways[left, number] * chance**number
        left = left - number
    return counts, probability


@dataclass(frozen=True)
class JointCounts:
    """Count vectors of B independent groups together: `counts[b]` int64 [n, K_b] of each group, `probability` [n]."""

    counts: tuple[Tensor, ...]
    probability: Tensor


def joint_counts(shares: Sequence[Tensor], group_size: int, limit: int, method: str) -> JointCounts:
    """All combinations of the count vectors of some groups.

    Args:
        shares: the probability of each type, [K_b] for every group.
        group_size: G.
        limit: the most combinations that are gone through.
        method: for the message.

    Raises:
        InputError: there are more than `limit`.
    """
    number = prod(number_of_counts(len(share), group_size) for share in shares)
    if number > limit:
        types = " and ".join(str(len(share)) for share in shares)
        raise InputError(
            f"group size {group_size} with {types} types", f"{number} count vectors for {method}", f"at most {limit}",
            "Brute force only: take a smaller group, a smaller policy, or rewards that differ less",
        )  # fmt: skip
    single = [count_vectors(share, group_size) for share in shares]
    grid = torch.cartesian_prod(*(torch.arange(len(p), device=p.device) for _, p in single)).reshape(number, -1)
    probability = torch.ones(number, dtype=torch.float64, device=grid.device)
    for place, (_, chances) in zip(grid.unbind(dim=1), single, strict=True):
        probability = probability * chances[place]
    return JointCounts(tuple(counts[grid[:, b]] for b, (counts, _) in enumerate(single)), probability)
