"""How much of each unit gradient lies in each parameter: Σ_j |u_j|² and |Σ_j u_j|², parameter by parameter.

A unit gradient is a combination of rows, u_j = Σ_r W[j, r] g_r, so both sums follow from what a sink holds of one
parameter: the inner products of all rows, or a sketch of them.

Letters: n units, R rows, M sets of units, D columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.gradients.hashes import Fold

ByParameter = Mapping[str, Mapping[str, tuple[float, float]]]
"""Parameter name to name of a set of units to (Σ_j |u_j|², |Σ_j u_j|²)."""

Units = Mapping[str, Any]
"""Name to weights [n, R]: a sparse matrix of scipy, an array or a tensor."""

FEW = 2
"""Up to so many units that hold a row, on average, inner products within units are picked one by one."""

FOLDED_COLUMNS = 1024
"""Columns a unit and parameter: a standard error of 4 % a unit, which the sum over units and parameters averages."""

FEWEST_COLUMNS = 128
SHARE_OF_MEMORY = 0.2
"""Of the memory that is free, for the sketches of unit gradients."""


def read_units(units: Units, rows: int, index: Tensor) -> dict[str, csr_array]:
    """The weights on the rows of `index`, of `rows` in all, in float64. Raises InputError for another shape."""
    found = {}
    for name, value in units.items():
        dense = value.detach().double().cpu().numpy() if isinstance(value, Tensor) else value
        matrix = csr_array(dense if issparse(dense) else np.asarray(dense, dtype=np.float64))
        if len(np.shape(value)) != 2 or np.shape(value)[1] != rows:
            raise InputError(f"units {name!r}", f"shape {tuple(np.shape(value))}", f"[units, {rows}]")
        found[name] = csr_array(matrix[:, index.cpu().numpy()], dtype=np.float64)
    return found


class ExactUnitSums:
    """From inner products of all rows. `add` is linear in them, so that a parameter may come in pieces.

    Units that hold few rows each are summed pair by pair. Those that hold many, and the sums over all units, go through
    products in float32.
    """

    def __init__(self, units: Mapping[str, csr_array], device: torch.device) -> None:
        self._names = tuple(units)
        sums = np.stack([np.asarray(weights.sum(axis=0)).reshape(-1) for weights in units.values()])
        size = sums.shape[1]
        picked = [name for name, weights in units.items() if weights.nnz <= FEW * size]
        squares = {name: csr_array(units[name].T @ units[name]) for name in picked}
        pattern = sum((abs(square) for square in squares.values()), csr_array((size, size))).tocoo()
        self._place = tuple(torch.from_numpy(axis.astype(np.int64)).to(device) for axis in (pattern.row, pattern.col))
        values = [np.asarray(square[pattern.row, pattern.col]).reshape(-1) for square in squares.values()]
        self._picked = torch.tensor([self._names.index(name) for name in picked], dtype=torch.int64, device=device)
        self._values = torch.from_numpy(np.stack(values)).to(device) if picked else None
        whole = {name: weights.toarray() for name, weights in units.items() if name not in picked}
        self._whole = [self._names.index(name) for name in whole]
        self._counts = [len(rows) for rows in whole.values()]
        self._rows = torch.from_numpy(np.concatenate([*whole.values(), sums])).float().to(device)
        self._found: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, product: Tensor) -> None:
        """Inner products [R, R], float64, of the rows' gradients in a parameter, or in a part of it."""
        none = product.new_zeros(len(self._names))
        each, whole = self._found.setdefault(name, (none, none.clone()))
        if self._values is not None:
            each.index_add_(0, self._picked, self._values @ product[self._place])
        squares = ((self._rows @ product.float()) * self._rows).sum(dim=1).double()
        parts = squares.split([*self._counts, len(self._names)])
        for number, part in zip(self._whole, parts[:-1], strict=True):
            each[number] += part.sum()
        whole += parts[-1]

    def result(self) -> ByParameter:
        return _collect(self._names, self._found)


class SketchedUnitSums:
    """From sketches [R, D] of the rows' gradients in one parameter, folded to fewer columns; unbiased.

    Args:
        units: weights on all R rows.
        columns: D.
        parameters: how many.
        memory: bytes that are free; a share of them is taken.
        generator: of the folding.
        device: where the sketches live.
    """

    def __init__(
        self, units: Mapping[str, csr_array], columns: int, generator: torch.Generator, device: torch.device,
        parameters: int, memory: int,
    ) -> None:  # fmt: skip
        self._names = tuple(units)
        self._weights = (
            torch.cat([torch.from_numpy(weights.toarray()) for weights in units.values()]).float().to(device)
        )
        self._counts = [len(sums) for sums in (weights.sum(axis=1) for weights in units.values())]
        folded = FOLDED_COLUMNS
        while folded > FEWEST_COLUMNS and self._bytes(parameters, folded) > SHARE_OF_MEMORY * memory:
            folded //= 2
        self.fits = self._bytes(parameters, folded) <= SHARE_OF_MEMORY * memory
        self._fold = Fold(columns, folded, generator)
        self._sketches: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}
        self._touched = torch.zeros(0, dtype=torch.int64, device=device)

    def _bytes(self, parameters: int, columns: int) -> int:
        return 4 * sum(self._counts) * parameters * columns

    def begin(self, rows: Tensor) -> None:
        """The rows (int64) of the next pass. What an earlier pass told without a `commit` is forgotten."""
        self._touched = self._weights[:, rows].ne(0).any(dim=1).nonzero()[:, 0]
        self._pending.clear()

    def add(self, name: str, rows: Tensor, sketch: Tensor) -> None:
        """The sketch [r, D] of the gradients of `rows` (int64) in one parameter, or in a part of it."""
        part = self._weights[self._touched[:, None], rows] @ self._fold(sketch).float()
        if name in self._pending:
            self._pending[name] += part
        else:
            self._pending[name] = part

    def commit(self) -> None:
        """Adds up what this pass told."""
        for name, part in self._pending.items():
            if name not in self._sketches:
                self._sketches[name] = part.new_zeros(len(self._weights), self._fold.columns)
            self._sketches[name].index_add_(0, self._touched, part)
        self._pending.clear()

    def result(self) -> ByParameter:
        found = {}
        for name, sketch in self._sketches.items():
            parts = sketch.double().split(self._counts)
            each = torch.stack([part.square().sum() for part in parts])
            found[name] = (each, torch.stack([part.sum(dim=0).square().sum() for part in parts]))
        return _collect(self._names, found)


def _collect(names: tuple[str, ...], found: Mapping[str, tuple[Tensor, Tensor]]) -> ByParameter:
    return {
        parameter: dict(zip(names, zip(each.tolist(), whole.tolist(), strict=True), strict=True))
        for parameter, (each, whole) in found.items()
    }
