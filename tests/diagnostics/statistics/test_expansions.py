"""Influences and curvatures against derivatives of the plug-in statistic in the units' weights, taken numerically."""

import numpy as np
import pytest

from gradaxis.diagnostics.statistics import Expansion, expand_inner, expand_trace, leave_out_trace, trace_covariance
from gradaxis.diagnostics.statistics.expansions import from_leave_out

N, D, STEP = 7, 3, 1e-4


@pytest.fixture
def units():
    generator = np.random.default_rng(0)
    return generator.standard_normal((N, D)) + 0.7, generator.standard_normal((N, D)) - 0.4


def inner(weights, a, b):
    return (weights @ a) @ (weights @ b)


def trace(weights, a, b):
    return weights @ np.einsum("ud,ud->u", a, b) - inner(weights, a, b)


def derivatives(statistic):
    """First and second derivatives at equal weights, each unit's weight raised at the cost of all alike."""
    whole = np.full(N, 1 / N)

    def moved(steps):
        return statistic(whole * (1 - steps.sum()) + steps)

    first, second = np.zeros(N), np.zeros((N, N))
    for j in range(N):
        one = STEP * np.eye(N)[j]
        first[j] = (moved(one) - moved(-one)) / (2 * STEP)
        for k in range(N):
            other = STEP * np.eye(N)[k]
            corners = moved(one + other) - moved(one - other) - moved(other - one) + moved(-one - other)
            second[j, k] = corners / (4 * STEP**2)
    return first, second


@pytest.mark.parametrize(("expand", "statistic"), [(expand_inner, inner), (expand_trace, trace)])
def test_curvature_is_the_second_derivative(units, expand, statistic):
    a, b = units
    _, second = derivatives(lambda weights: statistic(weights, a, b))
    assert expand(a @ b.T).second == pytest.approx(second, abs=1e-5)


def test_the_chain_rule(units):
    a, b = units
    whole = np.full(N, 1 / N)

    def plain(statistic):
        return Expansion(float(statistic(whole)), *derivatives(statistic))

    x, y = plain(lambda weights: trace(weights, a, a)), plain(lambda weights: inner(weights, a, b))
    composed = (x.log() * 2.0 - y * x + y * 3.0).power(2.0)

    def together(weights):
        x, y = trace(weights, a, a), inner(weights, a, b)
        return (2 * np.log(x) - y * x + 3 * y) ** 2

    assert composed.value == pytest.approx(together(whole))
    first, second = derivatives(together)
    assert composed.first == pytest.approx(first, rel=1e-4, abs=1e-5)
    assert composed.second == pytest.approx(second, rel=1e-3, abs=1e-3)


def test_influences_are_those_of_the_jackknife(units):
    a, _ = units
    products = a @ a.T
    statistic = expand_trace(products)
    without = leave_out_trace(products)
    assert statistic.value == trace_covariance(products)
    assert (statistic.first**2).sum() / (N * (N - 1)) == pytest.approx(
        (N - 1) / N * ((without - without.mean()) ** 2).sum()
    )
    assert statistic.first.mean() == pytest.approx(0.0, abs=1e-12)
    assert from_leave_out(1.0, without).second.shape == (N, N)


def test_the_normaliser_of_a_batch_moves_the_noise_by_its_square(units):
    # Leaving out unit j scales the others by 1 + e_j: the variance of log tr Σ gains four times that of the mean of e.
    a, _ = units
    products, moves = a @ a.T, 0.01 * np.random.default_rng(1).standard_normal(N)
    with_scale = expand_trace(products, np.exp(moves)).log().first - expand_trace(products).log().first
    assert with_scale == pytest.approx(-2 * (N - 1) * (moves - moves.mean()))
