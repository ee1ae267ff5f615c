"""Sums of inner products of unit gradients, from a Gram matrix of rollouts, for many gradients at once.

Letters: n units, R rows of the Gram matrix, L directions that are known exactly, r patterns that units share, C
gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from gradaxis.diagnostics.lattice.unit_weights import Index
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.statistics.pairs import Pairs

UNIT, STRATUM, ALL = "unit", "stratum", "all"


@dataclass(frozen=True)
class Space:
    """Inner products of the rows with one another [R, R], with the directions [R, L], and of these [L, L]."""

    matrix: Array
    along: Array
    among: Array

    def map(self, vectors: Array) -> Array:
        """Inner products of vectors [k, R + L] with every row and direction, [k, R + L]."""
        rows, directions = vectors[:, : len(self.matrix)], vectors[:, len(self.matrix) :]
        return np.concatenate(
            [rows @ self.matrix + directions @ self.along.T, rows @ self.along + directions @ self.among], axis=1
        )


@dataclass(frozen=True)
class Layout:
    """Which rows belong to which unit, which units to which stratum, and how much each unit counts.

    `of` [R] is the unit of each row, `stratum` [n] the stratum of each unit, `share` [n] its weight in the mean over
    all units that is the gradient of the batch.
    """

    of: Index
    stratum: Index
    share: Array

    @cached_property
    def members(self) -> Array:
        """How many units the stratum of each unit has, [n]."""
        return np.bincount(self.stratum)[self.stratum].astype(float)

    @cached_property
    def _indicator(self) -> csr_array:
        size = len(self.of)
        return csr_array((np.ones(size), (self.of, np.arange(size))), shape=(len(self.share), size))

    def sum(self, values: Array) -> Array:
        """Sums over the rows of each unit: [R] -> [n], or [k, R] -> [n, k]."""
        return self._indicator @ values.T

    def pool(self, values: Array, grain: str) -> Array:
        """Values [n, r] of each unit, or their mean over its stratum, or over all units: [n, r]."""
        if grain == UNIT:
            return values
        if grain == ALL:
            return np.broadcast_to(self.share @ values, values.shape)
        sums = np.zeros((int(self.stratum.max()) + 1, values.shape[1]))
        np.add.at(sums, self.stratum, values)
        return sums[self.stratum] / self.members[:, None]

    def map(self, own: Array, space: Space, grain: str) -> Array:
        """<row, y> for the own part of y_u, ȳ of the stratum or ȳ of all, u the unit of the row: [C, R] -> [C, R]."""
        if grain == ALL:
            return (own * self.share[self.of]) @ space.matrix
        part = self.of if grain == UNIT else self.stratum[self.of]
        weighted = own if grain == UNIT else own / self.members[self.of]
        found = np.zeros_like(own)
        for rows in np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1]):
            found[:, rows] = weighted[:, rows] @ space.matrix[np.ix_(rows, rows)]
        return found


class Stack:
    """C gradients by their units: `own` [C, R], and for each `factors` [n, r] and `shared` [r, R + L]."""

    def __init__(
        self, space: Space, layout: Layout, own: Array, factors: Sequence[Array], shared: Sequence[Array]
    ) -> None:
        self.space, self.layout, self.own, self.factors, self.shared = space, layout, own, factors, shared
        self._mapped: dict[str, Array] = {}

    @cached_property
    def stretched(self) -> list[Array]:
        """Inner products of the shared patterns with every row and direction, [r, R + L] each."""
        counts = np.cumsum([len(shared) for shared in self.shared])
        return np.split(self.space.map(np.concatenate(self.shared)), counts[:-1])

    def mapped(self, grain: str) -> Array:
        """`Layout.map` of all own parts, [C, R]."""
        if grain not in self._mapped:
            self._mapped[grain] = self.layout.map(self.own, self.space, grain)
        return self._mapped[grain]


def inner(first: Stack, i: int, second: Stack, j: int, grain: str) -> Array:
    """<x_u, y_u>, or <x_u, ȳ> with the mean over u's stratum or over all units, [n], for gradients i and j."""
    layout, rows = first.layout, first.own.shape[1]
    found = layout.sum(first.own[i] * second.mapped(grain)[j])
    left, right = first.factors[i], layout.pool(second.factors[j], grain)
    if right.shape[1]:
        found = found + np.sum(layout.sum(first.own[i] * second.stretched[j][:, :rows]) * right, axis=1)
    if left.shape[1]:
        own = layout.sum(second.own[j] * first.stretched[i][:, :rows])
        found = found + np.sum(left * layout.pool(own, grain), axis=1)
    if left.shape[1] and right.shape[1]:
        found = found + np.sum((left @ (first.shared[i] @ second.stretched[j].T)) * right, axis=1)
    return found


def pairs(first: Stack, i: int, second: Stack, j: int) -> Pairs:
    """The sums that moments need of all pairs of units; for units that count alike."""
    n, same = len(first.layout.share), first is second and i == j
    rows = n * inner(first, i, second, j, ALL)
    return Pairs(inner(first, i, second, j, UNIT), rows, rows if same else n * inner(second, j, first, i, ALL))
