"""Inner products with the target of bias, with the noise that method and reference share taken out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradaxis.diagnostics.evidence import EXACT, REFERENCE, Evidence
from gradaxis.diagnostics.statistics import (
    Array,
    Given,
    Leave,
    Residual,
    component,
    expand_inner,
    inner_of_means,
    leave_out_inner,
    remove_noise,
    split,
)
from gradaxis.diagnostics.units import Key


def residual_of(evidence: Evidence, key: Key) -> Residual:
    """A method's units split into a multiple of each prompt's exact ∇J and a residual. Only where the target is exact.

    The noise of the unbiased reference, which the method shares, is taken out of the residual.
    """
    return split(_blocks(evidence, key, evidence.of))


def given_of(evidence: Evidence, key: Key) -> Given:
    """A method's groups as units, less the noise that it shares with the unbiased reference. Needs `group_products`."""
    assert evidence.groups is not None, "ask for `group_products` first"
    return remove_noise(_blocks(evidence, key, evidence.by_group), evidence.groups.strata)


def _blocks(evidence: Evidence, key: Key, of: Callable[[Key, Key], Array]) -> Array:
    """Inner products of a method, the exact ∇J and any reference's noise r − t, [K, K, units, units]."""
    keys = (key, EXACT, REFERENCE) if evidence.has(REFERENCE) else (key, EXACT)
    blocks = np.array([[of(first, second) for second in keys] for first in keys])
    if len(keys) == 3:
        change = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
        blocks = np.einsum("ac,cdjk,bd->abjk", change, blocks, change)
    return blocks


def values_along(evidence: Evidence, key: Key, direction: Key) -> Array:
    """Unit values [n] whose mean estimates <E g, v>, for the mean v of a direction that is known exactly."""
    residual = residual_of(evidence, key)
    products = _along(evidence, key, direction, evidence.of, np.full(evidence.n, 1 / evidence.n))
    along = np.einsum("a,aj->j", residual.combination, products)
    return component(residual, along, float(products[1].mean()))


def group_values_along(evidence: Evidence, key: Key, direction: Key) -> Array:
    """The same with groups as units, [M]: their stratified mean estimates <E g, v>. Needs `group_products`."""
    assert evidence.groups is not None, "ask for `group_products` first"
    products = _along(evidence, key, direction, evidence.by_group, evidence.groups.strata.share)
    return given_of(evidence, key).combination @ products


def _along(evidence: Evidence, key: Key, direction: Key, of: Callable[[Key, Key], Array], share: Array) -> Array:
    """<·_j, v> of a method, the exact ∇J and the reference's noise, [K, units]; `share` [units] are v's weights."""
    keys = (key, EXACT, REFERENCE) if evidence.has(REFERENCE) else (key, EXACT)
    products = np.array([of(one, direction) @ share for one in keys])
    if len(keys) == 3:
        products[2] -= products[1]
    return products


def gain_along(evidence: Evidence, key: Key) -> Leave:
    """A method's gain along the target, up to a factor that all methods share, with its leave-one-out values."""
    assert evidence.target is not None, "ask for the target first"
    if evidence.target == EXACT:
        values = values_along(evidence, key, EXACT)
        return Leave(float(values.mean()), (values.sum() - values) / (len(values) - 1))
    cross = evidence.of(key, evidence.target)
    return Leave(inner_of_means(cross), leave_out_inner(cross), expand_inner(cross).second)
