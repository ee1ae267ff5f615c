"""Unit gradients in few numbers, against the vectors that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from gradaxis.diagnostics.lattice.unit_weights import coupled_unit_weights, unit_weights
from gradaxis.diagnostics.statistics import Strata
from gradaxis.diagnostics.units import Groups, pseudo_values, pseudo_values_by_group, sums_by_group, sums_by_unit


def written_out(units, of):
    """Every unit as a vector [n, N·K]."""
    own = np.where((of[None, :] == np.arange(len(units.factors))[:, None])[:, :, None], units.own, 0.0)
    return (own + np.einsum("ur,rnk->unk", units.factors, units.shared)).reshape(len(own), -1)


@pytest.fixture
def whole():
    return np.random.default_rng(0).standard_normal((24, 3))


@pytest.fixture
def of():
    return np.repeat(np.arange(8), 3)


def left_out(whole, of, change):
    """Coefficients without each unit: the others changed, its own gone."""
    without = whole[None] + change
    return np.where((of[None, :] == np.arange(of.max() + 1)[:, None])[:, :, None], 0.0, without)


def changes(kind, whole, n=8):
    random = np.random.default_rng(1)
    amounts = random.standard_normal((n, 3))
    if kind == "one pattern":
        return amounts[:, :1, None] * 0.1 * whole
    if kind == "two patterns":
        return amounts[:, :1, None] * 0.1 * whole + amounts[:, 1:2, None] * np.sign(whole)
    if kind == "none":
        return np.zeros((n, *whole.shape))
    return random.standard_normal((n, *whole.shape))


@pytest.mark.parametrize(("kind", "patterns"), [("none", 0), ("one pattern", 1), ("two patterns", 2), ("any", 8)])
def test_pseudo_values_are_those_of_the_plain_formula(kind, patterns, whole, of):
    without = left_out(whole, of, changes(kind, whole))
    found = coupled_unit_weights(whole, without, of, np.full(8, 1 / 8))
    assert len(found.shared) == patterns + 1  # and one for what makes their mean the gradient of the batch
    assert written_out(found, of) == pytest.approx(pseudo_values(whole, list(without)), abs=1e-10)


@pytest.mark.parametrize("kind", ["two patterns", "any"])
def test_groups_of_unequal_numbers_are_those_of_the_plain_formula(kind, whole, of):
    strata = Strata(np.array([0, 0, 0, 1, 1, 2, 2, 2]))
    without = left_out(whole, of, changes(kind, whole))
    found = coupled_unit_weights(whole, without, of, strata.share)
    assert written_out(found, of) == pytest.approx(
        pseudo_values_by_group(whole, list(without), Groups(of, strata)), abs=1e-10
    )


def test_without_coupling_a_unit_holds_its_own_rows(whole, of):
    assert written_out(unit_weights(whole, of, np.full(8, 1 / 8)), of) == pytest.approx(sums_by_unit(whole, of))
    strata = Strata(np.array([0, 0, 0, 1, 1, 2, 2, 2]))
    found = written_out(unit_weights(whole, of, strata.share), of)
    assert found == pytest.approx(sums_by_group(whole, Groups(of, strata)))
