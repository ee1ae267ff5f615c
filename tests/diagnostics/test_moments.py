"""Moments from inner products against explicit vectors, and without bias over many draws."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradaxis.diagnostics.statistics import (
    critical_batch_size,
    inner_of_means,
    leave_out_inner,
    leave_out_trace,
    noise,
    squared_mean,
    trace_covariance,
)

MEAN = np.array([0.6, -0.2, 0.1])
ROOT = np.array([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 0.5]])  # Σ = ROOT ROOTᵀ, trace 1 + .8 + .38 = 2.18


def draw(generator, n, mean=MEAN, root=ROOT):
    return mean + generator.standard_normal((n, len(mean))) @ root.T


@given(st.integers(3, 7), st.integers(0, 10_000))
def test_moments_equal_a_loop_over_explicit_vectors(n, seed):
    generator = np.random.default_rng(seed)
    a, b = draw(generator, n), draw(generator, n)
    pairs = [a[j] @ b[k] for j, k in permutations(range(n), 2)]
    assert inner_of_means(a @ b.T) == pytest.approx(sum(pairs) / len(pairs))
    assert trace_covariance(a @ b.T) == pytest.approx(sum(np.cov(a[:, i], b[:, i])[0, 1] for i in range(3)))


@given(st.integers(3, 7), st.integers(0, 10_000))
def test_leaving_out_equals_computing_anew(n, seed):
    generator = np.random.default_rng(seed)
    a, b = draw(generator, n), draw(generator, n)
    for j in range(n):
        rest = [k for k in range(n) if k != j]
        products = a[rest] @ b[rest].T
        if n > 3:
            assert leave_out_inner(a @ b.T)[j] == pytest.approx(inner_of_means(products))
        assert leave_out_trace(a @ b.T)[j] == pytest.approx(trace_covariance(products))


def test_hand_numbers():
    # Units (1, 0), (0, 1), (2, 1): products 1 0 2 / 0 1 1 / 2 1 5. Off-diagonal mean (0 + 2 + 1) · 2 / 6 = 1.
    units = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    products = units @ units.T
    assert inner_of_means(products) == pytest.approx(1.0)
    # Variances of (1, 0, 2) and (0, 1, 1): 1 and 1/3.
    assert trace_covariance(products) == pytest.approx(4 / 3)


def test_both_moments_are_unbiased():
    generator = np.random.default_rng(1)
    found = np.array([[squared_mean(h).value, noise(h).value] for h in (g @ g.T for g in _draws(generator, 8, 4000))])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    truth = np.array([MEAN @ MEAN, np.trace(ROOT @ ROOT.T)])
    assert np.all(np.abs(found.mean(axis=0) - truth) < 4 * error)


@pytest.mark.parametrize("n", [12, 48])
def test_intervals_cover(n):
    generator = np.random.default_rng(n)
    truth = {"mean": MEAN @ MEAN, "noise": np.trace(ROOT @ ROOT.T)}
    truth["size"] = truth["noise"] / truth["mean"]
    hits = dict.fromkeys(truth, 0)
    for units in _draws(generator, n, 400):
        products = units @ units.T
        found = {"mean": squared_mean(products), "noise": noise(products), "size": critical_batch_size(products)}
        for name, estimate in found.items():
            hits[name] += estimate.interval.low <= truth[name] <= estimate.interval.high
    # 400 draws: a coverage of .95 shows as .93 to .97; the jackknife may cover more, and must not cover much less.
    assert all(count / 400 > 0.91 for count in hits.values()), hits


def test_critical_batch_size_is_half_open_where_the_mean_is_hidden():
    generator = np.random.default_rng(3)
    opened = 0
    for units in _draws(generator, 16, 100, mean=0.05 * MEAN):  # B_simple = 2.18 / (.0025 · .41) ≈ 2100, n = 16
        estimate = critical_batch_size(units @ units.T)
        opened += not estimate.resolved
        if not estimate.resolved:
            assert np.isnan(estimate.value)
            assert estimate.interval.high == np.inf
            assert estimate.interval.low >= 0
    assert opened >= 90


def test_two_units_give_numbers_and_no_interval():
    estimate = squared_mean(np.array([[1.0, 0.5], [0.5, 2.0]]))
    assert estimate.value == 0.5
    assert not estimate.interval.bounded


def _draws(generator, n, count, mean=MEAN):
    return (draw(generator, n, mean) for _ in range(count))
