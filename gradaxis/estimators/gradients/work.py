"""The two ways to all inner products: exactly in one backward pass, or projected in many.

Letters: N sequences, B patterns, R = N·B rows, L directions, T response positions, D sketch columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.estimators.gradients.budget import (
    USABLE,
    activation_bytes,
    exact_bytes,
    exact_is_affordable,
    free_memory,
)
from gradaxis.estimators.gradients.head import is_plain
from gradaxis.estimators.gradients.passes import InstrumentedPass
from gradaxis.estimators.gradients.patterns import Patterns
from gradaxis.estimators.gradients.rest import add_rest
from gradaxis.estimators.gradients.sinks import GramSink, Hashes, SketchSink
from gradaxis.estimators.gradients.sites import plan_sites
from gradaxis.estimators.gradients.taps import repeated_layers
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.policies.inputs import ModelInputs
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.micro_batches import in_micro_batches

SEQUENCES_AT_ONCE = 16
"""Most sequences of a pass that is projected; more gain nothing."""


@dataclass(frozen=True)
class Found:
    """`matrix` [R, R], `directions` [R, L], `energy` name to [R]; `slow` names what no hook covered. Padding is 0."""

    matrix: Tensor
    directions: Tensor
    energy: Mapping[str, Tensor]
    slow: tuple[str, ...]


class GramWork:
    """One policy, batch and set of patterns, ready for either way.

    Args:
        policy: at whose selected parameters gradients are taken.
        batch: the responses, N.
        patterns: of the same sequences.
        directions: vectors in parameter space, name to tensor, on the policy's device.
        memory: bytes that may be used; by default most of what is free.
    """

    def __init__(
        self,
        policy: HuggingFacePolicy,
        batch: RolloutBatch,
        patterns: Patterns,
        directions: Sequence[Mapping[str, Tensor]] = (),
        memory: int | None = None,
    ) -> None:
        self._policy, self._directions = policy, directions
        self._memory = memory or int(USABLE * free_memory(policy.device))
        self._inputs: ModelInputs = policy.inputs(batch)
        self._rank, self._vectors = patterns.rank.to(policy.device), patterns.vectors.to(policy.device)
        self._quantities, self._size = patterns.quantities, patterns.size
        self._sequence, self._pattern = patterns.live.to(policy.device).nonzero(as_tuple=True)
        self._plain = is_plain(policy.model, self._inputs.rows(self._sequence.new_zeros(1)))

    @property
    def rows(self) -> int:
        """Gradients that are not padding."""
        return len(self._sequence)

    def exact_fits(self) -> bool:
        """Whether the exact way stays within memory, and its products within a few times the passes."""
        positions, answers = self._inputs.ids.shape[1], self._inputs.tokens.shape[1]
        need = exact_bytes(self._policy, self.rows, positions, answers, self._plain, recomputed=True)
        return need <= self._memory and exact_is_affordable(self._policy, self.rows, positions, self._size)

    def exact(self, recompute: bool | None = None) -> Found:
        """All rows in one backward pass. `recompute` runs layers again to save memory; as needed by default."""
        policy, count = self._policy, len(self._vectors) * self._size
        sink = GramSink(self.rows, self._directions, policy.device)
        slow: tuple[str, ...] = ()
        if self.rows:
            if recompute is None:
                every = activation_bytes(policy, self.rows, self._inputs.ids.shape[1], recomputed=False)
                recompute = 2 * every > self._memory
            layers = repeated_layers(policy.model) if recompute else ()
            plan = plan_sites(policy.model, policy.parameters(), layers)
            inputs = self._inputs.rows(self._sequence)
            coefficients = self._coefficients(self._sequence, self._pattern, inputs)
            with InstrumentedPass(policy.model, inputs, plan, self._plain, layers) as instrumented:
                slow = instrumented.uncovered
                instrumented.backward(coefficients, sink)
            add_rest(policy, self._inputs, self._sequence, coefficients, slow, sink)
        index = self._sequence * self._size + self._pattern
        matrix = sink.matrix.new_zeros(count, count)
        matrix[index[:, None], index] = sink.matrix
        along = sink.directions.new_zeros(count, len(self._directions)).index_copy(0, index, sink.directions)
        energy = {name: value.new_zeros(count).index_copy(0, index, value) for name, value in sink.energy.items()}
        return Found(matrix, along, energy, slow)

    def projected(self, columns: int, generator: torch.Generator, micro_batch: int | None = None) -> Found:
        """Micro-batches of sequences, one pattern a backward pass, D columns kept a row."""
        policy, count = self._policy, len(self._vectors) * self._size
        parameters = policy.parameters()
        plan = plan_sites(policy.model, parameters)
        like = next(iter(parameters.values())).detach()
        sizes = {name: value.numel() for name, value in parameters.items()}
        hashes = Hashes(columns, sizes, generator, policy.device)
        sketch = SketchSink(count, (), hashes, like).sketch
        along = torch.zeros(count, len(self._directions), dtype=torch.float64, device=policy.device)
        energy: dict[str, Tensor] = {}
        slow: dict[str, None] = {}

        def run(piece: Sequence[int]) -> None:
            chosen = torch.tensor(list(piece), device=policy.device)
            inputs = self._inputs.rows(chosen)
            most = int(self._rank[chosen].max())
            if most == 0:
                return
            with InstrumentedPass(policy.model, inputs, plan, self._plain) as instrumented:
                slow.update(dict.fromkeys(instrumented.uncovered))
                for pattern in range(most):
                    coefficients = self._coefficients(chosen, torch.full_like(chosen, pattern), inputs)
                    sink = SketchSink(len(chosen), self._directions, hashes, like)
                    instrumented.backward(coefficients, sink, again=pattern + 1 < most)
                    add_rest(policy, self._inputs, chosen, coefficients, instrumented.uncovered, sink)
                    rows = chosen * self._size + pattern
                    sketch[rows], along[rows] = sink.sketch, sink.directions
                    for name, value in sink.energy.items():
                        energy.setdefault(name, along.new_zeros(count))[rows] = value

        for _ in in_micro_batches(run, range(len(self._vectors)), micro_batch or self._sequences_at_once()):
            pass
        sketch = sketch.double()
        return Found(sketch @ sketch.T, along, energy, tuple(slow))

    def _sequences_at_once(self) -> int:
        one = activation_bytes(self._policy, 1, self._inputs.ids.shape[1], recomputed=False)
        return max(1, min(SEQUENCES_AT_ONCE, self._memory // (2 * one)))

    def _coefficients(self, sequence: Tensor, pattern: Tensor, inputs: ModelInputs) -> dict[str, Tensor]:
        """Quantity to [rows, T], zero off the mask."""
        chosen = self._vectors[sequence, pattern, :, : inputs.mask.shape[1]]
        return {name: torch.where(inputs.mask, chosen[:, c], 0.0) for c, name in enumerate(self._quantities)}
