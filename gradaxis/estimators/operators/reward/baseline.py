"""What is subtracted from the reward. The empty slot subtracts nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.estimators.layout import copy_to_tokens
from gradaxis.estimators.peers import count_by_peers, mean_by_peers, sum_by_peers


def center_rewards(advantage: Tensor, peers: Tensor, counted: Tensor, *, statistic: str) -> Tensor:
    """Subtract the mean of the peers.

    mean:            A_i = R_i − (1/n) Σ_j R_j
    leave_one_out:   A_i = R_i − (1/(n−1)) Σ_{j≠i} R_j

    j runs over the counted entries of i's peer set; n is their number.

    Args:
        advantage: reward units, at any level: [N], [N, T] or [S].
        peers: number of each entry's peer set, int64, same shape.
        counted: true for entries that the statistics count, same shape.
        statistic: `mean` or `leave_one_out`.

    Returns:
        The centred values, same shape. An entry without others under `leave_one_out` keeps its value.

    Reduces to: leave_one_out = n/(n−1) · mean, for every counted entry.
    Assumes: peers were drawn alike, so that their mean estimates the entry's expectation.
    Paper: GRPO, arXiv 2402.03300, section 4.1.2 (mean); RLOO, arXiv 2402.14740, section 2.3 (leave_one_out).
    Traps: the mean holds the entry itself, which shrinks the expected gradient by (n−1)/n. A set of one gives zero
    under `mean` and no baseline at all under `leave_one_out`; estimators refuse the latter.

    >>> reward, group, all_count = torch.tensor([3.0, 0.0, 0.0]), torch.zeros(3, dtype=torch.int64), torch.ones(3) > 0
    >>> center_rewards(reward, group, all_count, statistic="mean")
    tensor([ 2., -1., -1.])
    >>> center_rewards(reward, group, all_count, statistic="leave_one_out")
    tensor([ 3.0000, -1.5000, -1.5000])
    """
    if statistic == "mean":
        return advantage - mean_by_peers(advantage, peers, counted)
    own = torch.where(counted, advantage, 0.0)
    others = count_by_peers(counted, peers, advantage.dtype) - counted.to(advantage.dtype)
    return advantage - (sum_by_peers(own, peers) - own) / others.clamp(min=1)


def without_peers_center_rewards(advantage: Tensor, peers: Tensor, counted: Tensor, *, statistic: str) -> Tensor | None:
    """True for counted entries that `leave_one_out` has no other entry for; None for `mean`, which needs none."""
    if statistic == "mean":
        return None
    return counted & (count_by_peers(counted, peers, advantage.dtype) < 2)


def subtract_greedy(advantage: Tensor, greedy_reward: Tensor) -> Tensor:
    """Subtract the reward of the greedy answer to the same prompt.

    A_i = R_i − R(greedy answer to the prompt of i)

    Args:
        advantage: reward units, [N], or [N, T] for sums to go.
        greedy_reward: reward units, [N].

    Returns:
        The difference, of the shape of `advantage`.

    Reduces to: the reward where greedy answers earn nothing.
    Assumes: the greedy answer comes from the policy that sampled; it carries no gradient.
    Paper: ReMax, arXiv 2310.10505, equation 6.
    Traps: an answer equal to the greedy one has no gradient, however it was drawn.

    >>> subtract_greedy(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor([ 0.5000, -0.5000])
    """
    return advantage - (greedy_reward if advantage.dim() == 1 else greedy_reward.unsqueeze(1))


def subtract_critic(advantage: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Subtract the critic's value of the state before each token.

    A_{i,t} = R_i − V(s_{i,t})

    Args:
        advantage: reward units, [N], or sums to go [N, T].
        value: V of the prefix before each token, reward units, [N, T]; without gradient.
        mask: true at policy tokens, [N, T].

    Returns:
        [N, T], zero off the mask.

    Reduces to: GAE with γ = λ = 1 when the only reward is the outcome.
    Assumes: an undiscounted return; the value has not seen the token that it judges.
    Paper: GAE, arXiv 1506.02438, section 2.
    Traps: rewards of single tokens have to be summed to go beforehand.

    >>> mask = torch.tensor([[True, True, False]])
    >>> subtract_critic(torch.tensor([1.0]), torch.tensor([[0.25, 0.75, 9.0]]), mask)
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    return torch.where(mask, copy_to_tokens(advantage, mask) - value, 0.0)
