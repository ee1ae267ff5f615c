"""The trajectory side's factor: what the ratio slot makes and the trust region changes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Weight(NamedTuple):
    """What multiplies the advantage at each token, with its derivative written out beside it.

    All tensors are [N, T]. `value` is differentiable in `logp`; the token's surrogate is value · advantage. `slope` is
    the derivative of `value` with respect to the token's log-ratio (the log-probability itself where there is no
    ratio), or to the sequence's log-ratio where `pooled` is given; it carries no gradient. `pooled` is the derivative
    of the sequence's log-ratio with respect to each token's log-probability (1/length for the geometric mean, 1 for
    the product, 0 off the mask), or None where every token has a weight of its own. `is_ratio` says that the value is a
    ratio of probabilities, which clips need, and not a weighed log-probability.

    The slope stands beside the value so that ω is known where the advantage is zero and no quotient is ever formed.
    """

    value: Tensor
    slope: Tensor
    pooled: Tensor | None = None
    is_ratio: bool = True


def score_function(logp: Tensor, mask: Tensor) -> Weight:
    """The empty ratio slot: value = log π, slope = 1 on the mask. Both arguments [N, T], `logp` in nats."""
    return Weight(value=torch.where(mask, logp, 0.0), slope=mask.to(logp.dtype), is_ratio=False)


def surrogate(weight: Weight, advantage: Tensor) -> Tensor:
    """Each token's part of the objective before aggregation, [N, T]: value · advantage.

    Where the tokens of a sequence share one ratio w, the pooled derivatives sum to their share: 1 for the geometric
    mean, the length for the product. Dividing by it makes the sum over the tokens w·A for the product (the importance
    sampling estimator of the sequence) and, weighed by 1/length, w·A for the geometric mean (GSPO's objective).
    """
    return weight.value * advantage / _share(weight)


def reach_tokens(weight: Weight, token_coefficient: Tensor) -> Tensor:
    """ω [N, T]: the coefficient of A · ∇log π at each token, given the aggregation's coefficients [N, T].

    Without pooling it is coefficient · slope. With pooling it is the adjoint of the pooling: every token of a sequence
    receives its share of the whole sequence's coefficient.
    """
    own = token_coefficient * weight.slope
    if weight.pooled is None:
        return own
    return weight.pooled * (own / _share(weight)).sum(dim=1, keepdim=True)


def _share(weight: Weight) -> Tensor | float:
    if weight.pooled is None:
        return 1.0
    total = weight.pooled.sum(dim=1, keepdim=True)
    return torch.where(total > 0, total, 1.0)
