"""Moments of fourth order against loops over different units."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from gradaxis.diagnostics.statistics import (
    effective_rank,
    noise_along_mean,
    squared_mean,
    squares_of_noise,
    units_to_resolve,
)


@pytest.fixture
def units():
    random = np.random.default_rng(3)
    return random.standard_normal((6, 4)) ** 3 + np.array([1.0, 0.0, 2.0, 0.0])


def test_squares_of_noise_are_means_over_four_different_units(units):
    # E <a − b, c − d>² = 4 tr Σ², and E |a − b|² |c − d|² = 4 (tr Σ)².
    fours = list(permutations(units, 4))
    square = np.mean([((a - b) @ (c - d)) ** 2 for a, b, c, d in fours]) / 4
    trace = np.mean([((a - b) @ (a - b)) * ((c - d) @ (c - d)) for a, b, c, d in fours]) / 4
    assert squares_of_noise(units @ units.T) == pytest.approx((square, trace))


def test_noise_along_the_mean_is_a_mean_over_four_different_units(units):
    # E <a, b> <a, c> = Gᵀ E[a aᵀ] G, and E <a, b> <c, d> = |G|⁴.
    expected = np.mean([(a @ b) * (a @ c) - (a @ b) * (c @ d) for a, b, c, d in permutations(units, 4)])
    assert noise_along_mean(units @ units.T) == pytest.approx(expected)


def test_the_effective_rank_is_the_number_of_equal_directions():
    random = np.random.default_rng(0)
    units = random.standard_normal((400, 5)) @ np.linalg.qr(random.standard_normal((9, 9)))[0][:5] + 1.0
    found = effective_rank(units @ units.T)
    assert found.interval.low < 5 < found.interval.high
    assert found.value == pytest.approx(5, abs=0.2)
    line = np.outer(random.standard_normal(200), np.ones(3))
    assert effective_rank(line @ line.T).value == pytest.approx(1, abs=0.1)


def test_the_interval_of_the_effective_rank_holds_that_of_a_jackknife(units):
    def squares(some):
        """Unbiased (tr Σ)² and tr(Σ²), from all quadruples of units."""
        fours = list(permutations(some, 4))
        trace = np.mean([((a - b) @ (a - b)) * ((c - d) @ (c - d)) for a, b, c, d in fours]) / 4
        return np.array([trace, np.mean([((a - b) @ (c - d)) ** 2 for a, b, c, d in fours]) / 4])

    units = np.random.default_rng(8).standard_normal((6, 4)) + units.mean(axis=0)
    whole, left = squares(units), np.array([squares(np.delete(units, j, axis=0)) for j in range(6)])
    # Influences on log (tr Σ)² = 2 log √(tr Σ)² and on log tr(Σ²), to first order in leave-one-out values.
    roots = np.sqrt(left[:, 0])
    influence = 2 * 5 * (roots.mean() - roots) / np.sqrt(whole[0]) - 5 * (left[:, 1].mean() - left[:, 1]) / whole[1]
    half = 2.5706 * np.sqrt((influence**2).sum() / 30)  # Student, five degrees of freedom
    found, middle = effective_rank(units @ units.T), np.log(whole[0] / whole[1])
    assert found.value == pytest.approx(max(np.exp(middle), 1.0))
    low, high = np.maximum(np.exp([middle - half, middle + half]), 1.0) / found.interval[:2]
    assert low >= 1 - 1e-4
    assert high <= 1 + 1e-4
    assert low == pytest.approx(1, rel=1e-4) or high == pytest.approx(1, rel=1e-4)


def test_at_the_units_that_are_needed_the_signal_is_two_deviations():
    units = np.random.default_rng(5).standard_normal((60, 3)) + np.array([0.4, 0.0, 0.2])
    products = units @ units.T
    need, signal = units_to_resolve(products).value, squared_mean(products).value
    square, along = squares_of_noise(products)[0], noise_along_mean(products)
    variance = 2 * square / (need * (need - 1)) + 4 * max(along, 0.0) / need
    assert signal == pytest.approx(2 * np.sqrt(variance))


def test_a_mean_of_zero_needs_an_unknown_number_of_units():
    units = np.random.default_rng(1).standard_normal((16, 3))
    units -= units.mean(axis=0)
    found = units_to_resolve(units @ units.T)
    assert np.isnan(found.value)
    assert found.interval.high == np.inf
    assert found.interval.low > 16


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_units_have_no_number(n):
    products = np.eye(n)
    assert np.isnan(effective_rank(products).value)
    assert np.isnan(units_to_resolve(products).value)
    assert np.isnan(squares_of_noise(products)[0])
    assert np.isnan(noise_along_mean(products))
