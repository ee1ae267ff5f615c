"""Inner products of all rows of a wide matrix: half of them are computed, and sums are in float64.

Letters: R rows, K columns.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, float64

COLUMNS_AT_ONCE = 8192
"""Columns of one product. A float32 product over 10⁸ columns lost 2.6 % of a norm; sums of short ones are float64."""

ROWS_AT_ONCE = 96
"""Rows of one product, at least: fewer make products slow, and more leave less of the upper half out."""


def inner_products(flat: Tensor) -> Tensor:
    """⟨row, row⟩ of every pair, [R, K] to float64 [R, R]."""
    total = flat.new_zeros(len(flat), len(flat), dtype=float64)
    add_below(total, flat)
    mirror(total)
    return total


def add_below(total: Tensor, flat: Tensor) -> None:
    """Adds ⟨row, row⟩ to `total` float64 [R, R], for blocks on the diagonal and below; `mirror` does the rest."""
    for start in range(0, flat.shape[1], COLUMNS_AT_ONCE):
        piece = flat[:, start : start + COLUMNS_AT_ONCE]
        for low, high in _cuts(len(flat)):
            total[low:high, :high] += piece[low:high] @ piece[:high].T


def mirror(total: Tensor) -> None:
    """Copies the blocks below the diagonal to those above."""
    for low, high in _cuts(len(total)):
        total[:low, low:high] = total[low:high, :low].T


def _cuts(rows: int) -> list[tuple[int, int]]:
    parts = max(1, rows // ROWS_AT_ONCE)
    return list(pairwise(rows * part // parts for part in range(parts + 1)))
