"""Unit gradients: one vector a prompt, as weights on the patterns whose inner products are known.

Letters: n prompts (the units of independence), N sequences, T positions, B patterns a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.estimators.rollouts.batch import RolloutBatch

Totals = Mapping[str, Tensor]
"""Derivatives of an objective by quantity, each [N, T]: ∇L = Σ_q totals[q] · ∇q."""

Key = tuple[str, str]
"""A gradient's name: the label of its method, and which part of it ("whole", "task", ...)."""

FEWEST_UNITS = 16
"""Below this many prompts the pseudo-values of a method that couples the batch are not trusted."""


def units_of(batch: RolloutBatch) -> Array:
    """The number of each sequence's prompt, counted from 0 without gaps, int64 [N]."""
    return torch.unique(batch.prompt.cpu(), return_inverse=True)[1].numpy()


def leave_out(
    batch: RolloutBatch, units: Array, totals: Callable[[RolloutBatch], dict[Key, Totals]]
) -> dict[Key, list[dict[str, Tensor]]]:
    """Derivatives without each prompt in turn, computed anew on the rest and laid back into the rows of the batch.

    Args:
        batch: N sequences. units: [N], from `units_of`.
        totals: the derivatives of every gradient wanted on any batch of rows.

    Returns for every key n mappings of [N, T] tensors that are zero on the prompt left out.
    """
    found: dict[Key, list[dict[str, Tensor]]] = {}
    for unit in range(int(units.max()) + 1):
        rows = torch.from_numpy(np.flatnonzero(units != unit)).to(batch.device)
        for key, parts in totals(batch.rows(rows)).items():
            spread = {
                name: value.new_zeros(batch.tokens.shape).index_copy(0, rows, value) for name, value in parts.items()
            }
            found.setdefault(key, []).append(spread)
    return found


def sums_by_unit(weights: Array, units: Array) -> Array:
    """Unit gradients of a method that couples samples or groups of one prompt only: [N, B] -> [n, N·B].

    Row j is n times the prompt's own part, so that the mean over rows is the gradient of the batch.
    """
    n = int(units.max()) + 1
    member = units[None, :] == np.arange(n)[:, None]
    return (n * member[:, :, None] * weights[None]).reshape(n, -1)


def pseudo_values(weights: Array, without: Sequence[Array]) -> Array:
    """Unit gradients of a method that couples the batch: n·ĝ − (n − 1)·ĝ₍₋ⱼ₎, [N, B] -> [n, N·B].

    `without[j]` are the weights [N, B] with prompt j left out. For a method that does not couple prompts this is what
    `sums_by_unit` gives.
    """
    n = len(without)
    return np.stack([(n * weights - (n - 1) * left).reshape(-1) for left in without])
