"""`where`: the entries on which an operator acts, a conjunction of `column: value` over the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import MissingInputError, NotYetError
from gradaxis.estimators.levels import Level, spread
from gradaxis.estimators.peers import number_peers, sum_by_peers
from gradaxis.estimators.rollouts.batch import RolloutBatch

LABELS = ("role", "source")
RIGHT = 1.0
"""An answer counts as right, for `group`, when its outcome reward is at least this."""


def open_gate(where: Mapping[str, Any], value: Tensor, level: Level, outcome: Tensor, batch: RolloutBatch) -> Tensor:
    """True on the entries that a gate lets an operator act on, bool, of the shape of `value`.

    Args:
        where: the conjunction. `sign`: positive, negative or zero, of `value`; `group`: all-right, all-wrong or mixed,
            by the outcome; `truncated`: true or false; `role` and `source`: a label of the sample.
        value: the flowing reward or advantage at `level`.
        outcome: the outcome reward, [N].

    Raises:
        NotYetError: another column. MissingInputError: a label that the batch lacks.
    """
    gate = torch.ones_like(value, dtype=torch.bool)
    for column, wanted in where.items():
        if column == "sign":
            gate = gate & {"positive": value > 0, "negative": value < 0, "zero": value == 0}[wanted]
        else:
            gate = gate & spread(_of_samples(column, wanted, outcome, batch), level, batch)
    return gate


def _of_samples(column: str, wanted: Any, outcome: Tensor, batch: RolloutBatch) -> Tensor:
    if column == "truncated":
        return batch.truncated == wanted
    if column == "group":
        groups = number_peers(batch.group)
        right = sum_by_peers((outcome >= RIGHT).to(torch.int64), groups)
        size = sum_by_peers(torch.ones_like(groups), groups)
        return {"all-right": right == size, "all-wrong": right == 0, "mixed": (right > 0) & (right < size)}[wanted]
    if column in LABELS:
        if column not in batch.labels:
            raise MissingInputError(column, f"add the label {column!r} to the rollouts")
        chosen = [label == wanted for label in batch.labels[column]]
        return torch.tensor(chosen, dtype=torch.bool, device=batch.device)
    raise NotYetError(f"a gate on {column!r} is not computed yet")
