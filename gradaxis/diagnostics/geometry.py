"""The updates of a user's own training run, and what methods that couple the batch do in them.

Letters: P prompts a step, G rollouts a group, n prompts in the rollouts at hand, N their sequences, T positions,
M (prompt, group) pairs.

A step samples one group of G answers for each of P prompts and computes its advantages over all of them. Its sequences
are split into minibatches, with one optimizer step each, and these into micro-batches, whose gradients are averaged. So
group and batch statistics are those of a step, a divisor over the batch (token mean) is that of a minibatch, and one
with scope local is that of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradaxis.diagnostics.candidates import check_finite, totals_of
from gradaxis.diagnostics.config import ExperimentConfig
from gradaxis.diagnostics.units import Key, Totals
from gradaxis.diagnostics.variants import place, replace_slots
from gradaxis.errors import InputError, UsageError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.local_scope import MICRO_BATCH
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Registry

AT_GEOMETRY = "task at the user's geometry"
"""The part of a method's key under which its regrouped coefficients go."""


class Asked(NamedTuple):
    """What a user says of the training run: prompts a step, and sequences a minibatch and a micro-batch."""

    prompts: int
    minibatch: int | None = None
    microbatch: int | None = None


@dataclass(frozen=True)
class Geometry:
    """`prompts` a step, of one group of `group_size` each; `minibatch` and `microbatch` in sequences.

    Raises InputError for a minibatch that cuts through groups or does not divide the step, and for a micro-batch that
    does not divide the minibatch.
    """

    prompts: int
    group_size: int
    minibatch: int
    microbatch: int | None = None

    def __post_init__(self) -> None:
        step = self.prompts * self.group_size
        if self.minibatch % self.group_size or step % self.minibatch:
            expected = f"whole groups of {self.group_size} that divide a step of {step} sequences"
            raise InputError("--minibatch", f"{self.minibatch} sequences", expected)
        if self.microbatch is not None and self.minibatch % self.microbatch:
            expected = f"a number that divides a minibatch of {self.minibatch}"
            raise InputError("--microbatch", f"{self.microbatch} sequences", expected)

    @classmethod
    def of(cls, asked: Asked, group_size: int) -> Geometry:
        """With a minibatch of a whole step where none is asked for."""
        return cls(asked.prompts, group_size, asked.minibatch or asked.prompts * group_size, asked.microbatch)

    @property
    def update(self) -> int:
        """Prompts an optimizer step."""
        return self.minibatch // self.group_size

    @property
    def text(self) -> str:
        """In words."""
        parts = f"{self.prompts} prompts a step, groups of {self.group_size}"
        parts += f", updates of {self.update} prompts" if self.update != self.prompts else ""
        return parts + (f", micro-batches of {self.microbatch} sequences" if self.microbatch else "")


