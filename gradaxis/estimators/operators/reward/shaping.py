"""How the reward is transformed before samples are compared. The empty slot is the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import NotYetError
from gradaxis.estimators.layout import place_at_end


def penalise_kl_in_reward(
    reward: Tensor,
    logp_at_sampling: Tensor,
    target_logp: Tensor,
    mask: Tensor,
    *,
    to: str,
    value: str,
    unit: str,
    coefficient: float,
) -> Tensor:
    """Subtract β times the log-ratio of the sampling policy to another policy: a number, without gradient.

    unit = sequence:   R − β Σ_t (log π_old,t − log π_target,t)
    unit = token:      r_t = R·[t is the last policy token] − β (log π_old,t − log π_target,t)

    Args:
        reward: reward units, [N], or [N, T] where it is per token already.
        logp_at_sampling: log-probability of the sampled token at the start of the update, nats, [N, T].
        target_logp: the same under the other policy, nats, [N, T].
        mask: true at policy tokens, [N, T].
        to: which policy `target_logp` belongs to. value: `k1`, the log-ratio of the sampled token.
        unit: `sequence` or `token`.
        coefficient: β, reward units per nat, not negative.

    Returns:
        The penalised reward, [N] for `sequence` and [N, T] for `token`.

    Reduces to: the reward where both policies agree, or at β = 0. Summed over tokens, `token` equals `sequence`.
    Assumes: tokens drawn from the policy at the start of the update.
    Paper: InstructGPT, arXiv 2203.02155, equation 2 (sequence); REINFORCE++, arXiv 2501.03262 (token).
    Traps: `token` gives the gradient of the divergence only if the rewards are then summed to go. The log-ratio is
    that of the policy which sampled; it does not move within an update.

    >>> reward, old = torch.tensor([1.0]), torch.tensor([[-1.0, -2.0]])
    >>> ref, mask = torch.tensor([[-1.5, -1.0]]), torch.tensor([[True, True]])     # log-ratios 0.5 and -1
    >>> penalise_kl_in_reward(reward, old, ref, mask, to="ref", value="k1", unit="sequence", coefficient=0.1)
    tensor([1.0500])
    >>> penalise_kl_in_reward(reward, old, ref, mask, to="ref", value="k1", unit="token", coefficient=0.1)
    tensor([[-0.0500,  1.1000]])
    """
    penalty = coefficient * torch.where(mask, logp_at_sampling - target_logp, 0.0)
    if unit == "token":
        return place_at_end(reward, mask) - penalty
    total = penalty.sum(dim=1)
    return reward - (total if reward.dim() == 1 else place_at_end(total, mask))


def shape_by_length(reward: Tensor, length: Tensor, *, form: str, limit: int, buffer: int) -> Tensor:
    """Add a penalty for long responses.

    soft_overlong:   0                                 L ≤ limit − buffer
                     (limit − buffer − L) / buffer     limit − buffer < L ≤ limit
                     −1                                L > limit

    Args:
        reward: reward units, [N].
        length: L, policy tokens of the response, [N].
        form: `soft_overlong`.
        limit: tokens at which the penalty is full. buffer: tokens over which it grows.

    Returns:
        reward + penalty, [N].

    Raises:
        NotYetError: the reward is not one number a sequence.

    Reduces to: the reward while no response comes within `buffer` of `limit`.
    Assumes: rewards of size one; the penalty is not scaled to them.
    Paper: DAPO, arXiv 2503.14476, equation 13.
    Traps: `limit` is the paper's maximum length, beyond which responses are cut; with it far above the sampler's own
    limit the operator does nothing.

    >>> lengths = torch.tensor([6, 9, 12])                     # the line starts at 10 - 4 = 6
    >>> shape_by_length(torch.zeros(3), lengths, form="soft_overlong", limit=10, buffer=4)
    tensor([ 0.0000, -0.7500, -1.0000])
    """
    if reward.dim() != 1:
        raise NotYetError(
            "shaping.shape_by_length needs one reward a sequence: place it before what makes it per token"
        )
    return reward + ((limit - buffer - length.to(reward.dtype)) / buffer).clamp(min=-1.0, max=0.0)
