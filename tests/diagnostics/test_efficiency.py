"""Efficiency from moments, against explicit gradient vectors and the exact truth of tables."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.complete import complete_evidence
from gradaxis.diagnostics.efficiency import (
    direction_of,
    efficiency_of,
    moments_given,
    moments_of_means,
    moments_of_pairs,
    steadiness_of,
)
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.geometry import Asked
from gradaxis.diagnostics.plan import plan_evidence
from gradaxis.diagnostics.probes import efficiency
from gradaxis.diagnostics.statistics import Given, Strata
from gradaxis.diagnostics.testbeds import draw, exact_directions, exact_numbers, gram_numbers, load_testbed
from gradaxis.diagnostics.variants import task_part
from gradaxis.estimators import compile
from gradaxis.estimators.policies import Listing, expected_reward
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import load_registry

REGISTRY = load_registry()


def evidence_of(
    listing: Listing, batch: RolloutBatch, methods: str, exact: bool = True, asked: Asked | None = None
) -> Evidence:
    numbers = exact_numbers(listing, batch) if exact else {}
    plan = plan_evidence("stale" if listing.stale else "fresh", batch, REGISTRY.select(methods), REGISTRY, slots=False,
                         exact_values=numbers, asked=asked)  # fmt: skip
    assert plan.patterns is not None
    return complete_evidence(
        plan, gram_numbers(listing, batch, plan.patterns, exact_directions(listing, batch) if exact else {})
    )


def pick(rows: list[Any], metric: str, method: str) -> Any:
    (found,) = [row for row in rows if row.metric == metric and row.method == method]
    return found


def vector(listing: Listing, batch: RolloutBatch, method: str) -> torch.Tensor:
    """The gradient of one batch as an explicit vector, without declared terms."""
    total = compile(task_part(REGISTRY.select(method)[0], REGISTRY.methods)[0]).coefficients(batch).total
    assert listing.vectors is not None
    return listing.coefficients_to_vector(total, listing.locate(batch)) @ listing.vectors


def truth_of(listing: Listing, method: str, prompts: Any, groups: int, size: int, runs: int, seed: int) -> float:
    """The efficiency by definition, from the explicit gradients of many batches."""
    generator = torch.Generator().manual_seed(seed)
    assert listing.vectors is not None
    chosen = range(listing.prompts) if isinstance(prompts, int) else prompts
    gradients = torch.stack([listing.gradient(expected_reward, prompt) for prompt in chosen])
    target = gradients.mean(dim=0) @ listing.vectors
    rows = torch.stack([vector(listing, draw(listing, prompts, groups, size, generator), method) for _ in range(runs)])
    size_of = rows.square().sum(dim=1).mean()
    return float((rows.mean(dim=0) @ target) ** 2 / (target @ target) / size_of)


# Moments ------------------------------------------------------------------------------------------------------------


def test_moments_of_means_by_explicit_vectors() -> None:
    rng = np.random.default_rng(0)
    g, t = rng.normal(size=(6, 4)) + 1.0, rng.normal(size=(6, 4)) + 1.0
    found = moments_of_means(g @ g.T, g @ t.T, t @ t.T)
    pairs = [(j, k) for j in range(6) for k in range(6) if j != k]
    assert found.values[0] == pytest.approx(np.mean([g[j] @ t[k] for j, k in pairs]))
    assert found.values[1] == pytest.approx(np.mean([t[j] @ t[k] for j, k in pairs]))
    assert found.values[2] == pytest.approx(np.mean([g[j] @ g[k] for j, k in pairs]))
    assert found.values[3] == pytest.approx(np.trace(np.cov(g.T)) / 6)
    without = moments_of_means(*(np.delete(np.delete(m, 2, 0), 2, 1) for m in (g @ g.T, g @ t.T, t @ t.T)))
    assert found.without[2, :3] == pytest.approx(without.values[:3])
    assert found.without[2, 3] == pytest.approx(without.values[3] * 5 / 6)  # an update still has 6 units


def test_noise_of_one_group_from_prompts_with_several() -> None:
    """Total covariance of one group's gradient, whatever the number of groups that stand for a prompt."""
    rng = np.random.default_rng(1)
    prompts, groups = 4000, 3
    g = rng.normal(size=(prompts, 1, 5)) * 0.7 + 1.0 + rng.normal(size=(prompts, groups, 5)) * 1.3
    mean = g.mean(axis=1)
    found = moments_of_pairs(mean @ mean.T, mean @ mean.T, mean @ mean.T, (g**2).sum(axis=2).mean(axis=1))
    assert found.values[3] == pytest.approx(5 * (0.7**2 + 1.3**2), rel=0.03)
    assert found.values[2] == pytest.approx(5.0, rel=0.05)