@dataclass(frozen=True)
class Pairs:
    """The (prompt, group) pairs: `of` [N] is the number of each sequence's pair, `prompt` [M] the unit of each."""

    of: NDArray[np.int64]
    prompt: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pairs a prompt, [n]."""
        return np.bincount(self.prompt)


def asked_by(config: ExperimentConfig) -> Asked | None:
    """What a configuration says of the training run, checked as far as the sizes of groups are known.

    Raises:
        UsageError: minibatches without prompts a step. InputError: sizes that do not divide into one another.
    """
    if config.prompts_per_step is None:
        if config.minibatch is not None:
            raise UsageError("--minibatch splits a step: give its prompts too (--prompts-per-step)")
        return None
    asked = Asked(config.prompts_per_step, config.minibatch, config.microbatch)
    if config.rollouts is None:
        Geometry.of(asked, config.group_size)
    return asked


def in_micro_batches_of(batch: RolloutBatch, size: int | None) -> RolloutBatch:
    """The rollouts with the size of a micro-batch in their provenance, unless None; a label still goes before it."""
    return batch if size is None else replace(batch, provenance={**batch.provenance, MICRO_BATCH: size})


class Part(NamedTuple):
    """Derivatives on some `rows` of a batch whose tokens have the shape [N, T]."""

    rows: Tensor
    values: Totals
    shape: torch.Size

    def laid_out(self) -> dict[str, Tensor]:
        """In the rows of the batch, zero elsewhere, [N, T]."""
        return {
            name: value.new_zeros(self.shape).index_copy(0, self.rows, value) for name, value in self.values.items()
        }


@dataclass(frozen=True)
class Regrouped:
    """One method in the steps of a geometry: `steps[s]` are derivatives of the mean over the step's updates, and
    `without[u]` those with pair u left out of its step (None where it is alone in it). `step` [M] is the step of each
    pair."""

    steps: Sequence[Part]
    without: Sequence[Part | None]
    step: NDArray[np.int64]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """All derivatives, which patterns should span."""
        return (part.laid_out() for part in (*self.steps, *self.without) if part is not None)


def pairs_of(batch: RolloutBatch) -> Pairs:
    """The pairs of a batch, in order of prompt and group."""
    keys = torch.stack([batch.prompt, batch.group], dim=1).cpu()
    found, of = torch.unique(keys, dim=0, return_inverse=True)
    return Pairs(of.numpy(), torch.unique(found[:, 0], return_inverse=True)[1].numpy())


def steps_of(pairs: Pairs, size: int) -> NDArray[np.int64]:
    """The step of each pair, [M]: no prompt twice in one, and about `size` pairs in each, or all where there are fewer.

    The first groups of all prompts make the first steps, the second groups the next ones, and so on.
    """
    first = np.cumsum(pairs.counts) - pairs.counts
    turn = np.arange(len(pairs.prompt)) - first[pairs.prompt]
    found, done = np.empty(len(pairs.prompt), dtype=np.int64), 0
    for number in range(int(pairs.counts.max())):
        chosen = np.flatnonzero(turn == number)
        pieces = evenly(len(chosen), size)
        found[chosen] = done + pieces
        done += int(pieces.max()) + 1
    return found


def evenly(count: int, size: int) -> NDArray[np.int64]:
    """Numbers of consecutive pieces of about `size`, as even as they can be, [count]."""
    pieces = max(1, round(count / size))
    return np.arange(count) * pieces // max(count, 1)


def at_geometry(estimator: CompiledEstimator, geometry: Geometry, registry: Registry) -> CompiledEstimator:
    """The estimator with its divisor taken over the micro-batches that it is given (`regroup` gives it minibatches
    where its own scope is the whole batch)."""
    method = estimator.method
    standing = method.slots["aggregation"] or (place(registry, "aggregate_tokens"),)
    local = tuple(
        replace(placed, parameters={**placed.parameters, "scope": "local"}) if "scope" in placed.parameters else placed
        for placed in standing
    )
    return compile(replace_slots(method, f"{method.label} at {geometry.text}", registry.methods, aggregation=local))


def regroup(
    estimator: CompiledEstimator, batch: RolloutBatch, pairs: Pairs, geometry: Geometry, registry: Registry, key: Key
) -> Regrouped:
    """A method's derivatives in the user's steps, whole and with each pair left out.

    Args:
        estimator: the method's task part. key: its key, which says what of its derivatives is the task part.

    Raises:
        GradaxisError: a step lacks what the method needs, or its coefficients are not finite.
    """
    own = any(placed.parameters.get("scope") == "local" for placed in estimator.method.slots["aggregation"])
    size = (geometry.microbatch or geometry.minibatch) if own else geometry.minibatch
    local = at_geometry(estimator, geometry, registry)
    step = steps_of(pairs, geometry.prompts)
    steps: list[Part] = []
    without: list[Part | None] = [None] * len(step)
    for number in range(int(step.max()) + 1):
        members = np.flatnonzero(step == number)
        rows = np.flatnonzero(np.isin(pairs.of, members))
        rows = rows[np.argsort(pairs.of[rows], kind="stable")]
        labels = dict(zip(rows, _micro_batches(pairs.of[rows], geometry, size), strict=True))
        steps.append(_derivatives(local, key, batch, rows, labels))
        for pair in members if len(members) > 1 else ():
            without[pair] = _derivatives(local, key, batch, rows[pairs.of[rows] != pair], labels)
    return Regrouped(steps, without, step)


def _micro_batches(of: NDArray[np.int64], geometry: Geometry, size: int) -> list[str]:
    """The micro-batch of each sequence of a step, whose rows stand in order of pairs. None spans two updates."""
    order = np.unique(of, return_inverse=True)[1]
    update = evenly(int(order.max()) + 1, geometry.update)[order]
    if size == geometry.minibatch:
        return [str(number) for number in update]
    within = np.concatenate([evenly(count, size) for count in np.bincount(update)])
    return [f"{number} {piece}" for number, piece in zip(update, within, strict=True)]


def _derivatives(
    estimator: CompiledEstimator, key: Key, batch: RolloutBatch, rows: NDArray[np.int64], labels: dict[int, str]
) -> Part:
    index = torch.from_numpy(rows).to(batch.device)
    names = {**batch.labels, MICRO_BATCH: tuple("" for _ in range(batch.size))}
    part = replace(batch, labels=names).rows(index)
    part = replace(part, labels={**part.labels, MICRO_BATCH: tuple(labels[row] for row in rows.tolist())})
    found = totals_of({key: estimator}, part)[key]
    check_finite(found, estimator.label)
    return Part(index, found, batch.tokens.shape)
