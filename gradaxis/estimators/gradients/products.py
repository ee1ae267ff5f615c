"""Inner products of all rows of a wide matrix, half of them computed and summed in float64.

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
    """⟨row, row⟩ of every pair, [R, K] to float64 [R, R]. Blocks above the diagonal are copies of those below."""
    rows, parts = len(flat), max(1, len(flat) // ROWS_AT_ONCE)
    cuts = list(pairwise(rows * part // parts for part in range(parts + 1)))
    total = flat.new_zeros(rows, rows, dtype=float64)
    for start in range(0, flat.shape[1], COLUMNS_AT_ONCE):
        piece = flat[:, start : start + COLUMNS_AT_ONCE]
        for low, high in cuts:
            total[low:high, :high] += piece[low:high] @ piece[:high].T
    for low, high in cuts:
        total[:low, low:high] = total[low:high, :low].T
    return total
