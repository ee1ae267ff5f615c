"""Which sequences share a divisor where it is taken over each micro-batch, as gradient accumulation does."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import InputError, MissingInputError
from gradaxis.estimators.rollouts.batch import RolloutBatch

MICRO_BATCH = "micro_batch"
"""The label, or the number in provenance, that says which sequences go through the model together."""


def number_micro_batches(batch: RolloutBatch) -> Tensor | None:
    """The number of each sequence's micro-batch, int64 [N], in [0, N); None where the batch does not say.

    The label `micro_batch` names it for each sequence. Without one, `provenance["micro_batch"]` is how many consecutive
    sequences make one, the last of which may be smaller: then the order of the sequences matters, as it does in
    training.

    Raises:
        InputError: a size that is not a whole number of one or more.
    """
    if MICRO_BATCH in batch.labels:
        numbers = {name: place for place, name in enumerate(dict.fromkeys(batch.labels[MICRO_BATCH]))}
        found = [numbers[name] for name in batch.labels[MICRO_BATCH]]
        return torch.tensor(found, dtype=torch.int64, device=batch.device)
    size = batch.provenance.get(MICRO_BATCH)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"provenance: {MICRO_BATCH}", repr(size), "a whole number of sequences, one or more")
    return torch.arange(batch.size, device=batch.device) // size


def missing_micro_batches() -> MissingInputError:
    """The error for a divisor over micro-batches that nobody told."""
    remedy = f"give the sequences of a micro-batch (--microbatch), or label the rollouts with {MICRO_BATCH!r}"
    return MissingInputError(MICRO_BATCH, remedy)
