"""What probes read: rollouts, coefficients, and the inner products of all unit gradients. Never the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.candidates import Candidate, Place
from gradaxis.diagnostics.functional_plan import FunctionalPlan
from gradaxis.diagnostics.geometry_products import GeometryPlan, UnitProducts
from gradaxis.diagnostics.lattice import Measured
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.units import FEWEST_UNITS, Groups, Key
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Registry

WHOLE, TASK = "whole", "task"
REFERENCE: Key = ("", "reference")
EXACT: Key = ("", "exact")
ENTROPY: Key = ("", "entropy")
EXACT_ENTROPY: Key = ("", "exact entropy")

ByParameter = Mapping[str, Mapping[Key, tuple[float, float]]]
"""Parameter name to key to (Σ_j |u_j|², |Σ_j u_j|²) of the n unit gradients u_j in that parameter."""


@dataclass(frozen=True)
class Omitted:
    """Why a method is not assessed, the inputs that it lacks, and how to supply them."""

    reason: str
    needs: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Products:
    """Inner products of the unit gradients of rows on n units, prompts or groups.

    `blocks` float64 [n, n] by pair of rows, in one order or the other; hybrids have none with another method's rows.
    `scales` holds how leaving each unit out scales the others, [n], of every method that couples the batch.
    """

    keys: tuple[Key, ...]
    blocks: Mapping[tuple[Key, Key], Array]
    exact: bool
    scales: Mapping[Key, Array] = field(default_factory=dict)

    def of(self, first: Key, second: Key) -> Array:
        """H[j, k] = <first_j, second_k>, [n, n]."""
        if (first, second) in self.blocks:
            return self.blocks[first, second]
        return self.blocks[second, first].T


@dataclass(frozen=True)
class Evidence:
    """All that is known about one point of an update.

    `candidates` are the methods that could be computed, `omitted` the others; both by label. `products` is None without
    a model, with the reason in `no_products`. `target` is the key of the gradient that bias is measured against and
    None, with the reason in `no_target`, where there is none. `exact_values` holds numbers that enumeration gave.
    `groups` are the groups of the prompts, where every prompt has two or more, and `group_products` the inner products
    with groups as units, where the target is exact; a hybrid that couples the batch may be missing from them.
    `functionals` are the numbers of the policy whose change is forecast. `outside` says of gradients that would need
    further backward passes why they are not among the products. `by_parameter` holds sums over the unit gradients of
    every method (its whole gradient) and of the reference, parameter by parameter, for shares by layer: exact where the
    products are, else from sketches; empty with the reason in `no_layers`. `measured` is what was read off hybrids and
    off parts of gradients, where it was asked for. `geometry` is the user's own training run where it was told, and
    `at_geometry` the inner products in its updates of the task part of methods, by label.
    """

    point: str
    batch: RolloutBatch
    units: NDArray[np.int64]
    registry: Registry
    candidates: Mapping[str, Candidate]
    omitted: Mapping[str, Omitted] = field(default_factory=dict)
    products: Products | None = None
    no_products: str = ""
    target: Key | None = None
    no_target: str = ""
    exact_values: Mapping[str, Any] = field(default_factory=dict)
    groups: Groups | None = None
    group_products: Products | None = None
    functionals: FunctionalPlan = field(default_factory=FunctionalPlan)
    outside: Mapping[Key, str] = field(default_factory=dict)
    geometry: GeometryPlan | None = None
    at_geometry: Mapping[str, UnitProducts] = field(default_factory=dict)
    by_parameter: ByParameter = field(default_factory=dict)
    no_layers: str = ""
    measured: Measured | None = None

    @property
    def n(self) -> int:
        """The number of prompts."""
        return int(self.units.max()) + 1 if len(self.units) else 0

    @property
    def fresh(self) -> bool:
        """Whether the rollouts come from the policy itself."""
        return self.point == "fresh"

    @property
    def target_name(self) -> str:
        """What bias is measured against, in words."""
        names = {EXACT: "exact gradient of J on these prompts", REFERENCE: "unbiased reference for the gradient of J"}
        return names[self.target] if self.target else ""

    def key(self, label: str, part: str = WHOLE) -> Key:
        """The key of a method's gradient; a method without declared terms has its whole gradient as its task part."""
        key = (label, part)
        known = self.products is not None and key in self.products.keys
        return key if known or part != TASK else (label, WHOLE)

    def has(self, key: Key) -> bool:
        """Whether inner products with this gradient are known."""
        return self.products is not None and key in self.products.keys

    def of(self, first: Key, second: Key | None = None) -> Array:
        """Inner products [n, n] of two gradients, or of one with itself. Only where `products` is there."""
        assert self.products is not None, "ask `has` first"
        return self.products.of(first, second or first)

    def scale(self, key: Key) -> Array | None:
        """How the normaliser of a method that couples the batch moves with each prompt, [n]; None for the others."""
        return self.products.scales.get(key) if self.products is not None else None

    def by_group(self, first: Key, second: Key | None = None) -> Array:
        """Inner products [M, M] of two gradients with groups as units. Only where `group_products` is there."""
        assert self.group_products is not None, "ask for `group_products` first"
        return self.group_products.of(first, second or first)

    def realised(self, first: Key, second: Key) -> float:
        """The inner product of two gradients of this very batch: the mean over all pairs of units."""
        return float(np.mean(self.of(first, second)))

    def has_groups(self, *keys: Key) -> bool:
        """Whether inner products with groups as units are known of all these gradients."""
        return self.group_products is not None and set(keys) <= set(self.group_products.keys)

    def too_few_units(self, label: str, place: Place | None = None) -> str:
        """Why no spread is reported for a method, and for its hybrid at a place; or the empty string."""
        return self._too_few(label, place, self.n, "prompts")

    def too_few_groups(self, label: str, place: Place | None = None) -> str:
        """The same where groups are the units."""
        return self._too_few(label, place, len(self.groups.strata.of) if self.groups is not None else 0, "groups")

    def _too_few(self, label: str, place: Place | None, count: int, units: str) -> str:
        candidate = self.candidates[label]
        coupled = "batch" in (candidate.couples, candidate.swaps[place].couples if place else "")
        if coupled and count < FEWEST_UNITS:
            return f"it couples the batch, and its units are trusted from {FEWEST_UNITS} {units} on; here are {count}"
        return ""
