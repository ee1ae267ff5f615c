"""The type of every trajectory: all that a method needs to know of it when another trajectory is judged.

Nothing is stated by hand. Every operator declares what it reads of other samples (`of_others`); the key is what those
reads are made of, as numbers that the sample alone decides. Two trajectories of one type can be exchanged behind the
back of a third.

Letters: N trajectories, T response positions, F numbers of a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradaxis.estimators.compile import CompiledEstimator
from gradaxis.estimators.flow import evaluate_reward
from gradaxis.estimators.gates import LABELS
from gradaxis.estimators.inputs import Inputs, prepare
from gradaxis.estimators.levels import get_turns, number_turns, widen
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Placed

SAME = 1e-12
"""Numbers of a key that differ by less, relative to their size, are one: sums in another order round otherwise."""

_FLOWING = frozenset({
    "advantage", "reward", "outcome", "streams", "weight", "token_weight", "counted", "counted_tokens", "peers",
})  # fmt: skip
"""What operators hand to one another. All other reads are the sample's own columns."""

Chain = list[tuple[str, Placed]]


def number_types(estimators: Sequence[CompiledEstimator], batch: RolloutBatch) -> Tensor:
    """The type of each trajectory, int64 [N]: trajectories of one prompt with equal numbers are alike to all others.

    Args:
        estimators: the type serves all of them at once.
        batch: the trajectories of a listing.
    """
    columns = [column for one in estimators for column in key_of(one, batch)]
    ranks = [_rank(batch.prompt.double())]
    ranks += [_rank(column) for block in columns for column in block.double().unbind(dim=1)]
    return torch.unique(torch.stack(ranks, dim=1), dim=0, return_inverse=True)[1]


def coupling_operators(method: Method) -> tuple[str, ...]:
    """`slot.operator` of everything that reads other samples."""
    return tuple(f"{key}.{p.label}" for key, items in method.all_slots().items() for p in items if p.of_others)


def key_of(estimator: CompiledEstimator, batch: RolloutBatch) -> list[Tensor]:
    """The parts of the key [N, f] of one method, in no order and with repetitions."""
    method = estimator.method
    columns = {name: batch.column(name) for name in estimator.quantities}
    reader = _Reader(method, prepare(batch, columns, estimator.quantities))
    found: list[Tensor] = []
    for slots in (method.slots, *method.streams.values()):
        chain = _chain(slots)
        for index, (_, placed) in enumerate(chain):
            found += reader.of_others(placed, chain, index)
    main = _chain(method.slots)
    for slot in ("ratio", "trust_region", "token_weight", "aggregation", "terms"):
        for placed in method.slots[slot]:
            found += reader.of_others(placed, main, len(main))
    return found


