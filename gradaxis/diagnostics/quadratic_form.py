"""Signal, noise and bias of many gradients at once, as quadratic forms on one Gram matrix.

Letters: A gradients, N sequences, B patterns, R = N·B rows, n prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradaxis.diagnostics.statistics.moments import Array

NUMBERS = ("square", "signal", "trace", "gain", "cosine", "efficiency")
"""What is told of every gradient; `diagnostics.combinations.Combinations` says what each means."""


@dataclass(frozen=True)
class Target:
    """What bias is measured against.

    Either `weights` [R] of an estimate on the same rollouts, whose inner products are then taken between different
    prompts only; or a direction that is known exactly, by its inner products `along` [R] with the rows and its `square`
    norm.
    """

    weights: Array | None = None
    along: Array | None = None
    square: float = 0.0


class QuadraticForm:
    """Quadratic forms of many combinations at once. Unit j of weights w is n times w on the rows of prompt j."""

    def __init__(self, matrix: Tensor, units: NDArray[np.int64], size: int, target: Target) -> None:
        self.units, self.n = units, int(units.max()) + 1
        prompt = torch.from_numpy(units).repeat_interleave(size)
        self._matrix, self._own = matrix, torch.where(prompt[:, None] == prompt, matrix, 0.0)
        self._target_units: Tensor | None = None
        if target.weights is None:
            assert target.along is not None, "a target has weights or inner products"
            self._along, self._square = torch.from_numpy(np.asarray(target.along, dtype=np.float64)), target.square
            return
        weights = torch.from_numpy(np.asarray(target.weights, dtype=np.float64)).reshape(-1)
        member = prompt == torch.arange(self.n)[:, None]
        self._target_units = (self.n * member * weights) @ matrix  # inner products of the rows with each unit
        self._along, self._target_own = weights @ matrix, weights @ self._own
        self._square = float(self._between(self._along @ weights, self._target_own @ weights))

    def score(self, weights: Tensor) -> dict[str, Array]:
        """`NUMBERS` of combinations with weights [A, R] that couple no prompts."""
        whole = (weights @ self._matrix * weights).sum(dim=1)
        own = (weights @ self._own * weights).sum(dim=1)
        inner = weights @ self._along
        if self._target_units is not None:  # within a prompt the two share their noise
            inner = self._between(inner, weights @ self._target_own)
        return self._numbers(whole, own, inner)

    def score_pseudo_values(self, weights: Tensor, without: Tensor) -> dict[str, Array]:
        """The same of combinations that couple the batch, from their weights with each prompt left out, [A, n, R]."""
        n = self.n
        rows = n * weights[:, None] - (n - 1) * without
        rows = rows - rows.mean(dim=1, keepdim=True) + weights[:, None]
        whole = (weights @ self._matrix * weights).sum(dim=1)
        own = (rows @ self._matrix * rows).sum(dim=(1, 2)) / n**2
        inner = weights @ self._along
        if self._target_units is not None:
            inner = self._between(inner, (rows * self._target_units).sum(dim=(1, 2)) / n**2)
        return self._numbers(whole, own, inner)

    def _between(self, whole: Tensor, own: Tensor) -> Tensor:
        """The mean over pairs of different prompts, from the sum over all rows and that within prompts."""
        return self.n / (self.n - 1) * (whole - own) if self.n > 1 else whole * torch.nan

    def _numbers(self, whole: Tensor, own: Tensor, inner: Tensor) -> dict[str, Array]:
        signal = self._between(whole, own)
        trace = self.n * self.n / (self.n - 1) * (own - whole / self.n) if self.n > 1 else whole * torch.nan
        square = self._square if self._square > 0 else float("nan")
        norm = torch.where(signal > 0, signal, torch.nan)
        found = {
            "square": whole, "signal": signal, "trace": trace, "gain": inner / square,
            "cosine": inner / (norm * square).sqrt(), "efficiency": inner.square() / (whole * square),
        }  # fmt: skip
        return {name: value.numpy() for name, value in found.items()}
