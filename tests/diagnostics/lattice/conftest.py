"""Explicit gradients on tables: the naive way to everything that the lattice reads off inner products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.complete import complete_evidence
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.plan import plan_evidence
from gradaxis.diagnostics.testbeds import draw, exact_directions, gram_numbers, load_testbed
from gradaxis.estimators import CompiledEstimator
from gradaxis.estimators.policies import Listing
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Registry


def make_evidence(
    listing: Listing, batch: RolloutBatch, methods: Sequence[Method], registry: Registry, exact: bool
) -> Evidence:
    """Evidence with the lattices of all methods."""
    point = "stale" if listing.stale else "fresh"
    plan = plan_evidence(point, batch, methods, registry, slots=False, attribution=True, shares=True)
    assert plan.patterns is not None
    directions = exact_directions(listing, batch) if exact else {}
    return complete_evidence(plan, gram_numbers(listing, batch, plan.patterns, directions))


def gradient(listing: Listing, estimator: CompiledEstimator, batch: RolloutBatch, task: bool = False) -> np.ndarray:
    """∇L on a batch as a vector in parameter space [D]; of a task part ω·A alone."""
    found = estimator.coefficients(batch)
    total = {"logp": found.omega * found.advantage} if task else found.total
    assert listing.vectors is not None
    return (listing.coefficients_to_vector(total, listing.locate(batch)) @ listing.vectors).numpy()


def unit_vectors(listing: Listing, estimator: CompiledEstimator, batch: RolloutBatch, task: bool = False) -> np.ndarray:
    """One vector a prompt [n, D], by leaving each prompt out: n ĝ − (n − 1) ĝ₍₋ⱼ₎, shifted so that their mean is ĝ.

    Without coupling of the batch ĝ₍₋ⱼ₎ is rescaled to the mean over n − 1 prompts, so that this is n times the
    prompt's own part.
    """
    whole = gradient(listing, estimator, batch, task)
    numbers = batch.prompt.unique().tolist()
    n = len(numbers)
    left = [gradient(listing, estimator, batch.rows(torch.nonzero(batch.prompt != number).squeeze(1)), task)
            for number in numbers]  # fmt: skip
    rows = np.stack([n * whole - (n - 1) * one for one in left])
    return rows - rows.mean(axis=0) + whole


def drawn(listing: Listing, prompts: int, groups: int, size: int, seed: int = 0) -> RolloutBatch:
    """Rollouts drawn from a listing."""
    return draw(listing, prompts, groups, size, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def naive() -> SimpleNamespace:
    """The functions above, since tests cannot import this file."""
    return SimpleNamespace(evidence=make_evidence, gradient=gradient, units=unit_vectors, draw=drawn)


@pytest.fixture(scope="session")
def listings() -> Callable[..., Listing]:
    """Testbeds by name, made once."""
    made: dict[tuple[str, bool, int], Listing] = {}

    def of(name: str, stale: bool, prompts: int = 3) -> Listing:
        key = (name, stale, prompts)
        if key not in made:
            made[key] = load_testbed(name, stale=stale, prompts=prompts)
        return made[key]

    return of
