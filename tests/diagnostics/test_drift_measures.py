"""Measures of drift against plain loops, against enumeration, and how often their intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.drift_measures import drift_estimates, drift_sums, drift_values
from gradaxis.diagnostics.samplers import exact_drift
from gradaxis.diagnostics.testbeds import draw, load_testbed
from gradaxis.estimators.policies import effective_share, embedded_policy, engine_policy, enumerate_answers
from gradaxis.estimators.rollouts.tasks import load_task


def by_loops(new, old, lengths, chance):
    """Every measure from nested loops over answers and tokens, each answer weighed by its chance."""
    total = dict.fromkeys(
        ["tokens", "answers", "kl", "k3", "r", "rr", "w", "ww", "s", "ss", "gap", "ppl", "ratio", "error"], 0.0
    )
    for row, (length, p) in enumerate(zip(lengths, chance, strict=True)):
        product = 1.0
        for t in range(length):
            r = math.exp(new[row][t]) / math.exp(old[row][t])
            product *= r
            total["tokens"] += p
            total["kl"] -= p * math.log(r)
            total["k3"] += p * (r - 1 - math.log(r))
            total["r"] += p * r
            total["rr"] += p * r * r
            total["gap"] += p * abs(math.exp(new[row][t]) - math.exp(old[row][t]))
            total["error"] += p * max(r, 1 / r)
        mean = product ** (1 / length)
        total["answers"] += p
        total["w"] += p * product
        total["ww"] += p * product**2
        total["s"] += p * mean
        total["ss"] += p * mean**2
        total["ppl"] -= p * math.log(mean)
        total["ratio"] += p / mean
    tokens, answers = total["tokens"], total["answers"]
    return {
        "kl": total["kl"] / tokens, "k3_kl": total["k3"] / tokens, "kl_seq": total["kl"] / answers,
        "chi2_token": total["rr"] / tokens - 1, "chi2_seq": total["ww"] / answers - 1,
        "chi2_geometric": (total["ss"] / answers - (total["s"] / answers) ** 2) / (total["s"] / answers) ** 2,
        "ess_token": total["r"] ** 2 / (tokens * total["rr"]), "ess_seq": total["w"] ** 2 / (answers * total["ww"]),
        "ess_geometric": total["s"] ** 2 / (answers * total["ss"]), "probs_diff_mean": total["gap"] / tokens,
        "log_ppl_diff": total["ppl"] / answers, "ppl_ratio": total["ratio"] / answers,
        "mult_prob_error": total["error"] / tokens,
    }  # fmt: skip


def test_every_measure_equals_a_loop_on_ragged_answers():
    generator = np.random.default_rng(0)
    lengths = [1, 3, 4, 2, 4, 1]
    mask = np.arange(4)[None, :] < np.array(lengths)[:, None]
    new, old = (np.log(generator.uniform(0.05, 1.0, mask.shape)) for _ in range(2))
    new[~mask], old[~mask] = 7.0, -300.0  # what stands off the mask is nobody's business
    expected = by_loops(new, old, lengths, [1.0] * 6)
    assert drift_values(drift_sums(new, old, mask)) == pytest.approx(expected, rel=1e-12)
    estimates = drift_estimates(drift_sums(new, old, mask, np.array([0, 0, 1, 1, 2, 2])))
    assert {name: one.value for name, one in estimates.items()} == pytest.approx(expected, rel=1e-12)
    # Leaving a prompt out is computing the measure on the other rows.
    rest = by_loops(new[2:], old[2:], lengths[2:], [1.0] * 4)["kl"]
    without = [rest, by_loops(new[[0, 1, 4, 5]], old[[0, 1, 4, 5]], [1, 3, 4, 1], [1.0] * 4)["kl"],
               by_loops(new[:4], old[:4], lengths[:4], [1.0] * 4)["kl"]]  # fmt: skip
    error = math.sqrt(2 / 3 * sum((value - np.mean(without)) ** 2 for value in without))
    assert estimates["kl"].interval.high - expected["kl"] == pytest.approx(4.302653 * error, rel=1e-6)


def test_a_ratio_that_overflows_leaves_no_number():
    new, old, mask = np.zeros((3, 2)), np.full((3, 2), -400.0), np.ones((3, 2), dtype=bool)
    values = drift_values(drift_sums(new, old, mask))
    assert not math.isfinite(values["ess_seq"])
    assert values["kl"] == -400.0


@pytest.mark.parametrize("engine", [None, "int8"])
def test_exact_drift_equals_a_sum_over_all_answers(engine):
    task = load_task("arithmetic")
    prompts = task.prompts(3, 0)
    policy = embedded_policy("policy", dtype="float64")
    sampler = embedded_policy("stale", dtype="float64") if engine is None else engine_policy(policy, engine)
    found = exact_drift(policy, sampler, task, prompts)
    assert found is not None
    ours, theirs = (enumerate_answers(one, task, prompts) for one in (policy, sampler))
    new, old = ours[0].columns["logp"].detach().tolist(), theirs[0].columns["logp"].detach().tolist()
    expected = by_loops(new, old, ours[0].length.tolist(), theirs[1].tolist())
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found["kl"] == pytest.approx(found["k3_kl"], abs=1e-6)  # E[r − 1] = 0 a token
    # 1 + χ² over all prompts is the mean of 1 + χ² of each.
    shares = effective_share(policy, sampler, task, prompts)
    assert found["ess_seq"] == pytest.approx(float(1 / (1 / shares).mean()), rel=1e-6)
    assert found["ess_seq"] == pytest.approx(1 / (1 + found["chi2_seq"]), rel=1e-6)


def test_an_engine_of_half_precision_is_not_listed():
    policy, task = embedded_policy("policy"), load_task("arithmetic")
    assert exact_drift(policy, engine_policy(policy, "bfloat16"), task, task.prompts(1, 0)) is None


@pytest.mark.parametrize(("name", "seed"), [("fixed-length", 3), ("graded", 1)])
@pytest.mark.parametrize(("drift", "n"), [(0.1, 8), (0.35, 32), (0.8, 32)])
def test_intervals_hold_the_exact_values(name, seed, drift, n):
    """93 % of 300 batches, less three standard errors of that share."""
    listing = load_testbed(name, stale=True, prompts=12, drift=drift, seed=seed)
    rows = listing.batch
    new, old = rows.column("logp").numpy(), rows.column("behavior_logp").numpy()
    truth = by_loops(new, old, rows.length.tolist(), (listing.probability / 12).tolist())
    generator, batches = torch.Generator().manual_seed(0), 300
    hits = dict.fromkeys(truth, 0)
    for _ in range(batches):
        batch = draw(listing, n, 1, 8, generator)
        ours, theirs = (batch.column(column).numpy() for column in ("logp", "behavior_logp"))
        found = drift_estimates(drift_sums(ours, theirs, batch.mask.numpy(), batch.prompt.numpy()))
        for measure, one in found.items():
            hits[measure] += one.interval.low <= truth[measure] <= one.interval.high
    least = 0.93 - 3 * math.sqrt(0.93 * 0.07 / batches)
    assert {measure: count / batches for measure, count in hits.items() if count / batches < least} == {}
