"""Intervals for skewed errors: hand numbers, what they reduce to, and coverage where plain intervals miss."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from gradaxis.diagnostics.statistics import (
    Estimate,
    Expansion,
    Interval,
    critical_batch_size,
    fieller,
    inner_product,
    jackknife_interval,
    mean_interval,
    noise,
    p_value,
    ratio_interval,
    ratio_of_noise,
    recovered_ratio,
    skewed_interval,
    student,
)


def mean_of(values):
    return Expansion(values.mean(), values - values.mean(), np.zeros((len(values), len(values))))


def test_the_interval_of_a_mean_by_hand():
    # Values -1 -1 2: Σ L² = 6, Σ L³ = 6, μ = 6 √(3·2) / (3 − 2) / 6^1.5 = 1. With z = 1.96 the shift is, as a share of
    # the quantile, (1/2 + (z² − 1)/3) / z = 1.4472 / 1.96 = .7384. Student's quantile is 4.3027, the error √(6/6) = 1.
    low, high, _ = skewed_interval(mean_of(np.array([-1.0, -1.0, 2.0])))
    assert low == pytest.approx(-4.3027, abs=1e-3)
    assert high == pytest.approx(4.3027 * 1.7384, abs=2e-3)
    mirrored = skewed_interval(mean_of(np.array([1.0, 1.0, -2.0])))
    assert mirrored[:2] == pytest.approx((-high, -low))


def test_a_bend_by_hand():
    # Values -1 0 1 and Q = L Lᵀ, as of the square of the mean over two: L Q L = 4, over n and (Σ L²)^1.5 = 2.828 gives
    # ρ = .4714, and the shift (1 + (z² − 1)/2) ρ / z = .5823 of the quantile. The error is √(2/6).
    first = np.array([-1.0, 0.0, 1.0])
    low, high, _ = skewed_interval(Expansion(5.0, first, np.outer(first, first)))
    half = 4.3027 * math.sqrt(1 / 3)
    assert (5 - low, high - 5) == (pytest.approx(half, abs=1e-3), pytest.approx(half * 1.5823, abs=2e-3))


def test_without_skewness_it_is_students():
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert skewed_interval(mean_of(values))[:2] == pytest.approx(mean_interval(values)[:2])


@given(st.floats(-2, 2), st.floats(0.5, 3), st.integers(0, 1000))
def test_a_ratio_without_skewness_is_fiellers_and_else_holds_it(top, bottom, seed):
    half = np.random.default_rng(seed).standard_normal((2, 9))
    for values, equal in ((np.hstack([half, -half]), True), (np.hstack([half, half**2]), False)):
        a, b = values + np.array([[top], [bottom]])
        covariance = np.cov(values) / values.shape[1]
        plain = fieller(a.mean(), b.mean(), covariance, len(a))
        found = ratio_interval(mean_of(a), mean_of(b))
        assert found.low <= plain.low or found.low == pytest.approx(plain.low)
        assert found.high >= plain.high or found.high == pytest.approx(plain.high)
        if equal:
            assert found == pytest.approx(plain)


def test_a_multiple_has_an_exact_ratio():
    values = np.random.default_rng(0).exponential(size=12)
    assert ratio_interval(mean_of(3 * values), mean_of(values)) == pytest.approx((3.0, 3.0, True))


@given(st.floats(0.1, 4), st.floats(0.2, 4), st.floats(0.05, 1), st.floats(0.05, 1), st.floats(-0.9, 0.9))
def test_limits_of_symmetric_parts_give_fiellers_interval(a, b, reach_a, reach_b, correlation):
    assume(abs(b - reach_b) > 1e-6)  # there the rounding of b² − reach² decides whether the set is bounded
    parts = (a, Interval(a - reach_a, a + reach_a)), (b, Interval(b - reach_b, b + reach_b))
    shared = correlation * reach_a * reach_b
    quantile = student(10)
    covariance = np.array([[reach_a**2, shared], [shared, reach_b**2]]) / quantile**2
    assert recovered_ratio(*parts, correlation) == pytest.approx(fieller(a, b, covariance, 10, floor=0.0), rel=1e-6)


def test_a_part_without_limits_opens_the_ratio():
    known, unknown = (2.0, Interval(1.0, 3.0)), (1.0, Interval(-math.inf, math.inf, False))
    assert recovered_ratio(known, unknown, 0.0) == (0.0, math.inf, False)


def test_plain_intervals_of_skewed_means_miss_and_these_do_not():
    generator, hits = np.random.default_rng(1), {"skewed": 0, "plain": 0}
    for _ in range(2000):
        values = generator.exponential(size=15)
        hits["skewed"] += skewed_interval(mean_of(values)).low <= 1 <= skewed_interval(mean_of(values)).high
        hits["plain"] += mean_interval(values).low <= 1 <= mean_interval(values).high
    # Student's interval of 15 exponential values covers 90 to 91 %.
    assert hits["plain"] / 2000 < 0.92
    assert hits["skewed"] / 2000 > 0.925


def heavy(generator, n):
    """Units in five directions whose sizes have a heavy tail: cv of |g|² about 1.2."""
    return (
        generator.standard_normal((n, 5)) * generator.gamma(1.5, 1 / 1.5, (n, 1)) ** 0.5 * np.sqrt([3, 1, 1, 0.5, 0.5])
    )


def test_heavy_tails_are_covered():
    generator, n = np.random.default_rng(2), 24
    mean = np.array([0.8, 0.0, 0.3, 0.0, 0.0])
    truth = {"square": mean @ mean, "noise": 6.0, "size": 6.0 / (mean @ mean)}
    hits = dict.fromkeys(truth, 0)
    for _ in range(800):
        products = (lambda g: g @ g.T)(mean + heavy(generator, n))
        found = {"square": inner_product(products), "noise": noise(products), "size": critical_batch_size(products)}
        for name, estimate in found.items():
            hits[name] += estimate.interval.low <= truth[name] <= estimate.interval.high
    # 800 draws of .95 show as .935 to .965; .915 is 2 standard errors below the .93 that the page promises.
    assert all(count / 800 > 0.915 for count in hits.values()), hits


def test_a_ratio_turned_over_has_the_interval_turned_over():
    generator = np.random.default_rng(3)
    a, b = heavy(generator, 12), generator.standard_normal((12, 5))
    one, other = ratio_of_noise(a @ a.T, b @ b.T), ratio_of_noise(b @ b.T, a @ a.T)
    assert one.interval.low == pytest.approx(1 / other.interval.high)
    assert one.interval.high == pytest.approx(1 / other.interval.low)


@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(0.1, 2), st.floats(-3, 3), st.integers(4, 50))
def test_a_p_value_agrees_with_its_interval(value, below, above, null, n):
    estimate = Estimate(value, Interval(value - below, value + above))
    inside = value - below < null < value + above
    p = estimate.p_value(n, null)
    if min(abs(null - value + below), abs(null - value - above)) > 1e-6:
        assert (p > 0.05) == inside


def test_p_values_of_symmetric_intervals_are_students():
    values = np.random.default_rng(4).standard_normal(10) + 0.5
    test = stats.ttest_1samp(values, 0.2)
    assert Estimate(values.mean(), mean_interval(values)).p_value(10, 0.2) == pytest.approx(test[1])
    without = (values.sum() - values) / 9
    assert p_value(values.mean(), without, 0.2) == pytest.approx(test[1])
    ratio = Estimate(math.exp(values.mean()), Interval(*np.exp(mean_interval(values)[:2])))
    assert ratio.p_value(10, math.exp(0.2), logarithm=True) == pytest.approx(test[1])
    assert Estimate(math.nan, Interval(0.0, math.inf, False)).p_value(10) == 1.0
    assert Estimate(2.0, jackknife_interval(2.0, np.full(5, 2.0))).p_value(5, 1.0) == 0.0
