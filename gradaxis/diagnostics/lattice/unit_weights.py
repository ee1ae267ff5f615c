"""Unit gradients in a form that costs little: what a unit puts on its own rows, and what it puts on all others.

A method that couples the batch makes every unit a vector over all rollouts: leaving a prompt out changes a mean, a
spread or a divisor, and with it the coefficients of the rest. That change is a few patterns, the same for all units, in
different amounts.

Letters: n units, N sequences, K numbers a sequence, r patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.statistics.moments import Array

MOST_SHARED = 3
"""Patterns that are tried. A change that needs more is kept as it is, one pattern a unit."""

TOLERANCE = 1e-6
"""Relative to the whole: coefficients in float32 are no more exact."""

Index = NDArray[np.int64]


@dataclass(frozen=True)
class UnitWeights:
    """x_u = own on the rows of unit u, plus factors[u] @ shared on all rows.

    `own` [N, K], `factors` [n, r], `shared` [r, N, K].
    """

    own: Array
    factors: Array
    shared: Array


def unit_weights(whole: Array, of: Index, share: Array) -> UnitWeights:
    """Units of a method that couples samples of one unit only: whole / share on the unit's own rows.

    Args:
        whole: coefficients of the batch [N, K]. of: the unit of each sequence [N]. share: weights [n] of the units in
            the mean that is the gradient of the batch; 1/n for prompts.
    """
    return UnitWeights(whole / share[of][:, None], np.zeros((len(share), 0)), np.zeros((0, *whole.shape)))


def coupled_unit_weights(whole: Array, without: Array, of: Index, share: Array) -> UnitWeights:
    """Units of a method that couples the batch, as pseudo-values (`units.pseudo_values_by_group`).

        x_u = ĝ + κ_u (ĝ − ĝ₍₋ᵤ₎) − what makes their mean another than ĝ,   κ_u = (n − 1) / n / share_u

    With share = 1/n that is n·ĝ − (n − 1)·ĝ₍₋ᵤ₎ but for the shift.

    Args:
        without: coefficients [n, N, K] with each unit left out, zero on its rows.
    """
    n, (rows, size) = len(share), whole.shape
    owned = of[None, :] == np.arange(n)[:, None]
    change = np.where(owned[:, :, None], 0.0, without - whole)
    tolerance = TOLERANCE * float(np.linalg.norm(whole))
    found = _few_patterns(change.reshape(n, -1), np.repeat(owned, size, axis=1), tolerance)
    factors, shared = found if found is not None else (np.eye(n), change.reshape(n, -1))
    shared = shared.reshape(-1, rows, size)
    # On a unit's own rows the patterns say nothing: what they put there is taken back.
    undone = np.einsum("ik,kib->ib", factors[of], shared)
    scale = (n - 1) / n / share
    mean = (n - 1) / n * (whole - change.sum(axis=0))
    return UnitWeights(
        own=scale[of][:, None] * (whole + undone),
        factors=np.concatenate([-scale[:, None] * factors, np.ones((n, 1))], axis=1),
        shared=np.concatenate([shared, (whole - mean)[None]]),
    )


def _few_patterns(change: Array, owned: NDArray[np.bool_], tolerance: float) -> tuple[Array, Array] | None:
    """Factors [n, r] and patterns [r, R] whose product is `change` [n, R] off the rows that each unit owns.

    A few units' own changes are the patterns. What such a unit lacks, its own rows, is filled in from another few.
    None where `MOST_SHARED` patterns do not reach the tolerance.
    """
    n, size = change.shape
    if np.linalg.norm(change, axis=1).max(initial=0.0) <= tolerance:
        return np.zeros((n, 0)), np.zeros((0, size))
    basis = _basis(change, owned, np.arange(n), tolerance)
    if basis is None:
        return None
    rest = np.setdiff1d(np.arange(n), basis)
    second = _basis(change, owned, rest, tolerance) if len(rest) else None
    if second is None:
        return None
    patterns = change[basis]
    filled = _fit(change[basis], change[second], owned[basis], _any(owned[second])) @ change[second]
    patterns = np.where(owned[basis], filled, patterns)
    factors = _fit(change, change[basis], owned, _any(owned[basis]))
    factors[basis] = np.eye(len(basis))
    missed = np.where(owned, 0.0, change - factors @ patterns)
    return (factors, patterns) if np.linalg.norm(missed, axis=1).max() <= tolerance else None


def _basis(change: Array, owned: NDArray[np.bool_], among: Index, tolerance: float) -> list[int] | None:
    """Units of `among` whose changes span those of all units, the largest remainder first."""
    chosen: list[int] = []
    rest = np.linalg.norm(change[among], axis=1)
    for _ in range(min(MOST_SHARED, len(among))):
        chosen.append(int(among[rest.argmax()]))
        hidden = _any(owned[chosen])
        missed = change - _fit(change, change[chosen], owned, hidden) @ change[chosen]
        missed = np.linalg.norm(np.where(owned | hidden, 0.0, missed), axis=1)
        rest = missed[among]
        if missed.max() <= tolerance:
            return chosen
    return None


def _any(owned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_or.reduce(owned, axis=0)


def _fit(change: Array, basis: Array, owned: NDArray[np.bool_], hidden: NDArray[np.bool_]) -> Array:
    """Least squares of each row on the basis, over columns that neither it nor the basis owns: [m, R] -> [m, r]."""
    seen = np.where(hidden, 0.0, basis)
    squares = seen @ seen.T - np.einsum("kr,mr,lr->mkl", seen, owned, seen, optimize=True)
    right = np.where(owned, 0.0, change) @ seen.T
    return np.einsum("mkl,ml->mk", np.linalg.pinv(squares, rcond=1e-13, hermitian=True), right)
