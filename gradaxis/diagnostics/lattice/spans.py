"""Coefficients in terms of patterns, many at once.

Letters: N sequences, B patterns, Q quantities, T tokens, E rows of coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.estimators.gradients import Patterns, build_patterns


def express(patterns: Patterns, rows: Array, names: Sequence[str]) -> tuple[Array, float]:
    """Weights [E, N·B] of coefficients [E, N, Q·T] of the quantities `names`, and the largest share left outside.

    The share is that of `Patterns.express`, but held against the largest row of the sequence: rounding makes noise of
    a row that is all but zero there.
    """
    stacked = _arrange(rows, names, patterns.quantities)
    basis = patterns.vectors.double().cpu().flatten(2).numpy()
    weights = np.einsum("nbk,enk->enb", basis, stacked, optimize=True)
    rest = np.square(rows).sum(axis=2) - np.square(weights).sum(axis=2)
    size = np.square(rows).sum(axis=2).max(axis=0, initial=0.0)
    share = np.sqrt(np.maximum(rest, 0.0) / np.where(size > 0, size, 1.0))
    return weights.reshape(len(rows), weights.shape[1] * weights.shape[2]), float(share.max(initial=0.0))


def extend(patterns: Patterns, groups: Sequence[Array], names: Sequence[str], tolerated: float) -> Patterns:
    """Patterns that span the coefficients [E, N, Q·T] of every group too; the same ones where they do already."""
    outside = [rows for rows in groups if express(patterns, rows, names)[1] > tolerated]
    if not outside:
        return patterns
    old = [dict(zip(patterns.quantities, one, strict=True)) for one in patterns.vectors.permute(1, 2, 0, 3)]
    new = [
        dict(zip(names, torch.from_numpy(row).unflatten(1, (len(names), -1)).transpose(0, 1), strict=True))
        for rows in outside for row in rows
    ]  # fmt: skip
    return build_patterns([*old, *new])


def _arrange(rows: Array, names: Sequence[str], wanted: Sequence[str]) -> Array:
    """Coefficients [E, N, Q·T] in the order of other quantities; those that are not wanted are left out."""
    split = rows.reshape(*rows.shape[:2], len(names), rows.shape[2] // len(names))
    nothing = np.zeros_like(split[:, :, 0])
    found = [split[:, :, names.index(name)] if name in names else nothing for name in wanted]
    return np.concatenate(found, axis=2)
