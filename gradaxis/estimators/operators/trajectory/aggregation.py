"""How tokens add up to one number. The empty slot is the sum over tokens and the mean over sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import MissingInputError, NotYetError


def aggregate_tokens(
    token_weight: Tensor,
    mask: Tensor,
    counted: Tensor,
    max_length: int | None,
    *,
    weight: str,
    constant: str,
    scope: str,
) -> Tensor:
    """The coefficient a_{i,t} with which each token's surrogate enters L = Σ_i Σ_t a_{i,t} S_{i,t}.

    a_{i,t} = u_{i,t} · k_i / Z     k_i = 1 (one) or 1/L_i (inverse_length)
                                    Z = N (sequences), Σ_i L_i (tokens) or N · max_length

    N and the sum over i run over counted sequences; L_i is the number of policy tokens.

    Args:
        token_weight: u, dimensionless, [N, T]; zero for dropped sequences.
        mask: true at policy tokens, [N, T].
        counted: true for sequences that the divisor counts, [N].
        max_length: the most tokens a response may have (the sampler's setting), or None where it is unknown.
        weight, constant: choose k and Z. scope: `global`, over the whole batch.

    Returns:
        a, [N, T], zero off the mask. Units: 1/sequences or 1/tokens.

    Raises:
        MissingInputError: `constant` is max_length and it is unknown. NotYetError: `scope` is local.

    Reduces to: the plain mean over tokens when all sequences have one length, for `one`/`tokens` and for
    `inverse_length`/`sequences` alike.
    Assumes: the whole batch is at hand, since Z is taken over it.
    Paper: GRPO, arXiv 2402.03300, equation 3 (inverse_length, sequences); DAPO, arXiv 2503.14476, equation 12 (one,
    tokens); Dr. GRPO, arXiv 2503.20783, section 3.2 (one, a constant).
    Traps: libraries call both token means "token-mean". The constant is the sampler's limit, not the padded width of
    the batch. Where no sequence is counted, Z is taken as 1 and every coefficient is zero.

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> counted, ones = torch.tensor([True, True]), torch.ones(2, 2)
    >>> aggregate_tokens(ones, mask, counted, None, weight="inverse_length", constant="sequences", scope="global")
    tensor([[0.2500, 0.2500],
            [0.5000, 0.0000]])
    """
    if scope != "global":
        raise NotYetError(
            "aggregation.aggregate_tokens: scope local (a divisor for each micro-batch) is not computed yet"
        )
    length = mask.sum(dim=1)
    coefficient = torch.where(mask, token_weight, 0.0)
    if weight == "inverse_length":
        coefficient = coefficient / length.clamp(min=1).unsqueeze(1)
    if constant == "tokens":
        divisor = torch.where(counted, length, 0).sum()
    elif constant == "sequences":
        divisor = counted.sum()
    elif max_length is None:
        raise MissingInputError("max_new_tokens", "store the sampler's max_new_tokens in the rollouts' provenance")
    else:
        divisor = counted.sum() * max_length
    return coefficient / divisor.clamp(min=1)
