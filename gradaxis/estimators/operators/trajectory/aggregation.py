"""How tokens add up to one number. The empty slot is the sum over tokens and the mean over sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import MissingInputError
from gradaxis.estimators.local_scope import missing_micro_batches
from gradaxis.estimators.peers import sum_by_peers


def aggregate_tokens(
    token_weight: Tensor,
    mask: Tensor,
    counted: Tensor,
    counted_tokens: Tensor,
    max_length: int | None,
    micro_batch: Tensor | None,
    *,
    weight: str,
    constant: str,
    scope: str,
) -> Tensor:
    """The coefficient a_{i,t} with which each token's surrogate enters L = Σ_i Σ_t a_{i,t} S_{i,t}.

    a_{i,t} = u_{i,t} · k_i / Z     k_i = 1 (one) or 1/L_i (inverse_length)
                                    Z = N (sequences), Σ_i L_i (tokens) or N · max_length

    N and the sum over i run over counted sequences; L_i is the number of counted tokens. With `local` they run over the
    sequences of i's own micro-batch, and L is the mean over the M micro-batches: a_{i,t} = u_{i,t} · k_i / (M · Z_i).

    Args:
        token_weight: u, dimensionless, [N, T]; zero for dropped sequences.
        mask: true at policy tokens, [N, T].
        counted: true for sequences that the divisor counts, [N].
        counted_tokens: true at policy tokens that the divisor counts, [N, T]: all of them, but where an operator before
            drops tokens and says `statistics: kept`.
        max_length: the most tokens a response may have (the sampler's setting), or None where it is unknown.
        micro_batch: the number of each sequence's micro-batch, int64 [N], or None where it is unknown.
        weight, constant: choose k and Z. scope: `global`, over the whole batch, or `local`, over each micro-batch.

    Returns:
        a, [N, T], zero off the mask. Units: 1/sequences or 1/tokens.

    Raises:
        MissingInputError: `constant` is max_length and it is unknown, or `scope` is local and micro-batches are.

    Reduces to: the plain mean over tokens when all sequences have one length, for `one`/`tokens` and for
    `inverse_length`/`sequences` alike; `local` to `global` for one micro-batch, and for micro-batches of one size where
    Z counts sequences and all are counted.
    Assumes: the whole batch is at hand, since Z, or M, is taken over it.
    Paper: GRPO, arXiv 2402.03300, equation 3 (inverse_length, sequences); DAPO, arXiv 2503.14476, equation 12 (one,
    tokens); Dr. GRPO, arXiv 2503.20783, section 3.2 (one, a constant).
    Traps: libraries call both token means "token-mean", and some that divide by the tokens of a micro-batch do not mean
    to: accumulated over micro-batches that is a mean of means, in which a token of a short micro-batch counts for more
    (TRL's `bnpo`). A micro-batch without counted sequences still counts in M. The constant is the sampler's limit, not
    the padded width of the batch. Where no sequence is counted, Z is taken as 1 and every coefficient is zero.

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> counted, ones = torch.tensor([True, True]), torch.ones(2, 2)
    >>> aggregate_tokens(ones, mask, counted, mask, None, None, weight="inverse_length", constant="sequences",
    ...                  scope="global")
    tensor([[0.2500, 0.2500],
            [0.5000, 0.0000]])
    """
    if scope == "local" and micro_batch is None:
        raise missing_micro_batches()
    length = counted_tokens.sum(dim=1)
    coefficient = torch.where(mask, token_weight, 0.0)
    if weight == "inverse_length":
        coefficient = coefficient / length.clamp(min=1).unsqueeze(1)
    if constant == "max_length" and max_length is None:
        raise MissingInputError("max_new_tokens", "store the sampler's max_new_tokens in the rollouts' provenance")
    each = 1 if constant == "sequences" else max_length or 0
    part = torch.where(counted, length if constant == "tokens" else each, 0)
    if scope == "global":
        return coefficient / part.sum().clamp(min=1)
    assert micro_batch is not None
    divisor = sum_by_peers(part, micro_batch).clamp(min=1) * _count_sets(micro_batch)
    return coefficient / divisor.unsqueeze(1)


def _count_sets(numbers: Tensor) -> Tensor:
    """How many different numbers there are, all of them in [0, N); a scalar that is not read from the data."""
    return torch.zeros_like(numbers).index_add(0, numbers, torch.ones_like(numbers)).clamp(max=1).sum()
