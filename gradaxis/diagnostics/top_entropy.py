"""Gradients of the tokens of highest entropy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradaxis.diagnostics.units import Key, Totals
from gradaxis.estimators.rollouts.batch import RolloutBatch

TOP_ENTROPY = "top entropy"
"""The part of a method's gradient that comes from the tokens of highest entropy."""

SHARE = 0.2
"""The share of tokens that arXiv 2506.01939 calls forking tokens."""


def top_tokens(batch: RolloutBatch, share: float = SHARE) -> Tensor | None:
    """Which policy tokens are among the `share` of highest entropy, bool [N, T]; None without a column of entropies.

    Ties at the threshold are in.
    """
    if "entropy" not in batch.columns or not bool(batch.mask.any()):
        return None
    entropy = batch.column("entropy").double()
    ordered = entropy[batch.mask].sort(descending=True)[0]
    threshold = ordered[max(1, round(share * len(ordered))) - 1]
    return batch.mask & (entropy >= threshold)


def restrict(
    batch: RolloutBatch, totals: Mapping[Key, Totals], families: Mapping[Key, Sequence[Totals]], labels: Sequence[str]
) -> tuple[dict[Key, Totals], dict[Key, Sequence[Totals]]]:
    """The derivatives of each method on the tokens of highest entropy alone, with units left out where needed too.

    Args:
        totals, families: of whole methods, by key. labels: the methods. Empty without a column of entropies.
    """
    tokens = top_tokens(batch)
    if tokens is None:
        return {}, {}

    def cut(total: Totals) -> dict[str, Tensor]:
        return {name: torch.where(tokens, value, 0.0) for name, value in total.items()}

    keys = {(label, TOP_ENTROPY): (label, "whole") for label in labels}
    return (
        {key: cut(totals[whole]) for key, whole in keys.items()},
        {key: [cut(left) for left in families[whole]] for key, whole in keys.items() if whole in families},
    )
