"""How the policy enters against the one that sampled. The empty slot is the score function."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.weights import Weight


def form_ratio(logp: Tensor, anchor_logp: Tensor, mask: Tensor, *, unit: str, pool: str, anchor: str) -> Weight:
    """Weigh by the probability under the policy over that under the anchor.

    unit = token:                        r_t = exp(log π_t − log π_anchor,t)
    unit = sequence, geometric_mean:     s = exp( (1/L) Σ_t (log π_t − log π_anchor,t) )       one s for all L tokens
    unit = sequence, product:            w = exp( Σ_t (log π_t − log π_anchor,t) )

    Sums run over policy tokens only; L is their number.

    Args:
        logp: log-probability of the sampled token under the policy, nats, [N, T]; differentiable.
        anchor_logp: the same under the anchor, nats, [N, T]; without gradient.
        mask: true at policy tokens, [N, T].
        unit: what one ratio covers, `token` or `sequence`.
        pool: `none` for tokens; `product` or `geometric_mean` for sequences.
        anchor: which policy `anchor_logp` belongs to, `old` or `behavior`; it chooses the column, not the formula.

    Returns:
        Weight whose value is the ratio at every policy token, 0 off the mask.

    Raises:
        InputError: unit and pool do not go together.

    Reduces to: the score function's gradient where the policy is the anchor (every ratio is 1); the token ratio, for
    both pools, on sequences of one token.
    Assumes: both log-probabilities come from the same engine and precision; otherwise mismatch is measured and called
    staleness.
    Paper: PPO, arXiv 1707.06347, equation 6 (token); GSPO, arXiv 2507.18071, equation 7 (geometric mean).
    Traps: the product's variance grows with the length; the geometric mean is not an importance weight and stays
    biased.

    >>> from math import log
    >>> logp, old = torch.tensor([[log(0.5), log(0.2)]]), torch.tensor([[log(0.25), log(0.4)]])
    >>> form_ratio(logp, old, torch.tensor([[True, True]]), unit="token", pool="none", anchor="old").value
    tensor([[2.0000, 0.5000]])
    """
    if (unit == "token") != (pool == "none"):
        raise InputError("ratio.form_ratio", f"unit {unit!r} with pool {pool!r}",
                         "unit 'token' with pool 'none', or unit 'sequence' with another pool")  # fmt: skip
    log_ratio = torch.where(mask, logp - anchor_logp.detach(), 0.0)
    if unit == "token":
        value = torch.where(mask, log_ratio.exp(), 0.0)
        return Weight(value, value.detach(), log_ratio=log_ratio)
    pooled = mask.to(logp.dtype)
    if pool == "geometric_mean":
        pooled = pooled / mask.sum(dim=1, keepdim=True).clamp(min=1)
    value = torch.where(mask, (pooled * log_ratio).sum(dim=1, keepdim=True).exp(), 0.0)
    share = pooled.sum(dim=1, keepdim=True)
    return Weight(value, value.detach(), pooled, log_ratio=log_ratio, share=share)
