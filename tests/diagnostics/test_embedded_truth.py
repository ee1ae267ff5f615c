"""On the embedded transformer the probes' intervals hold the exact values, for every executable method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.diagnostics.oracle import group_moments, of_a_random_prompt
from gradaxis.diagnostics.probes import bias, variance
from gradaxis.diagnostics.testbeds import draw, evidence, load_testbed
from gradaxis.diagnostics.testbeds.tables import ShortArithmetic
from gradaxis.diagnostics.variants import task_part
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.policies import Listing, embedded_policy, expected_reward, list_embedded
from gradaxis.taxonomy import Method, Registry, load_registry

PROMPTS, SIZE, SEEDS = 32, 4, 12
STALE_SHARE = 0.2
METHODS = ("rloo[shaping.coefficient=0]", "reinforce", "reinforce-baseline", "ppo", "remax", "reinforce-plus-plus",
           "grpo", "dr-grpo", "dapo", "gspo", "cispo", "gigpo", "grpo-opd")  # fmt: skip
"""Every entry; rloo without its penalty, which would make every answer a type of its own."""

BATCHES = 400
"""Independent batches behind the truth of a method that couples the batch; its own error is below that of one batch."""

ROUNDING = 1e-9
"""Of unbiased methods the cosine is 1, and an interval of the same rollouts may be a point."""

FEWEST = 7
"""Of 12 intervals that hold with probability .93, fewer than 7 do in one case of 11,000; 78 are looked at."""


class Truth(NamedTuple):
    """|G|² and tr Σ of the whole gradient, and the cosine of its task part with ∇J. A unit is a prompt."""

    squared_mean: float
    noise: float
    cosine: float


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
def test_intervals_hold_the_exact_values(stale: bool) -> None:
    registry = load_registry()
    listing = _listing(stale)
    methods = [registry.select(label)[0] for label in METHODS]
    truth = _truth(listing, methods, registry)
    held: dict[tuple[str, str], list[bool]] = {}
    for seed in range(SEEDS):
        batch = draw(listing, PROMPTS, 1, SIZE, torch.Generator().manual_seed(seed))
        found = evidence(listing, batch, methods, registry, "stale" if stale else "fresh", slots=False, exact=False)
        assert not found.omitted
        for row in (*variance.measure(found), *bias.measure(found)):
            if row.metric in Truth._fields:
                held.setdefault((row.method, row.metric), []).append(
                    _holds(row, getattr(truth[row.method], row.metric))
                )
    assert len(held) == len(METHODS) * len(Truth._fields)
    failed = {key: sum(values) for key, values in held.items() if len(values) < SEEDS or sum(values) < FEWEST}
    assert not failed, f"of {SEEDS} intervals these many held: {failed}"
    every = [value for values in held.values() for value in values]
    assert sum(every) / len(every) >= 0.93


def _listing(stale: bool) -> Listing:
    """The transformer fresh, or sampled by what lies a fifth of the way back to its older checkpoint.

    All the way back the squared weights of answers that hardly any batch holds make most of the noise, and no interval
    made of a batch can know of them.
    """
    if not stale:
        return load_testbed("embedded")
    task = ShortArithmetic()
    policy, behavior, reference, teacher = (
        embedded_policy(role, dtype="float64") for role in ("policy", "stale", "reference", "teacher")
    )
    moved = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, value in behavior.model.named_parameters():
            value.lerp_(moved[name], 1 - STALE_SHARE)
    return list_embedded(policy, task, task.prompts(3), behavior=behavior, reference=reference, teacher=teacher)


def _holds(row: Measurement, value: float) -> bool:
    """An interval that is not there holds nothing; an end that the data leave open is open."""
    assert row.low is not None
    assert row.high is not None
    assert not is_number(row.estimate) or row.low <= row.estimate <= row.high  # type: ignore[operator]
    return row.low - ROUNDING <= value <= row.high + ROUNDING


def _truth(listing: Listing, methods: list[Method], registry: Registry) -> Mapping[str, Truth]:
    target = listing.gradient(expected_reward)
    found = {}
    for method in methods:
        whole, task = compile(method), compile(task_part(method, registry.methods)[0])
        mean, noise = _moments(listing, whole)
        direction = mean if task.method == method else _moments(listing, task)[0]
        found[method.label] = Truth(
            squared_mean=float(mean @ listing.inner @ mean),
            noise=noise,
            cosine=float(direction @ listing.inner @ target)
            / float((direction @ listing.inner @ direction) * (target @ listing.inner @ target)) ** 0.5,
        )
    return found


def _moments(listing: Listing, estimator: CompiledEstimator) -> tuple[Tensor, float]:
    """E[g] as weights of the atoms, and tr Σ of a unit: exactly, or from many batches where the batch is coupled."""
    if estimator.couples != "batch":
        moments = group_moments([estimator], listing, SIZE, covariance="trace")
        return moments.weights[0], float(of_a_random_prompt(moments, listing).trace[0, 0])
    generator = torch.Generator().manual_seed(10**6)
    vectors = []
    for _ in range(BATCHES):
        batch = draw(listing, PROMPTS, 1, SIZE, generator)
        vectors.append(listing.coefficients_to_vector(estimator.coefficients(batch).total, listing.locate(batch)))
    stacked = torch.stack(vectors)
    away = stacked - stacked.mean(dim=0)
    spread = torch.einsum("na,na->", away @ listing.inner, away) / (BATCHES - 1)
    return stacked.mean(dim=0), PROMPTS * float(spread)
