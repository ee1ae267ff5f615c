"""Which terms stand beside the policy gradient. Each returns what it adds to the objective at each token."""

from __future__ import annotations

import torch
from torch import Tensor


def penalise_kl(
    logp: Tensor, target_logp: Tensor, mask: Tensor, *, to: str, value: str, gradient: str, coefficient: float
) -> Tensor:
    """Minus β times a per-token estimate of the divergence from another policy, differentiated as it is written.

    With d = log π − log π_target at the sampled token:   k1 = d     k2 = d²/2     k3 = e^(−d) − 1 + d

    Args:
        logp: log-probability of the sampled token under the policy, nats, [N, T]; differentiable.
        target_logp: the same under the other policy, nats, [N, T]; without gradient.
        mask: true at policy tokens, [N, T].
        to: which policy `target_logp` belongs to; it chooses the column, not the formula.
        value: `k1`, `k2` or `k3`.
        gradient: `through_value`, the derivative of the estimate with the sampled tokens held fixed.
        coefficient: β, reward units per nat, not negative.

    Returns:
        −β · estimate, [N, T], zero off the mask.

    Reduces to: zero, with zero gradient for k2 and k3, where both policies agree.
    Assumes: tokens drawn from the policy itself; on stale rollouts no ratio corrects the expectation.
    Paper: GRPO, arXiv 2402.03300, equation 4 (k3).
    Traps: the expected gradient is not that of the value. On the policy's own samples k1 gives zero, k2 the reverse KL
    of each state and k3 the forward KL of each state; prefixes are held fixed in all three.

    >>> from math import log
    >>> logp, ref = torch.tensor([[log(0.5)]]), torch.tensor([[log(0.25)]])        # d = log 2, e^-d = 1/2
    >>> mask = torch.tensor([[True]])
    >>> penalise_kl(logp, ref, mask, to="ref", value="k3", gradient="through_value", coefficient=1.0)
    tensor([[-0.1931]])
    """
    difference = torch.where(mask, logp - target_logp.detach(), 0.0)
    if value == "k1":
        estimate = difference
    elif value == "k2":
        estimate = difference.square() / 2
    else:
        estimate = torch.expm1(-difference) + difference
    return -coefficient * estimate


def add_entropy_bonus(entropy: Tensor, *, coefficient: float) -> Tensor:
    """A multiple of the entropy of the next-token distribution at each token.

    Args:
        entropy: nats, [N, T]; differentiable.
        coefficient: reward units per nat; a negative one lowers entropy.

    Returns:
        coefficient · H_t, [N, T].

    Reduces to: nothing at coefficient zero.
    Assumes: entropy of the whole vocabulary at the sampling temperature.
    Paper: PPO, arXiv 1707.06347, equation 9.
    Traps: it is the entropy of each state along the sampled prefixes; the gradient leaves out how the policy changes
    which prefixes are met.

    >>> add_entropy_bonus(torch.tensor([[2.0, 0.5]]), coefficient=0.5)
    tensor([[1.0000, 0.2500]])
    """
    return coefficient * entropy