def test_the_factors_multiply_to_the_efficiency() -> None:
    rng = np.random.default_rng(2)
    g = rng.normal(size=(40, 6)) * 0.5 + np.array([1, 0.4, 0, 0, 0, 0])
    t = np.tile(np.eye(6)[0], (40, 1))
    found = moments_of_means(g @ g.T, g @ t.T, t @ t.T).with_noise(3.0)
    direction, steady = direction_of(found).value, steadiness_of(found).value
    assert efficiency_of(found).value == pytest.approx(direction * steady)
    signal, noise = found.values[2], 3 * np.trace(np.cov(g.T)) / 40
    assert steady == pytest.approx(signal / (signal + noise))


@pytest.mark.parametrize(("groups", "noise"), [(2, 0.3), (4, 0.3), (2, 10.0), (4, 10.0)])
def test_intervals_beside_a_known_target_cover(groups: int, noise: float) -> None:
    """24 prompts as given, vectors of 12 values: 95 % intervals hold the truth in 93 % of 300 runs or more, but for
    three standard errors."""
    rng, prompts, size, runs = np.random.default_rng(3), 24, 12, 300
    strata = Strata(np.repeat(np.arange(prompts), groups))
    t = rng.normal(size=(prompts, size)) + 1.0
    means = t + 0.3 * rng.normal(size=(prompts, size))
    spread = np.exp(0.7 * rng.normal(size=prompts))
    target, mean = t.mean(axis=0), means.mean(axis=0)
    sd = math.sqrt(noise * (mean @ mean) * groups * prompts / size / np.mean(spread**2))
    truth = {
        efficiency_of: (mean @ target) ** 2 / (target @ target) / (mean @ mean) / (1 + noise),
        steadiness_of: 1 / (1 + noise),
    }
    hits = dict.fromkeys(truth, 0)
    for _ in range(runs):
        g = (means + 0.0)[strata.of] + (sd * spread)[strata.of][:, None] * rng.normal(size=(prompts * groups, size))
        found = moments_given(Given(g @ g.T, g @ target, target @ target, np.array([1.0, 0.0])), g @ g.T, strata)
        for of, value in truth.items():
            low, high, _ = of(found).interval
            hits[of] += low <= value <= high
    assert min(hits.values()) / runs >= 0.93 - 3 * math.sqrt(0.07 * 0.93 / runs)


def test_an_update_that_leads_away_has_no_efficiency() -> None:
    rng = np.random.default_rng(4)
    t = np.tile(np.eye(3)[0], (30, 1))
    g = -t + 0.1 * rng.normal(size=(30, 3))
    found = moments_of_means(g @ g.T, g @ t.T, t @ t.T)
    assert efficiency_of(found).value == 0.0
    assert direction_of(found).value == 0.0
    assert steadiness_of(found).value > 0.9


# The probe on tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_agrees_with_explicit_gradients_of_many_batches(exact: bool) -> None:
    """Six prompts with four groups, as given beside exact directions; prompts drawn anew beside the reference."""
    listing = load_testbed("graded", prompts=6)
    prompts: Any = list(range(6)) * 4 if exact else 80
    shape = (4, 4) if exact else (1, 8)
    for method in ("grpo", "rloo", *(["reinforce"] if exact else [])):
        truth = truth_of(listing, method, prompts, *shape, runs=200, seed=9)
        generator, inside, values = torch.Generator().manual_seed(1), 0, []
        for _ in range(8):
            found = evidence_of(listing, draw(listing, prompts, *shape, generator), method, exact)
            row = pick(efficiency.measure(found), "efficiency", method)
            inside += row.low - 0.01 <= truth <= row.high + 0.01
            values.append(row.estimate)
        assert inside >= 6
        known = [value for value in values if value is not None]
        assert len(known) >= 6
        assert np.mean(known) == pytest.approx(truth, abs=0.1)


