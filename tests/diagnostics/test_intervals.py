"""Intervals: hand numbers, the set that Fieller's test accepts, and coverage of cosine, gain and ratios."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradaxis.diagnostics.statistics import (
    Leave,
    cosine_of_means,
    efficiency,
    fieller,
    gain_of_means,
    inner_of_means,
    jackknife_interval,
    leave_out_inner,
    mean_interval,
    ratio_at_equal_gain,
    ratio_of_noise,
    realised_cosine,
    student,
)

D = 12


def gain(cross):
    return Leave(inner_of_means(cross), leave_out_inner(cross))


def test_mean_interval_by_hand():
    # Values 1, 2, 3: mean 2, standard error 1/√3, Student's quantile with 2 degrees of freedom 4.3027.
    low, high, bounded = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high, bounded) == (pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4), pytest.approx(4.4841, abs=1e-3), True)


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).standard_normal(9)
    without = (values.sum() - values) / 8
    assert jackknife_interval(values.mean(), without)[:2] == pytest.approx(mean_interval(values)[:2])


@given(
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(-0.95, 0.95),
    st.integers(5, 40),
)
def test_fieller_is_the_hull_of_what_its_test_accepts(a, b, va, vb, r, n):
    covariance = np.array([[va, r * math.sqrt(va * vb)], [r * math.sqrt(va * vb), vb]])
    low, high, bounded = fieller(a, b, covariance, n)
    grid = np.tan(np.linspace(-1.5699, 1.5699, 4001))
    variance = va - 2 * grid * covariance[0, 1] + grid**2 * vb
    accepted = (a - grid * b) ** 2 <= student(n) ** 2 * variance
    inside = (grid >= low) & (grid <= high)
    assert not np.any(accepted & ~inside)
    if bounded:
        assert np.all(accepted == inside)
    else:
        assert high == math.inf


def test_fieller_is_half_open_above_its_floor():
    # A ratio of squares: 4 ± small over 1 with variance 1 at n = 10: every β from about 4/(1 + 2.26) on is accepted.
    low, high, bounded = fieller(4.0, 1.0, np.diag([1e-12, 1.0]), 10, floor=0.0)
    assert low == pytest.approx(4 / (1 + student(10)), rel=1e-4)
    assert high == math.inf
    assert not bounded


def test_coverage_of_paired_comparisons():
    generator = np.random.default_rng(5)
    spectrum = 1 / np.arange(1, D + 1)
    mean = np.ones(D) / np.sqrt(D)  # |G| = 1; tr Σ = Σ 1/i ≈ 3.1, so B_simple ≈ 3.1 and n = 24 resolves it
    aside = np.where(np.arange(D) % 2, 1.0, -1.0) / np.sqrt(D)
    other = 1.5 * mean + 0.6 * aside
    truth = {
        "cosine": 1.5 / math.hypot(1.5, 0.6),
        "gain": 1.5,
        "noise": 2.25,
        "equal": 1.0,
        "efficiency": 1.5**2 / (1.5**2 + 0.6**2 + 2.25 * spectrum.sum() / 24),
    }
    hits, resolved = dict.fromkeys(truth, 0), 0
    for _ in range(300):
        first = generator.standard_normal((24, D)) * np.sqrt(spectrum)
        fresh = generator.standard_normal((24, D)) * np.sqrt(spectrum)
        b, a = mean + first, other + 1.5 * (0.95 * first + math.sqrt(1 - 0.95**2) * fresh)
        aa, bb, ab = a @ a.T, b @ b.T, a @ b.T
        found = {
            "cosine": cosine_of_means(aa, bb, ab), "gain": gain_of_means(ab, bb), "noise": ratio_of_noise(aa, bb),
            "equal": ratio_at_equal_gain(aa, bb, gain(ab), gain(bb)), "efficiency": efficiency(aa, aa, ab, bb),
        }  # fmt: skip
        resolved += found["cosine"].resolved
        for name, estimate in found.items():
            hits[name] += estimate.interval.low <= truth[name] <= estimate.interval.high
    assert all(count / 300 > 0.9 for count in hits.values()), hits
    assert resolved > 180  # most draws resolve the direction, so that the coverage above is not that of [-1, 1]


def test_no_cosine_where_noise_hides_the_direction():
    generator = np.random.default_rng(6)
    printed = 0
    for _ in range(200):
        a, b = generator.standard_normal((2, 16, D))
        estimate = cosine_of_means(a @ a.T, b @ b.T, a @ b.T)
        printed += math.isfinite(estimate.value)
        if not estimate.resolved:
            assert estimate.interval == (-1.0, 1.0, False)
            assert math.isnan(estimate.value)
    assert printed <= 6


def test_a_method_has_cosine_one_and_ratio_one_with_its_multiple():
    units = np.random.default_rng(7).standard_normal((20, D)) * 0.1 + 1.0
    products = units @ units.T
    assert cosine_of_means(9 * products, products, 3 * products).value == pytest.approx(1.0)
    assert realised_cosine(9 * products, products, 3 * products).value == pytest.approx(1.0)
    assert gain_of_means(3 * products, products).value == pytest.approx(3.0)
    assert ratio_of_noise(9 * products, products)[0] == pytest.approx(9.0)
    assert ratio_at_equal_gain(9 * products, products, gain(3 * products), gain(products)).value == pytest.approx(1.0)


def test_realised_cosine_is_that_of_the_summed_vectors():
    generator = np.random.default_rng(8)
    a, b = generator.standard_normal((2, 9, D)) + 0.3
    expected = a.sum(0) @ b.sum(0) / np.linalg.norm(a.sum(0)) / np.linalg.norm(b.sum(0))
    assert realised_cosine(a @ a.T, b @ b.T, a @ b.T).value == pytest.approx(expected)
