"""The trajectory side's factor: what the ratio slot makes and the trust region changes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Weight(NamedTuple):
    """What multiplies the advantage at each token, with its derivative written out beside it.

    All tensors are [N, T] but where it says so. `value` is differentiable in `logp`; the token's surrogate is
    factor · value · advantage. `slope` is the derivative of `value` with respect to the token's log-ratio (the
    log-probability itself where there is no ratio), or to the sequence's log-ratio where `pooled` is given; it carries
    no gradient. `pooled` is the derivative of the sequence's log-ratio with respect to each token's log-probability
    (1/length for the geometric mean, 1 for the product, 0 off the mask), or None where every token has a weight of its
    own. `is_ratio` says that the value is a ratio of probabilities, which clips need, and not a weighed
    log-probability.

    `factor` is a number without gradient that no bound of the trust region sees: the correction for another sampler,
    or the 0 and 1 of a mask; None stands for 1. `log_ratio` holds the tokens' log-ratios before they were pooled,
    differentiable, for operators that act before the pooling. `share` [N, 1] is the sum of `pooled` as the ratio slot
    left it.

    The slope stands beside the value so that ω is known where the advantage is zero and no quotient is ever formed.
    """

    value: Tensor
    slope: Tensor
    pooled: Tensor | None = None
    is_ratio: bool = True
    factor: Tensor | None = None
    log_ratio: Tensor | None = None
    share: Tensor | None = None

    def times(self, factor: Tensor) -> Weight:
        """The same weight with a further factor without gradient, [N, T] or [N, 1]; bounds do not see it."""
        factor = factor.detach().expand_as(self.value)
        return self._replace(factor=factor if self.factor is None else self.factor * factor)


def score_function(logp: Tensor, mask: Tensor) -> Weight:
    """The empty ratio slot: value = log π, slope = 1 on the mask. Both arguments [N, T], `logp` in nats."""
    return Weight(value=torch.where(mask, logp, 0.0), slope=mask.to(logp.dtype), is_ratio=False)


def surrogate(weight: Weight, advantage: Tensor) -> Tensor:
    """Each token's part of the objective before aggregation, [N, T]: factor · value · advantage.

    Where the tokens of a sequence share one ratio w, the pooled derivatives sum to their share: 1 for the geometric
    mean, the length for the product. Dividing by it makes the sum over the tokens w·A for the product (the importance
    sampling estimator of the sequence) and, weighed by 1/length, w·A for the geometric mean (GSPO's objective). Where
    the advantage differs between the tokens, A stands for its mean over them.
    """
    return _times(weight.value, weight.factor) * advantage / _share(weight)


def reach_tokens(weight: Weight, token_coefficient: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
    """ω and A, both [N, T]: the coefficient of A · ∇log π at each token, given the aggregation's coefficients [N, T].

    Without pooling ω is coefficient · factor · slope, and A the advantage as it came. With pooling ω is the adjoint of
    the pooling: every token of a sequence receives its share of the whole sequence's coefficient, and A is the mean of
    the sequence's advantages, weighed by what each of its tokens brings to that coefficient.
    """
    own = token_coefficient * _times(weight.slope, weight.factor)
    if weight.pooled is None:
        return own, advantage
    own = own / _share(weight)
    whole = own.sum(dim=1, keepdim=True)
    mean = (own * advantage).sum(dim=1, keepdim=True) / torch.where(whole == 0, 1.0, whole)
    reached = weight.pooled != 0
    largest = torch.where(reached, advantage, -torch.inf).amax(dim=1, keepdim=True)
    smallest = torch.where(reached, advantage, torch.inf).amin(dim=1, keepdim=True)
    taken = reached & (largest > smallest) & (whole != 0)  # else A is one number already, or is multiplied by zero
    return weight.pooled * whole, torch.where(taken, mean, advantage)


def _times(value: Tensor, factor: Tensor | None) -> Tensor:
    return value if factor is None else value * factor


def _share(weight: Weight) -> Tensor | float:
    if weight.pooled is None:
        return 1.0
    total = weight.pooled.sum(dim=1, keepdim=True) if weight.share is None else weight.share
    return torch.where(total > 0, total, 1.0)
