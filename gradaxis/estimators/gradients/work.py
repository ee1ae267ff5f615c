"""The two ways to all inner products: exactly in one backward pass, or projected in many.

Letters: N sequences, B patterns, R = N·B rows, L directions, T response positions, D sketch columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gradaxis.estimators.gradients.budget import shape_of
from gradaxis.estimators.gradients.choice import COMFORT, TOKENS_AT_ONCE, Problem, Way, exact_way, projected_way
from gradaxis.estimators.gradients.hashes import Hashes
from gradaxis.estimators.gradients.head import is_plain
from gradaxis.estimators.gradients.metric import Roots, in_metric
from gradaxis.estimators.gradients.passes import InstrumentedPass
from gradaxis.estimators.gradients.patterns import Patterns
from gradaxis.estimators.gradients.products import inner_products
from gradaxis.estimators.gradients.rest import add_rest
from gradaxis.estimators.gradients.sinks import GramSink, SketchSink
from gradaxis.estimators.gradients.sites import plan_sites
from gradaxis.estimators.gradients.taps import repeated_layers
from gradaxis.estimators.gradients.unit_sums import (
    ByParameter,
    ExactUnitSums,
    SketchedUnitSums,
    Units,
    read_units,
)
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.policies.inputs import ModelInputs
from gradaxis.estimators.quantities import at_least_float32
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.micro_batches import in_micro_batches


@dataclass(frozen=True)
class Found:
    """`matrix` [R, R], `directions` [R, L], `energy` name to [R]; `slow` names what no hook covered. Padding is 0.

    `by_parameter` is empty where no units were asked for, or where their sketches would not fit into memory.
    """

    matrix: Tensor
    directions: Tensor
    energy: Mapping[str, Tensor]
    slow: tuple[str, ...]
    by_parameter: ByParameter = field(default_factory=dict)


class GramWork:
    """One policy, batch and set of patterns, ready for either way.

    Args:
        policy: at whose selected parameters gradients are taken.
        batch: the responses, N.
        patterns: of the same sequences.
        directions: vectors in parameter space, name to tensor, on the policy's device.
        memory: bytes that may be used beside what is in use; by default what the policy's limit and the machine leave.
        columns: D.
        micro_batch: most sequences a pass, projected only.
        units: name to weights [n, N·B] of unit gradients whose share in each parameter is wanted.
        roots: of the weights of inner products, by parameter; `directions` come multiplied by them.
    """

    def __init__(
        self,
        policy: HuggingFacePolicy,
        batch: RolloutBatch,
        patterns: Patterns,
        directions: Sequence[Mapping[str, Tensor]] = (),
        memory: int | None = None,
        columns: int = 1,
        micro_batch: int | None = None,
        units: Units | None = None,
        roots: Roots | None = None,
    ) -> None:
        self._policy, self._directions, self._columns, self._roots = policy, directions, columns, roots
        self.memory = policy.memory_left() if memory is None else memory
        self._inputs: ModelInputs = policy.inputs(batch)
        self._rank, self._vectors = patterns.rank.to(policy.device), patterns.vectors.to(policy.device)
        self._quantities, self._size = patterns.quantities, patterns.size
        self._sequence, self._pattern = patterns.live.to(policy.device).nonzero(as_tuple=True)
        self._plain = is_plain(policy.model, self._inputs.rows(self._sequence.new_zeros(1)))
        index = self._sequence * self._size + self._pattern
        self._units = read_units(units or {}, len(self._vectors) * self._size, index)
        self.told_units = True  # until there turns out to be no memory for them
        self.shape = shape_of(policy, self._plain)
        self.problem = Problem(
            sequences=len(self._vectors), rows=self.rows, patterns=int(self._rank.max()),
            positions=self._inputs.ids.shape[1], answers=self._inputs.tokens.shape[1],
            tokens=float(self._inputs.attention.sum(dim=1).float().mean()), columns=columns,
            at_once=max(1, TOKENS_AT_ONCE.get(policy.device.type, TOKENS_AT_ONCE["cpu"]) // self._inputs.ids.shape[1]),
        )  # fmt: skip
        self.exact_way: Way
        self.projected_way: Way
        comfort = COMFORT if policy.device.type == "cpu" else None
        self.exact_way, self.recomputed = exact_way(self.shape, self.problem, self.memory, comfort)
        self.projected_way, self.micro_batch = projected_way(self.shape, self.problem, self.memory, micro_batch)

    @property
    def rows(self) -> int:
        """Gradients that are not padding."""
        return len(self._sequence)

    def exact(self, recompute: bool | None = None) -> Found:
        """All rows in one backward pass. `recompute` runs all layers again to save memory; as needed by default."""
        policy, count = self._policy, len(self._vectors) * self._size
        sums = ExactUnitSums(self._units, policy.device) if self._units and self.rows else None
        sink = GramSink(self.rows, self._directions, policy.device, sums)
        slow: tuple[str, ...] = ()
        if self.rows:
            layers = repeated_layers(policy.model)
            layers = layers[: self.recomputed] if recompute is None else layers if recompute else ()
            plan = plan_sites(policy.model, policy.parameters(), layers)
            inputs = self._inputs.rows(self._sequence)
            coefficients = self._coefficients(self._sequence, self._pattern, inputs)
            with InstrumentedPass(policy.model, inputs, plan, self._plain, layers) as instrumented:
                slow = instrumented.uncovered
                instrumented.backward(coefficients, in_metric(sink, self._roots))
            add_rest(policy, self._inputs, self._sequence, coefficients, slow, in_metric(sink, self._roots))
            sink.finish()
        index = self._sequence * self._size + self._pattern
        along = sink.directions.new_zeros(count, len(self._directions)).index_copy(0, index, sink.directions)
        energy = {name: value.new_zeros(count).index_copy(0, index, value) for name, value in sink.energy.items()}
        return Found(self._place(sink.matrix), along, energy, slow, sums.result() if sums is not None else {})

    def projected(self, generator: torch.Generator) -> Found:
        """Micro-batches of sequences, one pattern a backward pass, D columns kept a row."""
        policy, count = self._policy, len(self._vectors) * self._size
        parameters = policy.parameters()
        plan = plan_sites(policy.model, parameters)
        sizes = {name: value.numel() for name, value in parameters.items()}
        hashes = Hashes(self._columns, sizes, generator, policy.device)
        # Sequences of one rank go together, so that no pass carries rows without a pattern; the longest first.
        order = torch.stack([self._rank, self._inputs.attention.sum(dim=1)]).flip(0)
        order = torch.from_numpy(np.lexsort(order.cpu().numpy())).flip(0).to(policy.device)
        like = at_least_float32(next(iter(parameters.values())).detach())
        sketch = like.new_zeros(self._size, len(order), self._columns)
        along = torch.zeros(count, len(self._directions), dtype=torch.float64, device=policy.device)
        energy: dict[str, Tensor] = {}
        slow: dict[str, None] = {}
        sums = self._sketched_sums(generator, len(parameters))
        live = torch.zeros(count, dtype=torch.int64, device=policy.device)  # padding has no gradient, so 0 will do
        live[self._sequence * self._size + self._pattern] = torch.arange(self.rows, device=policy.device)

        tried = 0

        def run(piece: Sequence[int]) -> None:
            nonlocal tried
            place = slice(piece[0], piece[-1] + 1)
            if place.start < tried:  # by a larger piece that ran out of memory
                sketch[:, place] = 0.0
            tried = max(tried, place.stop)
            chosen = order[place]
            inputs = self._inputs.rows(chosen)
            most = int(self._rank[chosen].max())
            if most == 0:
                return
            if sums is not None:
                sums.begin(torch.isin(self._sequence, chosen).nonzero()[:, 0])
            passed: list[tuple[Tensor, dict[str, Tensor], SketchSink]] = []
            with InstrumentedPass(policy.model, inputs, plan, self._plain) as instrumented:
                for pattern in range(most):
                    coefficients = self._coefficients(chosen, torch.full_like(chosen, pattern), inputs)
                    rows = chosen * self._size + pattern
                    sink = SketchSink(sketch[pattern, place], self._directions, hashes, sums, live[rows])
                    instrumented.backward(coefficients, in_metric(sink, self._roots), again=pattern + 1 < most)
                    passed.append((rows, coefficients, sink))
            # What no hook covers needs parameters that are not frozen, so it waits for the end of the pass.
            rest = instrumented.uncovered
            slow.update(dict.fromkeys(rest))
            for rows, coefficients, sink in passed:
                add_rest(policy, self._inputs, chosen, coefficients, rest, in_metric(sink, self._roots))
                sink.finish()
                along[rows] = sink.directions
                for name, value in sink.energy.items():
                    energy.setdefault(name, along.new_zeros(count))[rows] = value
            if sums is not None:
                sums.commit()

        for _ in in_micro_batches(run, range(len(self._vectors)), self.micro_batch):
            pass
        back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=policy.device))
        matrix = self._place(inner_products(sketch[self._pattern, back[self._sequence]]))
        return Found(matrix, along, energy, tuple(slow), sums.result() if sums is not None else {})

    def _place(self, live: Tensor) -> Tensor:
        """Inner products of the R rows among those of padding, which are zero: [N·B, N·B]."""
        count = len(self._vectors) * self._size
        index = self._sequence * self._size + self._pattern
        matrix = live.new_zeros(count, count)
        matrix[index[:, None], index] = live
        return matrix

    def _sketched_sums(self, generator: torch.Generator, parameters: int) -> SketchedUnitSums | None:
        if not self._units or not self.rows:
            return None
        spare = self.memory - self.projected_way.bytes
        sums = SketchedUnitSums(self._units, self._columns, generator, self._policy.device, parameters, spare)
        self.told_units = sums.fits
        return sums if sums.fits else None

    def _coefficients(self, sequence: Tensor, pattern: Tensor, inputs: ModelInputs) -> dict[str, Tensor]:
        """Quantity to [rows, T], zero off the mask."""
        chosen = self._vectors[sequence, pattern, :, : inputs.mask.shape[1]]
        return {name: torch.where(inputs.mask, chosen[:, c], 0.0) for c, name in enumerate(self._quantities)}
