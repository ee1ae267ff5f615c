"""Which samples or groups are kept once rewards are known. The empty slot keeps all."""

from __future__ import annotations

from torch import Tensor

from gradaxis.estimators.peers import are_constant


def drop_zero_variance(outcome: Tensor, peers: Tensor, counted: Tensor, *, statistics: str) -> Tensor:
    """Keep the groups whose outcome rewards are not all equal.

    Args:
        outcome: the reward before any shaping, reward units, [N].
        peers: number of each sample's group, int64, [N].
        counted: true for samples that count, [N].
        statistics: `kept` or `all`: whether later means, spreads and divisors count the kept samples only. It acts
            there; the mask returned here is the same.

    Returns:
        True for kept samples, bool, [N].

    Reduces to: keeping all when every group is mixed.
    Assumes: equal answers are scored exactly equal; no tolerance is applied.
    Paper: DAPO, arXiv 2503.14476, equation 11, whose condition is on correctness and not on the shaped reward.
    Traps: with group-centred rewards the dropped groups have no gradient anyway, so that what `kept` changes is the
    divisor. A group of one is always dropped.

    >>> import torch
    >>> reward, group = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    >>> drop_zero_variance(reward, group, torch.ones(4, dtype=torch.bool), statistics="kept").tolist()
    [True, True, False, False]
    """
    return ~are_constant(outcome, peers, counted)
