"""Ranks: methods that are equal share one, and one that is clearly better is the first."""

from __future__ import annotations

import numpy as np
import pytest

from gradaxis.diagnostics.efficiency import moments_given, moments_of_means, roots
from gradaxis.diagnostics.ranking import MOST_PAIRS, rank_methods
from gradaxis.diagnostics.statistics import Given, Strata

N, D, METHODS = 24, 15, 5
RUNS = 120


def scores(rng: np.random.Generator, bends: np.ndarray, strata: Strata | None) -> tuple[np.ndarray, np.ndarray]:
    """√eff of methods whose unit gradients are explicit vectors: a mean that may be bent, shared noise and its own."""
    n = N if strata is None else len(strata.of)
    truth = np.zeros(D)
    truth[0] = 1.0
    shared = rng.normal(size=(n, D))
    target = truth + 0.5 * shared
    values, without = [], []
    for bend in bends:
        mean = truth + bend * np.eye(D)[1]
        own = mean / np.linalg.norm(mean) + 0.5 * shared + 0.25 * rng.normal(size=(n, D))
        if strata is None:
            found = moments_of_means(own @ own.T, own @ target.T, target @ target.T)
        else:
            found = moments_given(Given(own @ own.T, own @ truth, 1.0, np.array([1.0, 0.0])), own @ own.T, strata)
        value, left = roots(found)
        values.append(value)
        without.append(left)
    return np.array(values), np.stack(without, axis=1)


@pytest.mark.parametrize("strata", [None, Strata(np.repeat(np.arange(8), 4))], ids=["prompts", "groups"])
def test_equal_methods_share_a_rank(strata: Strata | None) -> None:
    """Five methods of one efficiency, with noise of their own: all are first in 95 % of runs, but for 3 standard errors
    of 120 runs."""
    rng, shared = np.random.default_rng(5), 0
    for _ in range(RUNS):
        ranking = rank_methods(*scores(rng, np.zeros(METHODS), strata), strata)
        shared += bool((ranking.low == 1).all() and (ranking.high == METHODS).all())
    assert shared / RUNS >= 0.95 - 3 * (0.05 * 0.95 / RUNS) ** 0.5


@pytest.mark.parametrize("strata", [None, Strata(np.repeat(np.arange(8), 4))], ids=["prompts", "groups"])
def test_a_clearly_better_method_is_first_and_alone(strata: Strata | None) -> None:
    rng, won, shared = np.random.default_rng(6), 0, 0
    for _ in range(RUNS):
        ranking = rank_methods(*scores(rng, np.array([1.5, 0.0, 1.5, 1.5, 1.5]), strata), strata)
        won += bool(ranking.low[1] == 1 and (np.delete(ranking.low, 1) == 2).all() and ranking.high[1] == 1)
        shared += len(set(np.delete(ranking.low, 1))) == 1
    assert won / RUNS > 0.9
    assert shared / RUNS > 0.9


def test_ranks_count_the_methods_that_are_clearly_better() -> None:
    """Scores 3, 2.9 and 1 whose differences have standard errors of about 0.1, 0.5 and 0.5: the first two are one."""
    n = 20
    noise = np.tile([-1.0, 1.0], n // 2)
    values = np.array([1.0, 3.0, 2.9])
    spread = np.stack([noise * 0.0, noise * 0.05, -noise * 0.05], axis=1)
    ranking = rank_methods(values, values + spread)
    assert ranking.low.tolist() == [3, 1, 1]
    assert ranking.high.tolist() == [3, 2, 2]
    assert ranking.apart.tolist() == [[False, True, True], [True, False, False], [True, False, False]]
    assert "3 pairs of 3 methods" in ranking.how


def test_one_score_but_for_rounding_is_one_rank() -> None:
    """A difference in the last digits with no spread is no difference."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(30, 1)) * 0.01
    values = np.array([0.7, 0.7 * (1 + 1e-7), 0.2])
    ranking = rank_methods(values, values + left * [1.0, 1.0 + 1e-7, 1.0])
    assert ranking.low.tolist() == [1, 1, 3]


def test_many_methods_are_compared_by_holm() -> None:
    rng = np.random.default_rng(1)
    count = 40
    assert count * (count - 1) / 2 > MOST_PAIRS
    values = np.concatenate([[5.0], np.zeros(count - 1)])
    left = values + 0.05 * rng.normal(size=(25, count))
    ranking = rank_methods(values + left.mean(axis=0) - values, left)
    assert "Holm" in ranking.how
    assert ranking.low.tolist() == [1] + [2] * (count - 1)


def test_a_single_method_and_too_few_units_are_no_comparison() -> None:
    assert rank_methods(np.array([0.5]), np.full((9, 1), 0.5)).low.tolist() == [1]
    assert rank_methods(np.array([0.5, 0.9]), np.array([[0.5, 0.9], [0.4, 0.9]])).low.tolist() == [1, 1]