class _Reader:
    """What reads of operators are made of, for one method on one batch."""

    def __init__(self, method: Method, inputs: Inputs) -> None:
        self.method, self.inputs, self.batch = method, inputs, inputs.batch

    def of_others(self, placed: Placed, chain: Chain, index: int) -> Iterator[Tensor]:
        """All that an operator at a place of the reward side, or behind its end, reads of other samples."""
        for name in placed.of_others:
            yield from self.read(name, placed, chain, index)
        if placed.of_others:
            yield from self.gates(placed)

    def read(self, name: str, placed: Placed, chain: Chain, index: int) -> Iterator[Tensor]:
        """One read, resolved down to what the sample alone decides."""
        match name:
            case "advantage" | "reward":
                yield from self.value(chain, index)
            case "outcome":
                first = next((i for i, (slot, _) in enumerate(chain) if slot != "signal"), len(chain))
                yield self.outcome(chain[:first])
            case "counted":
                yield from self.selected()
                yield from self.dropped()
            case "counted_tokens":
                yield self.batch.mask
                yield from self.dropped()
            case "peers":
                if placed.over == "anchor_state":
                    yield from self.turns()
                    yield widen(get_turns(self.batch).anchor.double(), "turn", self.batch)
            case "streams":
                yield from self.turns()
                for slots in self.method.streams.values():
                    stream = _chain(slots)
                    yield from self.value(stream, len(stream))
            case "weight":
                yield from self.upstream(("ratio", "trust_region"))
            case "token_weight":
                yield from self.selected()
                yield from self.upstream(("token_weight",))
            case _:
                yield self.column(name, placed)

    def value(self, chain: Chain, index: int) -> Iterator[Tensor]:
        """The flowing value before a place: as it is before the first comparison, and what was added since.

        What follows a comparison depends on the others too; but given what the key holds of everybody, it is decided
        by this value and by what later operators read of the sample itself.
        """
        first = next((i for i in range(index) if chain[i][1].of_others), index)
        found = evaluate_reward(_unchain(chain[:first]), self.streams_of(chain[:first]), self.inputs)
        if found.level == "sample":
            start = self.batch.mask.to(torch.int64).argmax(dim=1, keepdim=True)
            yield found.value.gather(1, start)
        else:
            yield found.value
            yield self.batch.mask
        if found.level == "turn":
            yield from self.turns()
        for _, placed in chain[first:index]:
            yield from self.own(placed, chain, index)

    def outcome(self, chain: Chain) -> Tensor:
        """The reward as the signal left it, [N, 1]."""
        return evaluate_reward(_unchain(chain), {}, self.inputs).outcome.unsqueeze(1)

    def own(self, placed: Placed, chain: Chain, index: int) -> Iterator[Tensor]:
        """What an operator reads of the sample itself, its gate included."""
        for name in placed.declaration.reads:
            if name not in _FLOWING or name == "streams":
                yield from self.read(name, placed, chain, index)
        yield from self.gates(placed)

    def dropped(self) -> Iterator[Tensor]:
        """What decides which of a sample's tokens divisors leave out."""
        for slot in ("trust_region", "token_weight"):
            if any(placed.parameters.get("statistics") == "kept" for placed in self.method.slots[slot]):
                yield from self.upstream(("ratio", "trust_region", slot))

    def upstream(self, slots: Sequence[str]) -> Iterator[Tensor]:
        """What the operators of some trajectory slots read of a sample, and the advantage where they read it."""
        chain = _chain(self.method.slots)
        for slot in slots:
            for placed in self.method.slots[slot]:
                yield from self.own(placed, chain, len(chain))
                if "advantage" in placed.reads:
                    yield from self.value(chain, len(chain))

    def selected(self) -> Iterator[Tensor]:
        """What decides whether a sample is kept, beside its group: what selection reads of it."""
        chain = _chain(self.method.slots)
        for index, (slot, placed) in enumerate(chain):
            if slot == "selection":
                for name in placed.declaration.reads:
                    if name != "counted":
                        yield from self.read(name, placed, chain, index)
                yield from self.gates(placed)

    def gates(self, placed: Placed) -> Iterator[Tensor]:
        for name in placed.where or {}:
            if name == "truncated":
                yield self.batch.truncated.unsqueeze(1)
            elif name in LABELS:
                labels = self.batch.labels[name]
                known = {label: number for number, label in enumerate(dict.fromkeys(labels))}
                yield torch.tensor([[known[label]] for label in labels], device=self.batch.device)

    def turns(self) -> Iterator[Tensor]:
        """Where the sample's own turns lie: at each token the turn's number in its sequence, from 1."""
        number = number_turns(self.batch)
        first = torch.where(number > 0, number, number.max()).amin(dim=1, keepdim=True)
        yield torch.where(number > 0, number - first + 1, 0)
        yield self.batch.mask

    def column(self, name: str, placed: Placed) -> Tensor:
        """A read of the batch as numbers of each sample, [N, f]; a setting that all share is no part of the key."""
        value: Any = self.inputs.read(name, placed)
        if not isinstance(value, Tensor):
            return torch.zeros(self.batch.size, 0, device=self.batch.device)
        if name == "turn_reward":
            value = widen(value, "turn", self.batch)
        return value.detach().reshape(self.batch.size, -1)

    def streams_of(self, chain: Chain) -> Mapping[str, Any]:
        """The streams, where the chain has come to add them up."""
        return self.method.streams if any("streams" in p.declaration.reads for _, p in chain) else {}


def _chain(slots: Mapping[str, tuple[Placed, ...]]) -> Chain:
    """The operators of the reward slots in the order in which they act."""
    early = [(slot, placed) for slot in ("signal", "shaping", "selection") for placed in slots.get(slot, ())]
    credit = [("credit", placed) for placed in slots.get("credit", ())]
    middle = [(slot, placed) for slot in ("baseline", "scale") for placed in slots.get(slot, ())]
    accrued = [item for item in credit if item[1].stage == "accrue"]
    return [*early, *accrued, *middle, *(item for item in credit if item[1].stage != "accrue")]


def _unchain(chain: Chain) -> dict[str, tuple[Placed, ...]]:
    return {slot: tuple(placed for other, placed in chain if other == slot) for slot, _ in chain}


def _rank(value: Tensor) -> Tensor:
    """The rank of each number among those that differ, [N]."""
    ordered, order = value.sort(stable=True)
    apart = ordered.diff() > SAME * ordered[1:].abs().clamp(min=1.0)
    ranks = torch.cat([apart.new_zeros(1), apart]).to(torch.int64).cumsum(0)
    return torch.empty_like(ranks).scatter(0, order, ranks)
