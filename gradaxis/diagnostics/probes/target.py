"""Inner products with the target of bias, with the noise that method and reference share taken out."""

from __future__ import annotations

import numpy as np

from gradaxis.diagnostics.evidence import EXACT, REFERENCE, Evidence
from gradaxis.diagnostics.statistics import (
    Array,
    Leave,
    Residual,
    component,
    inner_of_means,
    leave_out_inner,
    split,
)
from gradaxis.diagnostics.units import Key


def residual_of(evidence: Evidence, key: Key) -> Residual:
    """A method's units split into a multiple of each prompt's exact ∇J and a residual. Only where the target is exact.

    The noise of the unbiased reference, which the method shares, is taken out of the residual.
    """
    keys = (key, EXACT, REFERENCE) if evidence.has(REFERENCE) else (key, EXACT)
    blocks = np.array([[evidence.of(first, second) for second in keys] for first in keys])
    if len(keys) == 3:  # from the reference to its noise, r_j − t_j
        change = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
        blocks = np.einsum("ac,cdjk,bd->abjk", change, blocks, change)
    return split(blocks)


def values_along(evidence: Evidence, key: Key, direction: Key) -> Array:
    """Unit values [n] whose mean estimates <E g, v>, for the mean v of a direction that is known exactly."""
    residual = residual_of(evidence, key)
    keys = (key, EXACT, REFERENCE) if evidence.has(REFERENCE) else (key, EXACT)
    products = np.array([evidence.of(one, direction).mean(axis=1) for one in keys])  # <·_j, v>
    if len(keys) == 3:
        products[2] -= products[1]
    along = np.einsum("a,aj->j", residual.combination, products)
    return component(residual, along, float(products[1].mean()))


def gain_along(evidence: Evidence, key: Key) -> Leave:
    """A method's gain along the target, up to a factor that all methods share, with its leave-one-out values."""
    assert evidence.target is not None, "ask for the target first"
    if evidence.target == EXACT:
        values = values_along(evidence, key, EXACT)
        return Leave(float(values.mean()), (values.sum() - values) / (len(values) - 1))
    cross = evidence.of(key, evidence.target)
    return Leave(inner_of_means(cross), leave_out_inner(cross))
