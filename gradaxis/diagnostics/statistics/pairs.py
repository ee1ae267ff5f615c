"""Moments from sums of inner products, for where the whole matrix of them is not wanted.

Letters as in `moments`: H[j, k] = <a_j, b_k> on n units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradaxis.diagnostics.statistics.moments import Array


@dataclass(frozen=True)
class Pairs:
    """What moments of second order need of H: `diagonal` H_jj, `rows` Σ_k H_jk and `columns` Σ_k H_kj, each [n]."""

    diagonal: Array
    rows: Array
    columns: Array

    @classmethod
    def of(cls, products: Array) -> Pairs:
        """Of the whole matrix [n, n]."""
        return cls(np.diagonal(products), products.sum(axis=1), products.sum(axis=0))

    @property
    def n(self) -> int:
        return len(self.diagonal)

    def transposed(self) -> Pairs:
        """Of <b_j, a_k>."""
        return Pairs(self.diagonal, self.columns, self.rows)

    def inner_of_means(self) -> float:
        """Unbiased <E a, E b>, as `moments.inner_of_means`."""
        n = self.n
        return float((self.rows.sum() - self.diagonal.sum()) / (n * (n - 1))) if n > 1 else float("nan")

    def trace_covariance(self) -> float:
        """Unbiased tr Cov(a, b), as `moments.trace_covariance`."""
        n = self.n
        return float((self.diagonal.sum() - self.rows.sum() / n) / (n - 1)) if n > 1 else float("nan")

    def leave_out_inner(self) -> Array:
        """`inner_of_means` without unit j, [n]. NaN for fewer than three units."""
        n = self.n
        rest = self._total_without() - self.diagonal.sum() + self.diagonal
        return rest / ((n - 1) * (n - 2)) if n > 2 else np.full(n, np.nan)

    def leave_out_trace(self) -> Array:
        """`trace_covariance` without unit j, [n]. NaN for fewer than three units."""
        n = self.n
        rest = self.diagonal.sum() - self.diagonal - self._total_without() / (n - 1)
        return rest / (n - 2) if n > 2 else np.full(n, np.nan)

    def _total_without(self) -> Array:
        return self.rows.sum() - self.rows - self.columns + self.diagonal
