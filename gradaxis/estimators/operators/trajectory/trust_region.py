"""How far the weight of the ratio slot may move the update. The empty slot is unbounded."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.weights import Weight


def clip_ratio(weight: Weight, advantage: Tensor, *, low: float, high: float) -> Weight:
    """Pessimistic clip: the smaller of ratio · A and clipped ratio · A.

    min( r·A, clip(r, 1 − low, 1 + high)·A ) = A · v    with  v = min(r, 1 + high) where A > 0
                                                              v = max(r, 1 − low)  where A < 0
                                                              v = r                where A = 0

    Args:
        weight: ratio at each token, dimensionless, [N, T].
        advantage: reward units, [N, T]; only its sign is read.
        low, high: distances of the two bounds from 1, not negative.

    Returns:
        Weight with value v; its slope is zero where the bound is the smaller one.

    Raises:
        InputError: the weight is no ratio.

    Reduces to: the plain ratio when both bounds are infinite, and in the first step after sampling (every ratio is 1).
    Assumes: an advantage without gradient.
    Paper: PPO, arXiv 1707.06347, equation 7; separate bounds: DAPO, arXiv 2503.14476, equation 10.
    Traps: one bound acts for each sign of A, so the clip ties the two sides together. A ratio on the bound counts as
    unclipped. Where A = 0 the slope is that of the plain ratio: the choice is free, since it is multiplied by zero.

    >>> ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]])
    >>> clip_ratio(Weight(ratio, ratio), torch.tensor([[1., -1., 1., -1.]]), low=0.2, high=0.3).value
    tensor([[1.3000, 1.5000, 0.5000, 0.8000]])
    """
    _require_ratio("clip_ratio", weight)
    above = (advantage > 0) & (weight.value > 1 + high)
    below = (advantage < 0) & (weight.value < 1 - low)
    value = torch.where(above, 1 + high, torch.where(below, 1 - low, weight.value))
    return weight._replace(value=value, slope=torch.where(above | below, 0.0, weight.slope))


def clip_weight(weight: Weight, logp: Tensor, *, low: float | None, high: float) -> Weight:
    """Clip the ratio, stop its gradient, and let it weigh the score function.

    v_t = sg( clip(r_t, 1 − low, 1 + high) ) · log π_t          (sg: stop-gradient)

    Args:
        weight: ratio at each token, dimensionless, [N, T].
        logp: log-probability of the sampled token, nats, [N, T]; differentiable.
        low: distance of the lower bound from 1, or None for none.
        high: distance of the upper bound from 1.

    Returns:
        Weight with value v and the clipped ratio as slope; every token has a weight of its own, also where the ratio
        was pooled.

    Raises:
        InputError: the weight is no ratio.

    Reduces to: the score function where the ratio is 1; the gradient of the plain ratio when no bound is met.
    Assumes: an advantage that may differ between tokens, even after pooling.
    Paper: CISPO in MiniMax-M1, arXiv 2506.13585, equations 4 and 5.
    Traps: the bound is 1 + high here; some libraries pass the bound itself. The number that L takes is no estimate of
    anything; only its gradient is meant.

    >>> ratio = torch.tensor([[0.5, 4.0]])
    >>> clip_weight(Weight(ratio, ratio), torch.tensor([[-1.0, -2.0]]), low=None, high=2.0).value
    tensor([[-0.5000, -6.0000]])
    """
    _require_ratio("clip_weight", weight)
    clipped = weight.value.detach().clamp(min=None if low is None else 1 - low, max=1 + high)
    return Weight(value=clipped * logp, slope=clipped, is_ratio=False, factor=weight.factor)


def _require_ratio(operator: str, weight: Weight) -> None:
    if not weight.is_ratio:
        raise InputError(f"trust_region.{operator}", "a weight that is a log-probability", "a ratio of probabilities",
                         "Put form_ratio into the ratio slot, and clip_weight last.")  # fmt: skip
