"""Where per-row gradients go: contracted as they come, never kept.

Letters: R rows, L directions, D columns of a sketch. A parameter is seen as a matrix: its last dimension are the
columns, everything before it the rows; a vector is one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gradaxis.estimators.gradients.hashes import Hashes
from gradaxis.estimators.gradients.products import COLUMNS_AT_ONCE, add_below, mirror
from gradaxis.estimators.gradients.unit_sums import ExactUnitSums, SketchedUnitSums


class Sink(Protocol):
    """Takes the gradients of rows `rows` of parameter `name`, [R, rows, columns]."""

    def add(self, name: str, rows: slice | Tensor, block: Tensor) -> None: ...


class GramSink:
    """Exact: inner products `matrix` [R, R], `directions` [R, L], and `energy`, name to squared norms [R]; float64.

    `sums` is told the inner products in every parameter alone, if given. Call `finish` after the last block.
    """

    def __init__(
        self, rows: int, directions: Sequence[Mapping[str, Tensor]], device: torch.device,
        sums: ExactUnitSums | None = None,
    ) -> None:  # fmt: skip
        self.matrix = torch.zeros(rows, rows, dtype=torch.float64, device=device)
        self.directions = torch.zeros(rows, len(directions), dtype=torch.float64, device=device)
        self.energy: dict[str, Tensor] = {}
        self._given, self._sums = directions, sums
        self._alone = self.matrix if sums is None else torch.zeros_like(self.matrix)
        self._name = ""

    def add(self, name: str, rows: slice | Tensor, block: Tensor) -> None:
        flat = block.flatten(1)
        along = stack_rows(self._given, name, rows, block)
        if along is not None:
            add_along(self.directions, flat, along)
        add_energy(self.energy, name, flat)
        if self._sums is not None and name != self._name:
            self._hand_over()
            self._name = name
        add_below(self._alone, flat)

    def finish(self) -> None:
        """Completes `matrix`, and tells what is known of the last parameter."""
        if self._sums is not None:
            self._hand_over()
        mirror(self.matrix)

    def _hand_over(self) -> None:
        if self._sums is not None and self._name:
            self.matrix += self._alone
            mirror(self._alone)
            self._sums.add(self._name, self._alone)
            self._alone.zero_()


class SketchSink:
    """Projected: adds to a `sketch` [R, D], whose inner products estimate those of the gradients.

    `directions` and `energy` are exact, as in `GramSink`.

    A count sketch: every parameter value goes to one column, with a random sign. Runs of D values are spread over all
    columns in order, from a random first column, so that two values of one run never meet and two of different runs
    meet with probability 1/D. Hence inner products are unbiased, with variance at most (|u|²|v|² + ⟨u, v⟩²)/D.

    `sums` is told the sketch of every parameter alone, if given, with `places` [R], the rows' numbers; call `finish`
    after the last block then.
    """

    def __init__(
        self, sketch: Tensor, directions: Sequence[Mapping[str, Tensor]], hashes: Hashes,
        sums: SketchedUnitSums | None = None, places: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.sketch = sketch
        self.directions = torch.zeros(len(sketch), len(directions), dtype=torch.float64, device=sketch.device)
        self.energy: dict[str, Tensor] = {}
        self._given, self._hashes, self._sums, self._places = directions, hashes, sums, places
        self._alone = torch.zeros_like(self.sketch) if sums is not None else None
        self._name = ""

    def add(self, name: str, rows: slice | Tensor, block: Tensor) -> None:
        flat = block.flatten(1)
        along = stack_rows(self._given, name, rows, block)
        add_energy(self.energy, name, flat)
        if along is not None:
            add_along(self.directions, flat, along)
        target = self._target(name)
        width = block.shape[2]
        if isinstance(rows, Tensor):
            place = (rows[:, None] * width + torch.arange(width, device=rows.device)).flatten()
            column, sign = self._hashes.lookup(name, place)
            target.index_add_(1, column, flat * sign)
            return
        first = (rows.start or 0) * width
        for begin, end, column in self._hashes.runs(name, first, first + flat.shape[1]):
            sign = self._hashes.signs(name)[begin:end].to(flat.dtype)
            target[:, column : column + end - begin].addcmul_(flat[:, begin - first : end - first], sign)

    def finish(self) -> None:
        """Hands over what is known of the last parameter."""
        if self._sums is not None and self._alone is not None and self._places is not None and self._name:
            self.sketch += self._alone
            self._sums.add(self._name, self._places, self._alone)
            self._alone.zero_()

    def _target(self, name: str) -> Tensor:
        """Where the values of a parameter are added: to all others, or apart from them until the next one comes."""
        if self._alone is None:
            return self.sketch
        if name != self._name:
            self.finish()
            self._name = name
        return self._alone


def add_energy(energy: dict[str, Tensor], name: str, flat: Tensor) -> None:
    """Adds the squared norms of rows [R, K] to those of a parameter, float64 [R]."""
    found = torch.linalg.vector_norm(flat, dim=1).double().square()
    energy[name] = energy[name] + found if name in energy else found


def add_along(directions: Tensor, flat: Tensor, along: Tensor) -> None:
    """Adds the inner products of rows [R, K] with parts of directions [L, K] to `directions` [R, L]."""
    for start in range(0, flat.shape[1], COLUMNS_AT_ONCE):
        window = slice(start, start + COLUMNS_AT_ONCE)
        directions += flat[:, window] @ along[:, window].T


def as_matrix(value: Tensor) -> Tensor:
    """A parameter as a matrix: [everything before the last dimension, last dimension]."""
    return value.reshape(-1, value.shape[-1]) if value.dim() else value.reshape(1, 1)


def stack_rows(
    directions: Sequence[Mapping[str, Tensor]], name: str, rows: slice | Tensor, like: Tensor
) -> Tensor | None:
    """The part of every direction that meets a block, [L, rows · columns], or None without directions."""
    if not directions:
        return None
    return torch.stack([as_matrix(vector[name])[rows].flatten() for vector in directions]).to(like)
