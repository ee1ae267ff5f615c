"""Small policies in every setting, and moments by going through every group: nothing here knows of types or counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement, product
from math import factorial, prod
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.oracle import Moments
from gradaxis.estimators import CompiledEstimator
from gradaxis.estimators.policies import Listing, TabularPolicy, build_space, list_tabular

END = 0
SPACES: dict[str, dict[str, Any]] = {
    "fixed": {"vocabulary": 2, "max_new_tokens": 3},
    "variable": {"vocabulary": 3, "max_new_tokens": 2, "end": END},
    "short fixed": {"vocabulary": 2, "max_new_tokens": 2},
    "short variable": {"vocabulary": 2, "max_new_tokens": 3, "end": END},
}
"""Eight answers, seven, four and four."""


def _binary(prompt: int, answer: Sequence[int]) -> float:
    return float((sum(answer) + prompt) % 2)


def _graded(prompt: int, answer: Sequence[int]) -> float:
    return 0.5 * (answer[0] == prompt % 2) + 0.5 * (answer[-1] == 0)


def _continuous(prompt: int, answer: Sequence[int]) -> float:
    return sum((token + 1 + prompt) * 0.37**place for place, token in enumerate(answer)) - 1


REWARDS = {"binary": _binary, "graded": _graded, "continuous": _continuous}


class Small(NamedTuple):
    """A policy and everything that it can do."""

    policy: TabularPolicy
    listing: Listing


@pytest.fixture(scope="session")
def small() -> Callable[..., Small]:
    """A maker of policies by space and reward, on its own samples or on those of another policy."""
    made: dict[tuple[Any, ...], Small] = {}

    def make(space: str, reward: str, stale: bool, prompts: int = 1, shared: bool = False) -> Small:
        key = (space, reward, stale, prompts, shared)
        if key not in made:
            grid = build_space(prompts, **SPACES[space], row=lambda at, prefix: prefix if shared else (at, prefix))
            random = torch.Generator().manual_seed(7)
            policy, behavior, reference, teacher = (
                TabularPolicy.random(grid, random, spread) for spread in (0.8, 0.8, 0.5, 0.9)
            )
            behavior = policy.moved(0.5 * behavior.logits.detach())
            made[key] = Small(policy, list_tabular(
                policy, REWARDS[reward], behavior=behavior if stale else None, reference=reference, teacher=teacher,
            ))  # fmt: skip
        return made[key]

    return make


class Truth(NamedTuple):
    """`mean` [D] and `covariance` [D, D]; `gradients` [n, D] of all possible `updates`, and `probability` [n]."""

    mean: np.ndarray
    covariance: np.ndarray
    gradients: np.ndarray
    probability: np.ndarray
    updates: np.ndarray

    def check(self, found: Moments, note: str = "") -> None:
        """Every entry within 1e-12."""
        mean, covariance = found.law()
        np.testing.assert_allclose(mean.numpy(), self.mean, rtol=0, atol=1e-12, err_msg=note)
        np.testing.assert_allclose(covariance.numpy(), self.covariance, rtol=0, atol=1e-12, err_msg=note)
        trace = np.trace(self.covariance)
        np.testing.assert_allclose(found.trace[0, 0].numpy(), trace, rtol=1e-12, atol=1e-12, err_msg=note)


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., Truth]:
    """Moments over every way in which the groups of a listing's prompts can come out.

    `apart` evaluates each possible update in a call of its own. Otherwise all stand in one call as groups of their own,
    which is right where the estimator couples no more than a group: its coefficients then hold one over the number of
    sequences, and nothing else of the others. Members of a group may change places without changing anything, so that
    each set of them is evaluated once, with the probability of all its orders.
    """

    def compute(estimator: CompiledEstimator, listing: Listing, group_size: int, apart: bool) -> Truth:
        batch, prompts = listing.batch, listing.prompts
        own = [np.flatnonzero(batch.prompt.numpy() == prompt) for prompt in range(prompts)]
        groups = [list(combinations_with_replacement(rows, group_size)) for rows in own]
        updates = np.array(list(product(*groups))).reshape(-1, prompts * group_size)
        orders = [_orders(group) for update in updates for group in update.reshape(prompts, -1)]
        probability = listing.probability.numpy()[updates].prod(axis=1)
        probability = probability * np.reshape(orders, (-1, prompts)).prod(axis=1)
        assert abs(probability.sum() - 1) < 1e-12
        group = np.arange(updates.shape[1]) // group_size

        def total(rows: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
            taken = replace(batch.rows(torch.tensor(rows)), group=torch.tensor(groups))
            return {name: value.numpy() for name, value in estimator.coefficients(taken).total.items()}

        if apart:
            found = [total(update, group) for update in updates]
            coefficients = {name: np.stack([one[name] for one in found]) for name in found[0]}
        else:
            assert prompts == 1
            every = total(updates.ravel(), np.arange(updates.size) // group_size)
            coefficients = {name: value.reshape(*updates.shape, -1) * len(updates) for name, value in every.items()}
        gradients = sum(
            np.einsum("uit,uitd->ud", value, atoms_of(listing, name)[updates]) for name, value in coefficients.items()
        )
        assert isinstance(gradients, np.ndarray)
        mean = probability @ gradients
        away = gradients - mean
        return Truth(mean, (away * probability[:, None]).T @ away, gradients, probability, updates)

    return compute


def _orders(group: np.ndarray) -> float:
    """In how many orders the members of a group can be drawn."""
    return factorial(len(group)) / prod(factorial(number) for number in Counter(group.tolist()).values())


def atoms_of(listing: Listing, name: str) -> np.ndarray:
    """The gradient of a quantity at every token of every trajectory, [N, T, D]; zero off the mask."""
    assert listing.vectors is not None
    places, vectors = listing.atoms[name].numpy(), listing.vectors.numpy()
    return np.where(places[:, :, None] >= 0, vectors[places.clip(min=0)], 0.0)
