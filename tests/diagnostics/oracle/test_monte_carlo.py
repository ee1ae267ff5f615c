"""Groups of eight: against sampled rollouts where the count vectors can be gone through, and by name where not.

Tolerances come from the sampling error itself. Of each mean, trace and quadratic form the standard error is known from
the sample; a deviation of more than SIGMAS of them is a failure. Over the few thousand numbers compared here that
happens by chance in fewer than one run in a thousand, and the draws are seeded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.oracle import MOST_COUNTS, Moments, count_vectors_needed, group_moments
from gradaxis.diagnostics.testbeds import TABLES, draw, load_testbed
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.policies import Listing
from gradaxis.taxonomy import load_registry

G = 8
GROUPS, BATCHES = 4_000, 400
SIGMAS = 5.5
METHODS = {name: compile(method) for name, method in load_registry().methods.items() if method.executable}

BRUTE_FORCE_ONLY = {
    "fixed-length": {"reinforce-plus-plus"},
    "eos": {"rloo", "reinforce-plus-plus", "cispo", "dapo"},
    "shared-rows": {"rloo", "reinforce-plus-plus", "cispo", "dapo"},
    "graded": {"rloo", "reinforce-plus-plus", "cispo", "dapo"},
    "continuous": set(METHODS) - {"reinforce", "remax", "ppo"},
    "environment": {"rloo", "gigpo", "reinforce-baseline", "reinforce-plus-plus", "cispo", "dapo"},
}
"""With eight answers a group these have more than 20,000 count vectors: they are checked at G = 2 and 3 alone. Methods
that couple the batch have two prompts here, others one."""

HERE = [(testbed, name) for testbed in TABLES for name in METHODS if name not in BRUTE_FORCE_ONLY[testbed]]


def _prompts(name: str) -> int:
    return 2 if METHODS[name].couples == "batch" else 1


@pytest.fixture(scope="module")
def listings() -> Callable[[str, int], Listing]:
    made: dict[tuple[str, int], Listing] = {}

    def get(testbed: str, prompts: int) -> Listing:
        if (testbed, prompts) not in made:
            made[testbed, prompts] = load_testbed(testbed, stale=True, prompts=prompts)
        return made[testbed, prompts]

    return get


@pytest.mark.parametrize("testbed", TABLES)
def test_what_is_brute_force_only(testbed, listings) -> None:
    needed = {name: count_vectors_needed([one], listings(testbed, _prompts(name)), G) for name, one in METHODS.items()}
    assert {name for name, number in needed.items() if number > MOST_COUNTS} == BRUTE_FORCE_ONLY[testbed]


@pytest.mark.parametrize(("testbed", "name"), [(t, n) for t, n in HERE if _prompts(n) == 1])
def test_groups(testbed, name, listings) -> None:
    """Thousands of groups in one call: the method couples no more than a group."""
    listing = listings(testbed, 1)
    batch = draw(listing, 1, GROUPS, G, torch.Generator().manual_seed(11))
    total = METHODS[name].coefficients(batch).total
    _compare(group_moments([METHODS[name]], listing, G), _gradients(listing, batch, total, GROUPS))


@pytest.mark.parametrize(("testbed", "name"), [(t, n) for t, n in HERE if _prompts(n) == 2])
def test_batches(testbed, name, listings) -> None:
    """Hundreds of batches of two prompts, one at a time."""
    listing, random = listings(testbed, 2), torch.Generator().manual_seed(13)
    found = []
    for _ in range(BATCHES):
        batch = draw(listing, [0, 1], 1, G, random)
        found.append(_gradients(listing, batch, METHODS[name].coefficients(batch).total, 1))
    _compare(group_moments([METHODS[name]], listing, G, hold_sampling=True), np.concatenate(found))


def _gradients(listing: Listing, batch, total: Mapping[str, torch.Tensor], units: int) -> np.ndarray:
    """The gradient of each of some equal parts of a batch, were it alone, [units, D]."""
    rows = listing.locate(batch)
    weights = listing.rows_to_vectors(total, rows).reshape(units, -1, len(listing.inner)).sum(dim=1) * units
    return listing.to_parameters(weights).numpy()


def _compare(exact: Moments, sample: np.ndarray) -> None:
    mean, covariance = (value.numpy() for value in exact.law())
    size = len(sample)
    away = sample - mean
    error = np.sqrt(covariance.diagonal().clip(min=0) / size)
    assert (np.abs(away.mean(axis=0)) <= SIGMAS * error + 1e-12).all()
    squares = (away**2).sum(axis=1)
    assert abs(squares.mean() - np.trace(covariance)) <= SIGMAS * squares.std() / np.sqrt(size)
    directions = np.random.default_rng(5).normal(size=(covariance.shape[0], 12))
    along = (away @ directions) ** 2
    expected = np.einsum("ia,ij,ja->a", directions, covariance, directions)
    assert (np.abs(along.mean(axis=0) - expected) <= SIGMAS * along.std(axis=0) / np.sqrt(size)).all()


# Speed --------------------------------------------------------------------------------------------------------------


def _fastest(estimator: CompiledEstimator, listing: Listing, times: int) -> float:
    """Seconds of one core, so that other work on the machine does not count."""
    found, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(times):
        start = time.process_time()
        group_moments([estimator], listing, G, hold_sampling=True)
        found.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return min(found)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"rloo", "reinforce-plus-plus"}))
def test_a_hundred_count_vectors_take_less_than_fifty_milliseconds(name, listings) -> None:
    """All methods but those for which each of the eight answers is a type of its own."""
    listing = listings("fixed-length", _prompts(name))
    assert count_vectors_needed([METHODS[name]], listing, G) <= 100
    assert _fastest(METHODS[name], listing, 5) < 0.05


@pytest.mark.parametrize(("testbed", "name"), [("fixed-length", "rloo"), ("environment", "cispo"), ("eos", "ppo")])
def test_twenty_thousand_count_vectors_take_less_than_ten_seconds(testbed, name, listings) -> None:
    listing = listings(testbed, 1 if name == "cispo" else _prompts(name))
    assert 2_000 < count_vectors_needed([METHODS[name]], listing, G) <= MOST_COUNTS
    assert _fastest(METHODS[name], listing, 1) < 10
