"""Unit gradients: one vector a prompt, or a group, as weights on the patterns whose inner products are known.

Letters: n prompts (the units of independence), M groups (the units where the prompts are taken as given), N sequences,
T positions, B patterns a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradaxis.diagnostics.statistics import Array, Strata
from gradaxis.estimators.rollouts.batch import RolloutBatch

Totals = Mapping[str, Tensor]
"""Derivatives of an objective by quantity, each [N, T]: ∇L = Σ_q totals[q] · ∇q."""

Key = tuple[str, str]
"""A gradient's name: the label of its method, and which part of it ("whole", "task", ...)."""

FEWEST_UNITS = 16
"""Below this many units the pseudo-values of a method that couples the batch are not trusted."""


def units_of(batch: RolloutBatch) -> NDArray[np.int64]:
    """The number of each sequence's prompt, counted from 0 without gaps, int64 [N]."""
    return torch.unique(batch.prompt.cpu(), return_inverse=True)[1].numpy()


@dataclass(frozen=True)
class Groups:
    """The groups as units: `units` [N] is the number of each sequence's group, `strata` the prompt of each group."""

    units: NDArray[np.int64]
    strata: Strata


def groups_of(batch: RolloutBatch) -> Groups | None:
    """The groups as units with the prompts as strata; None where a prompt has a single group."""
    pairs = torch.stack([batch.prompt, batch.group], dim=1).cpu()
    found, units = torch.unique(pairs, dim=0, return_inverse=True)
    strata = Strata(torch.unique(found[:, 0], return_inverse=True)[1].numpy())
    return Groups(units.numpy(), strata) if int(strata.counts.min()) > 1 else None


def leave_out(
    batch: RolloutBatch, units: NDArray[Any], totals: Callable[[RolloutBatch], dict[Key, Totals]]
) -> dict[Key, list[dict[str, Tensor]]]:
    """Derivatives without each unit in turn, computed anew on the rest and laid back into the rows of the batch.

    Args:
        batch: N sequences. units: [N], the number of each sequence's unit (a prompt, or a group).
        totals: the derivatives of every gradient wanted on any batch of rows.

    Returns for every key one mapping a unit, of [N, T] tensors that are zero on the unit left out.
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


def sums_by_unit(weights: Array, units: NDArray[np.int64]) -> Array:
    """Unit gradients of a method that couples samples or groups of one prompt only: [N, B] -> [n, N·B].

    Row j is n times the prompt's own part, so that the mean over rows is the gradient of the batch.
    """
    n = int(units.max()) + 1
    member = units[None, :] == np.arange(n)[:, None]
    return (n * member[:, :, None] * weights[None]).reshape(n, -1)


def pseudo_values(weights: Array, without: Sequence[Array]) -> Array:
    """Unit gradients of a method that couples the batch: n·ĝ − (n − 1)·ĝ₍₋ⱼ₎ but for a shift, [N, B] -> [n, N·B].

    The shift makes their mean ĝ, the gradient of this batch, and leaves their spread as it is: what is reported is an
    update from a batch of n prompts, and not its limit for many. `without[j]` are the weights [N, B] with prompt j left
    out. For a method that does not couple prompts this is what `sums_by_unit` gives.
    """
    n = len(without)
    rows = np.stack([(n * weights - (n - 1) * left).reshape(-1) for left in without])
    return rows - rows.mean(axis=0) + weights.reshape(1, -1)


def sums_by_group(weights: Array, groups: Groups) -> Array:
    """Group gradients of a method that couples samples of one group only: [N, B] -> [M, N·B].

    Row u is P · m_p times the group's own part, so that the mean over prompts of the mean over a prompt's m_p groups is
    the gradient of the batch.
    """
    strata = groups.strata
    member = groups.units[None, :] == np.arange(len(strata.of))[:, None]
    return ((member / strata.share[:, None])[:, :, None] * weights[None]).reshape(len(strata.of), -1)


def pseudo_values_by_group(weights: Array, without: Sequence[Array], groups: Groups) -> Array:
    """Group gradients of a method that couples the batch: [N, B] -> [M, N·B].

        ĝ + P m_p / M · (M − 1) · (ĝ − ĝ₍₋ᵤ₎),   less what makes their mean another than ĝ

    The second term is P m_p / M times the jackknife's estimate of the group's influence on the batch. For a method that
    does not couple groups, rows differ from `sums_by_group` by a shift for each prompt, which vanishes when all prompts
    have as many groups. `without[u]` are the weights [N, B] with group u left out.
    """
    strata, size = groups.strata, len(without)
    scale = (size - 1) / size / strata.share
    rows = np.stack([factor * (weights - left).reshape(-1) for factor, left in zip(scale, without, strict=True)])
    return weights.reshape(1, -1) + rows - strata.share @ rows