def test_greedy_answers_are_paid_for() -> None:
    """ReMax at c times the tokens: its noise is c times that of its own batch, its direction is untouched."""
    listing = load_testbed("eos", prompts=4)
    batch = draw(listing, 24, 1, 4, torch.Generator().manual_seed(2))
    rows = efficiency.measure(evidence_of(listing, batch, "remax,rloo"))
    greedy = batch.companions["greedy"]
    cost = 1 + float(greedy.mask.sum()) / float(batch.mask.sum())
    assert pick(rows, "sampling_cost", "remax").estimate == pytest.approx(cost)
    assert pick(rows, "sampling_cost", "rloo").estimate == 1.0
    free = replace(batch, companions={"greedy": replace(greedy, mask=greedy.mask & False)})
    before = efficiency.measure(evidence_of(listing, free, "remax,rloo"))
    noise = [1 / pick(r, "efficiency_noise", "remax").estimate - 1 for r in (before, rows)]
    assert noise[1] / noise[0] == pytest.approx(cost)
    same = [pick(r, "efficiency_direction", "remax").estimate for r in (before, rows)]
    assert same[0] == pytest.approx(same[1])


def test_refilled_rollouts_must_say_what_they_cost() -> None:
    listing = load_testbed("eos", prompts=4)
    batch = draw(listing, 20, 1, 4, torch.Generator().manual_seed(2))
    refilled = replace(batch, provenance={**batch.provenance, "law": "refilled"})
    rows = efficiency.measure(evidence_of(listing, refilled, "dr-grpo"))
    row = pick(rows, "efficiency", "dr-grpo")
    assert (row.verdict, row.needs) == ("not assessed", ("draws_per_kept",))
    told = replace(batch, provenance={**refilled.provenance, "draws_per_kept": 1.5})
    assert pick(efficiency.measure(evidence_of(listing, told, "dr-grpo")), "sampling_cost", "dr-grpo").estimate == 1.5


def test_rows_state_their_family_and_coinciding_methods_share_a_rank() -> None:
    """Fresh, with centred rewards: RLOO and Dr. GRPO are one direction, and so are REINFORCE with itself renamed."""
    listing = load_testbed("eos", prompts=4)
    batch = draw(listing, 24, 2, 4, torch.Generator().manual_seed(3))
    rows = efficiency.measure(evidence_of(listing, batch, "rloo,dr-grpo,reinforce,gspo"))
    ranks: dict[str, Any] = {row.method: row for row in rows if row.metric == "efficiency_rank"}
    assert len(ranks) == 4
    for label, row in ranks.items():
        assert "all 6 pairs of 4 methods at once" in row.interval
        assert set(row.compared_with.split(", ")) == set(ranks) - {label}
        assert 1 <= row.low == row.estimate <= row.high <= 4
    assert "dr-grpo" in ranks["rloo"].reason
    assert ranks["rloo"].estimate == ranks["dr-grpo"].estimate
    beside = pick(rows, "efficiency_ratio", "reinforce")
    assert beside.p_value is not None
    assert beside.low <= beside.estimate <= beside.high
    assert (beside.p_value < 0.05) == (not beside.low <= 1 <= beside.high)


def test_few_prompts_leave_methods_that_couple_the_batch_out() -> None:
    listing = load_testbed("eos", prompts=4)
    rows = efficiency.measure(
        evidence_of(listing, draw(listing, 8, 1, 4, torch.Generator().manual_seed(3)), "rloo,dapo", exact=False)
    )
    assert pick(rows, "efficiency_rank", "dapo").verdict == "unresolved"
    assert "1 methods" in pick(rows, "efficiency_rank", "rloo").interval
