"""What the advantage is divided or multiplied by. The empty slot is the factor one."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.estimators.peers import are_constant, count_by_peers, mean_by_peers, sum_by_peers


def divide_by_spread(
    advantage: Tensor, peers: Tensor, counted: Tensor, *, statistic: str, ddof: int, epsilon: float
) -> Tensor:
    """Divide by the standard deviation of the peers plus a small constant.

    A_i / ( √( Σ_j (A_j − Ā)² / (n − ddof) ) + ε )

    j runs over the counted entries of i's peer set, n is their number and Ā their mean.

    Args:
        advantage: reward units, at any level: [N], [N, T] or [S].
        peers: number of each entry's peer set, int64, same shape.
        counted: true for entries that the statistics count, same shape.
        statistic: `std`. ddof: 0 for the standard deviation of a population, 1 for that of a sample.
        epsilon: ε, reward units.

    Returns:
        Dimensionless, same shape. Entries of a set without spread become zero, whatever ε is.

    Reduces to: division by a constant that all entries of the set share, so the gain of the set and not the signs.
    Assumes: entries centred beforehand, if they are to be; centring does not change the spread.
    Paper: GRPO, arXiv 2402.03300, section 4.1.2.
    Traps: libraries differ in both ddof and ε. ddof 1 gives √((n−1)/n) times what ddof 0 gives.

    >>> advantage, group = torch.tensor([2.0, -1.0, -1.0]), torch.zeros(3, dtype=torch.int64)   # squares sum to 6
    >>> divide_by_spread(advantage, group, torch.ones(3) > 0, statistic="std", ddof=0, epsilon=0.0)
    tensor([ 1.4142, -0.7071, -0.7071])
    """
    deviation = advantage - mean_by_peers(advantage, peers, counted)
    squares = sum_by_peers(torch.where(counted, deviation.square(), 0.0), peers)
    spread = (squares / (count_by_peers(counted, peers, advantage.dtype) - ddof).clamp(min=1)).sqrt()
    constant = are_constant(advantage, peers, counted)
    return torch.where(constant, 0.0, advantage / torch.where(constant, 1.0, spread + epsilon))
