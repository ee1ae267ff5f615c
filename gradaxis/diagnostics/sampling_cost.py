"""What a method's updates cost in sampled tokens: greedy answers, and groups that are drawn and not used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gradaxis.diagnostics.candidates import Candidate
from gradaxis.diagnostics.statistics import Array
from gradaxis.errors import MissingInputError
from gradaxis.estimators.rollouts.batch import RolloutBatch

REFILLED = "refilled"
DRAWS = "draws_per_kept"
"""In provenance of rollouts that were refilled: how many groups were drawn for each that was kept."""


class Kept(NamedTuple):
    """The share of groups that a method's selection keeps, and without each prompt in turn, [n]."""

    value: float
    without: Array


def greedy_cost(candidate: Candidate, batch: RolloutBatch, groups: int = 1) -> float:
    """Sampled tokens for each of the tokens that a batch of so many groups a prompt is made of, 1 or more.

    A method that needs greedy answers pays for one a prompt.
    """
    if not any(need.column == "companion:greedy" for need in candidate.estimator.needs):
        return 1.0
    prompts = batch.prompt.unique()
    greedy = batch.companion("greedy")
    asked = torch.isin(greedy.prompt, prompts)
    answers = max(1.0, float(asked.sum()) / len(prompts))  # several greedy answers to one prompt count as one
    one = float(greedy.length[asked].sum()) / answers / len(prompts)
    return 1.0 + one / (groups * tokens_a_group(batch))


def tokens_a_group(batch: RolloutBatch) -> float:
    """Mean policy tokens of a group."""
    pairs = torch.stack([batch.prompt, batch.group], dim=1).unique(dim=0)
    return float(batch.length.sum()) / len(pairs)


def draw_cost(batch: RolloutBatch) -> float:
    """Groups that were drawn for each group of the rollouts: 1 unless only some were kept.

    Raises MissingInputError where rollouts were refilled and do not say.
    """
    if batch.provenance.get("law") != REFILLED:
        return 1.0
    if DRAWS not in batch.provenance:
        raise MissingInputError(DRAWS, "store how many groups were drawn for each that was kept in the provenance")
    return float(batch.provenance[DRAWS])


def refills(candidate: Candidate) -> bool:
    """Whether the method draws further groups in place of those that its selection drops."""
    return any(placed.declaration.law == REFILLED for placed in candidate.method.slots["sampling"])


def kept_share(candidate: Candidate, batch: RolloutBatch, units: NDArray[np.int64]) -> Kept:
    """The share of groups of these rollouts of which the method's selection keeps anything.

    Args:
        units: the prompt of each sequence, counted from 0, [N].
    """
    kept = candidate.estimator.kept(batch).cpu().numpy()
    group, first = np.unique(torch.stack([batch.prompt, batch.group], 1).cpu().numpy(), axis=0, return_inverse=True)
    first = first.reshape(-1)
    used = np.bincount(first, kept, len(group)) > 0
    prompt = np.zeros(len(group), dtype=np.int64)
    prompt[first] = units
    all_of, used_of = np.bincount(prompt), np.bincount(prompt, used)
    left = np.maximum(all_of.sum() - all_of, 1)
    return Kept(float(used.mean()), (used_of.sum() - used_of) / left)
