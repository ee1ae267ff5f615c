"""The random columns and signs of a count sketch.

Letters: D columns of a sketch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FEW = 2**24
"""Values up to which signs are kept as numbers to multiply with, four bytes each and not one."""


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
            signs = (2 * bits - 1).to(device)
            self._signs[name] = signs.float() if sum(sizes.values()) <= FEW else signs
            self._shifts[name] = shifts.tolist()

    def signs(self, name: str) -> Tensor:
        """±1 for each value of a parameter."""
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


class Fold:
    """A sketch of D columns folded to fewer, still unbiased: its parts are turned by random amounts and added up.

    Two values of one part never meet; two of different parts meet with probability one over the columns that are left.
    """

    def __init__(self, columns: int, folded: int, generator: torch.Generator) -> None:
        self.columns = min(columns, folded)
        self._parts = -(-columns // self.columns)
        self._missing = self._parts * self.columns - columns
        turns = torch.randint(0, self.columns, (self._parts,), generator=generator, device=generator.device)
        self._turns = turns.tolist()

    def __call__(self, sketch: Tensor) -> Tensor:
        """[R, D] to [R, columns]."""
        parts = torch.nn.functional.pad(sketch, (0, self._missing)).unflatten(1, (self._parts, self.columns))
        return torch.stack([parts[:, part].roll(turn, dims=1) for part, turn in enumerate(self._turns)]).sum(dim=0)
