"""Sums of inner products, against vectors written out."""

from __future__ import annotations

import numpy as np
import pytest

from gradaxis.diagnostics.lattice.unit_products import ALL, STRATUM, UNIT, Layout, Space, Stack, inner, pairs
from gradaxis.diagnostics.statistics import (
    Pairs,
    inner_of_means,
    leave_out_inner,
    leave_out_trace,
    trace_covariance,
)

OF = np.array([0, 1, 1, 2, 3, 3, 0, 4, 4, 2])
STRATUM_OF = np.array([0, 1, 0, 1, 1])


@pytest.fixture
def vectors():
    """Of ten rows and two directions, in seven dimensions."""
    return np.random.default_rng(0).standard_normal((12, 7))


@pytest.fixture
def stack(vectors):
    random = np.random.default_rng(1)
    gram = vectors @ vectors.T
    space = Space(gram[:10, :10], gram[:10, 10:], gram[10:, 10:])
    counts = np.bincount(STRATUM_OF)[STRATUM_OF]
    layout = Layout(OF, STRATUM_OF, 1 / (2 * counts))
    ranks = (0, 2, 1)
    return Stack(space, layout, random.standard_normal((3, 10)), [random.standard_normal((5, rank)) for rank in ranks],
                 [random.standard_normal((rank, 12)) for rank in ranks])  # fmt: skip


def written_out(stack, number, vectors):
    own = np.where(OF[None, :] == np.arange(5)[:, None], stack.own[number], 0.0)
    weights = np.concatenate([own, np.zeros((5, 2))], axis=1) + stack.factors[number] @ stack.shared[number]
    return weights @ vectors


@pytest.mark.parametrize("i", range(3))
@pytest.mark.parametrize("j", range(3))
def test_products_are_those_of_the_vectors(i, j, stack, vectors):
    first, second = written_out(stack, i, vectors), written_out(stack, j, vectors)
    means = {
        UNIT: second,
        STRATUM: np.stack([second[s == STRATUM_OF].mean(axis=0) for s in STRATUM_OF]),
        ALL: np.broadcast_to(stack.layout.share @ second, second.shape),
    }
    for grain, expected in means.items():
        assert inner(stack, i, stack, j, grain) == pytest.approx((first * expected).sum(axis=1), abs=1e-10)


def test_pairs_hold_what_moments_need(stack, vectors):
    equal = Stack(
        stack.space, Layout(OF, np.zeros(5, dtype=int), np.full(5, 0.2)), stack.own, stack.factors, stack.shared
    )
    products = written_out(equal, 1, vectors) @ written_out(equal, 2, vectors).T
    for found in (pairs(equal, 1, equal, 2), Pairs.of(products)):
        assert found.inner_of_means() == pytest.approx(inner_of_means(products))
        assert found.trace_covariance() == pytest.approx(trace_covariance(products))
        assert found.leave_out_inner() == pytest.approx(leave_out_inner(products))
        assert found.leave_out_trace() == pytest.approx(leave_out_trace(products))
        assert found.transposed().leave_out_inner() == pytest.approx(leave_out_inner(products.T))
