"""Peer sets: who is compared with whom, as one number an entry, and sums over such sets.

Peer numbers lie in [0, number of entries), so that the number of sets never has to be read from the data.
"""

from __future__ import annotations

import torch
from torch import Tensor


def number_peers(*keys: Tensor) -> Tensor:
    """Number entries so that two are equal exactly when all their keys are, int64 of the keys' shape.

    Args:
        keys: integer tensors of one shape. The numbers follow the order of the keys, the first one first.

    >>> number_peers(torch.tensor([7, 3, 7]), torch.tensor([0, 0, 1])).tolist()
    [1, 0, 2]
    """
    numbers = _rank(keys[0])
    for key in keys[1:]:
        numbers = _rank(numbers * key.numel() + _rank(key))
    return numbers


def sum_by_peers(values: Tensor, peers: Tensor) -> Tensor:
    """The sum of `values` over each entry's peer set, handed back to every entry; shapes equal."""
    flat = peers.reshape(-1)
    sums = torch.zeros_like(values.reshape(-1)).index_add(0, flat, values.reshape(-1))
    return sums[flat].reshape(values.shape)


def count_by_peers(counted: Tensor, peers: Tensor, dtype: torch.dtype) -> Tensor:
    """How many entries of each entry's peer set are counted, in `dtype`, of the same shape."""
    return sum_by_peers(counted.to(dtype), peers)


def mean_by_peers(values: Tensor, peers: Tensor, counted: Tensor) -> Tensor:
    """The mean over the counted entries of each entry's peer set; zero for a set in which none is counted."""
    count = count_by_peers(counted, peers, values.dtype)
    return sum_by_peers(torch.where(counted, values, 0.0), peers) / count.clamp(min=1)


def are_constant(values: Tensor, peers: Tensor, counted: Tensor) -> Tensor:
    """True where the counted entries of the peer set are all equal, exactly; a set without any is constant too."""
    flat, numbers = values.reshape(-1), peers.reshape(-1)
    infinity = torch.full_like(flat, torch.inf)
    chosen = counted.reshape(-1)
    largest = (-infinity).scatter_reduce(0, numbers, torch.where(chosen, flat, -torch.inf), "amax")
    smallest = infinity.scatter_reduce(0, numbers, torch.where(chosen, flat, torch.inf), "amin")
    return (largest <= smallest)[numbers].reshape(values.shape)


def _rank(key: Tensor) -> Tensor:
    """The dense rank of every entry among the distinct values of `key`."""
    flat = key.reshape(-1)
    ordered, order = flat.sort(stable=True)
    steps = torch.cat([torch.zeros_like(ordered[:1]), (ordered[1:] != ordered[:-1]).to(ordered.dtype)])
    ranks = steps.to(torch.int64).cumsum(0)
    return torch.empty_like(ranks).scatter(0, order, ranks).reshape(key.shape)
