"""Where per-row gradients go: contracted as they come, never kept.

Letters: R rows, L directions, D columns of a sketch. A parameter is seen as a matrix: its last dimension are the
columns, everything before it the rows; a vector is one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gradaxis.estimators.quantities import at_least_float32

COLUMNS_AT_ONCE = 8192
"""Columns of one product. A float32 product over 10⁸ columns lost 2.6 % of a norm; sums of short ones are float64."""


class Sink(Protocol):
    """Takes the gradients of rows `rows` of parameter `name`, [R, rows, columns]."""

    def add(self, name: str, rows: slice | Tensor, block: Tensor) -> None: ...


class GramSink:
    """Exact: inner products `matrix` [R, R], `directions` [R, L], and `energy`, name to squared norms [R]; float64."""

    def __init__(self, rows: int, directions: Sequence[Mapping[str, Tensor]], device: torch.device) -> None:
        self.matrix = torch.zeros(rows, rows, dtype=torch.float64, device=device)
        self.directions = torch.zeros(rows, len(directions), dtype=torch.float64, device=device)
        self.energy: dict[str, Tensor] = {}
        self._given = directions

    def add(self, name: str, rows: slice | Tensor, block: Tensor) -> None:
        flat = block.flatten(1)
        along = stack_rows(self._given, name, rows, block)
        energy = self.energy.setdefault(name, torch.zeros_like(self.matrix[:, 0]))
        for start in range(0, flat.shape[1], COLUMNS_AT_ONCE):
            piece = flat[:, start : start + COLUMNS_AT_ONCE]
            product = (piece @ piece.T).double()
            self.matrix += product
            energy += product.diagonal()
            if along is not None:
                self.directions += (piece @ along[:, start : start + COLUMNS_AT_ONCE].T).double()


class SketchSink:
    """Projected: `sketch` [R, D], whose inner products estimate those of the gradients.

    `directions` and `energy` are exact, as in `GramSink`.

    A count sketch: every parameter value goes to one column, with a random sign. Runs of D values are spread over all
    columns in order, from a random first column, so that two values of one run never meet and two of different runs
    meet with probability 1/D. Hence inner products are unbiased, with variance at most (|u|²|v|² + ⟨u, v⟩²)/D.
    """

    def __init__(self, rows: int, directions: Sequence[Mapping[str, Tensor]], hashes: Hashes, like: Tensor) -> None:
        self.sketch = torch.zeros(rows, hashes.columns, dtype=at_least_float32(like).dtype, device=like.device)
        self.directions = torch.zeros(rows, len(directions), dtype=torch.float64, device=like.device)
        self.energy: dict[str, Tensor] = {}
        self._given, self._hashes = directions, hashes

    def add(self, name: str, rows: slice | Tensor, block: Tensor) -> None:
        flat = block.flatten(1)
        along = stack_rows(self._given, name, rows, block)
        energy = self.energy.setdefault(name, torch.zeros(len(flat), dtype=torch.float64, device=flat.device))
        energy += torch.linalg.vector_norm(flat, dim=1).double().square()
        if along is not None:
            for start in range(0, flat.shape[1], COLUMNS_AT_ONCE):
                window = slice(start, start + COLUMNS_AT_ONCE)
                self.directions += (flat[:, window] @ along[:, window].T).double()
        width = block.shape[2]
        if isinstance(rows, Tensor):
            place = (rows[:, None] * width + torch.arange(width, device=rows.device)).flatten()
            column, sign = self._hashes.lookup(name, place)
            self.sketch.index_add_(1, column, flat * sign)
            return
        first = (rows.start or 0) * width
        for begin, end, column in self._hashes.runs(name, first, first + flat.shape[1]):
            sign = self._hashes.signs(name)[begin:end].to(flat.dtype)
            self.sketch[:, column : column + end - begin].addcmul_(flat[:, begin - first : end - first], sign)


class Hashes:
    """The seeded columns and signs of a count sketch with D columns, the same whenever they are asked for.

    Args:
        columns: D.
        sizes: parameter name to number of values.
        generator: the only source of randomness.
        device: where the signs live, one byte a parameter value.
    """

    def __init__(
        self, columns: int, sizes: Mapping[str, int], generator: torch.Generator, device: torch.device
    ) -> None:
        self.columns = columns
        self._signs: dict[str, Tensor] = {}
        self._shifts: dict[str, list[int]] = {}
        for name, size in sizes.items():
            options = {"generator": generator, "device": generator.device}
            bits = torch.randint(0, 2, (size,), dtype=torch.int8, **options)
            shifts = torch.randint(0, columns, (-(-size // columns),), **options)
            self._signs[name], self._shifts[name] = (2 * bits - 1).to(device), shifts.tolist()

    def signs(self, name: str) -> Tensor:
        """±1 for each value of a parameter, int8."""
        return self._signs[name]

    def lookup(self, name: str, place: Tensor) -> tuple[Tensor, Tensor]:
        """Column and sign of the values at flat positions `place` (int64)."""
        shifts = torch.tensor(self._shifts[name], device=place.device)
        return (place % self.columns + shifts[place // self.columns]) % self.columns, self._signs[name][place]

    def runs(self, name: str, start: int, end: int) -> list[tuple[int, int, int]]:
        """Pieces (begin, end, first column) of the flat positions start to end that lie on consecutive columns."""
        found = []
        while start < end:
            run, offset = divmod(start, self.columns)
            column = (offset + self._shifts[name][run]) % self.columns
            stop = min(end, (run + 1) * self.columns, start + self.columns - column)
            found.append((start, stop, column))
            start = stop
        return found


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
