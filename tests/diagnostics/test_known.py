"""Comparison with a vector known on every unit: coverage for fixed, unequal units, and exact cases."""

import math

import numpy as np
import pytest

from gradaxis.diagnostics.statistics import (
    component,
    cosine_with_known,
    efficiency_on_known,
    gain_on_known,
    mean_interval,
    ratio_of_means,
    split,
)

N, D = 24, 20


def blocks_of(*parts):
    return np.array([[one @ other.T for other in parts] for one in parts])


@pytest.fixture(scope="module")
def units():
    """Units that differ widely, as prompts do: known vectors t, and a method's means that bend away from them."""
    generator = np.random.default_rng(0)
    t = generator.standard_normal(D) + 2.0 * generator.standard_normal((N, D))
    means = 0.6 * t + 0.05 * generator.standard_normal((N, D)) + 0.25 * generator.standard_normal(D)
    return t, means


def draws(units, count, share=0.7):
    """The method's unit gradients with noise, and the noise of an unbiased reference that shares most of it."""
    generator = np.random.default_rng(1)
    _, means = units
    for _ in range(count):
        e = generator.standard_normal((N, D))
        yield means + share * e + 0.3 * generator.standard_normal((N, D)), e


def test_intervals_cover_on_fixed_units(units):
    t, means = units
    target, mean = t.mean(0), means.mean(0)
    gain = mean @ target / (target @ target)
    cosine = mean @ target / np.linalg.norm(mean) / np.linalg.norm(target)
    hits = {"gain": 0, "cosine": 0, "other direction": 0}
    vector = np.linspace(-1, 1, D)
    for g, e in draws(units, 300):
        residual = split(blocks_of(g, t, e))
        found = {"gain": gain_on_known(residual), "cosine": cosine_with_known(residual)}
        hits["gain"] += found["gain"].interval.low <= gain <= found["gain"].interval.high
        hits["cosine"] += found["cosine"].interval.low <= cosine <= found["cosine"].interval.high
        weights = residual.combination
        along = (weights[0] * g + weights[1] * t + weights[2] * e) @ vector
        low, high, _ = mean_interval(component(residual, along, float(target @ vector)))
        hits["other direction"] += low <= mean @ vector <= high
    assert all(count / 300 > 0.92 for count in hits.values()), hits


def test_the_shared_noise_is_taken_out(units):
    t, _ = units
    widths = {"with": [], "without": []}
    for g, e in draws(units, 50):
        for name, parts in {"with": (g, t, e), "without": (g, t)}.items():
            low, high, _ = gain_on_known(split(blocks_of(*parts))).interval
            widths[name].append(high - low)
    # Noise .3 beside .05 between units instead of √(.7² + .3²): less than half as wide.
    assert np.mean(widths["with"]) < 0.55 * np.mean(widths["without"])


def test_a_multiple_of_the_reference_is_found_exactly(units):
    t, _ = units
    e = np.random.default_rng(2).standard_normal((N, D))
    residual = split(blocks_of(0.875 * (t + e), t, e))
    gain, cosine = gain_on_known(residual), cosine_with_known(residual)
    assert gain.interval == pytest.approx((0.875, 0.875, True))
    assert cosine.value == pytest.approx(1.0)
    assert cosine.interval.low == pytest.approx(1.0)


def test_the_known_vector_itself_leaves_no_noise_to_divide_by(units):
    t, _ = units
    residual = split(blocks_of(t, t, np.zeros_like(t)))
    assert gain_on_known(residual).value == pytest.approx(1.0)
    assert efficiency_on_known(residual, t @ t.T).value == pytest.approx(1.0)


def test_no_cosine_where_the_gain_is_not_clear_of_zero(units):
    t, _ = units
    noise = np.random.default_rng(3).standard_normal((N, D)) * 30
    cosine = cosine_with_known(split(blocks_of(noise, t)))
    assert math.isnan(cosine.value)
    assert cosine.interval == (-1.0, 1.0, False)


def test_a_gradient_against_the_target_has_a_negative_cosine(units):
    t, _ = units
    cosine = cosine_with_known(split(blocks_of(-2.0 * t, t)))
    assert cosine.value == pytest.approx(-1.0)
    assert cosine.interval.high == pytest.approx(-1.0)


def test_ratio_of_means_by_hand():
    # a = 2 b exactly: the ratio is 2 whatever the spread, as long as the mean of b is clear of zero.
    b = np.array([1.0, 1.1, 0.9, 1.2])
    assert ratio_of_means(2 * b, b).interval == pytest.approx((2.0, 2.0, True))
    assert math.isnan(ratio_of_means(np.ones(4), np.array([1.0, -1.0, 1.0, -1.0])).value)
