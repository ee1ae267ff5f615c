"""A part of the calibration study: fewer cells, 400 batches each, fixed seed; and the population behind it.

400 batches of an interval that covers exactly the .93 of the bar show less than .89 three times in a thousand; that is
what is asked for here. The whole study, with what fails it, is docs/calibration.md.
"""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BATCHES, COVER, COVER_GIVEN = 400, 0.89, 0.85

KNOWN_TO_FAIL = {("ratio of noise, grpo beside grpo-sum", 8), ("ratio of noise at equal gain", 8)}
"""A heavy-tailed method beside a light one, eight units: see the page."""

AT_THE_EDGE = "cosine whose true value is 1"


@pytest.fixture(scope="module")
def made():
    """The modules of the study, and a pool."""
    names = ("tabular_population", "calibration_study", "calibration_cells", "calibration_statistics",
             "calibration_given", "calibration")  # fmt: skip
    sys.path.insert(0, str(BENCHMARKS))
    try:
        modules = {name.removeprefix("calibration_"): importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(BENCHMARKS))
    return SimpleNamespace(**modules, pool=modules["cells"].make_pool(0, size=40_000))


def checked(outcomes, edge=False):
    """Every outcome against the bar of this test; returns how many have a verdict often enough to be judged on it."""
    judged = 0
    for one in outcomes:
        assert one.missing == 0, one
        if (one.statistic, one.n) in KNOWN_TO_FAIL:
            continue
        assert one.cover >= COVER, one
        if one.shown >= 0.05 and one.shown * BATCHES >= 100:
            judged += 1
            assert one.cover_given >= COVER_GIVEN, one
        if one.noise <= 0.3 and one.statistic != AT_THE_EDGE and not one.statistic.startswith("effective rank"):
            assert one.shown >= 0.75 or not one.powered, one
            assert one.width <= 1.65, one
    return judged


@pytest.mark.parametrize(("n", "level"), [(8, 0.1), (32, 0.1), (32, 1.0)])
def test_prompts_as_draws(made, n, level):
    cell = made.cells.cell(made.pool, made.cells.group_moments(made.pool), False, n, level, BATCHES, 1)
    outcomes = made.study.study("group", made.statistics.statistics_of(made.cells.NAMES), cell, level)
    assert checked(outcomes) >= (15 if level < 1 else 5)


def test_methods_that_couple_the_batch(made):
    n, level = 32, 0.1
    moments = made.cells.batch_moments(made.pool, n, np.random.default_rng(2), count=8000)
    cell = made.cells.cell(made.pool, moments, True, n, level, BATCHES, 2)
    names = {**made.cells.NAMES, **made.cells.COUPLED}
    assert checked(made.study.study("batch", made.statistics.statistics_of(names), cell, level)) >= 15


@pytest.mark.parametrize(("coupled", "level"), [(False, 0.1), (False, 1.0), (True, 0.1)])
def test_prompts_as_given(made, coupled, level):
    prompts = made.given.choose_prompts(made.pool, 8, 4, np.random.default_rng(3))
    outcomes = made.given.given_outcomes(made.pool, prompts, coupled, level, BATCHES, 3)
    assert [one.statistic for one in outcomes] == list(made.given.STATISTICS)
    for one in outcomes:
        assert one.missing == 0
        assert one.cover >= COVER, one


def test_the_noise_of_a_normaliser_is_no_longer_left_out(made):
    """Without the normaliser's own error the interval of a token mean's noise covers far too little."""
    moments = made.cells.batch_moments(made.pool, 128, np.random.default_rng(4), count=8000)
    cell = made.cells.cell(made.pool, moments, True, 128, 0.1, BATCHES, 4)
    hits = {"with": 0, "without": 0}
    ratio = moments["b"].trace / moments["t"].trace
    for batch in cell.batches:
        for name, scales in (("with", batch.pair("b", "t")), ("without", (None, None))):
            found = made.statistics.ratio_of_noise(batch("b"), batch("t"), scales)
            hits[name] += found.interval.low <= ratio <= found.interval.high
    assert hits["with"] / BATCHES >= COVER
    assert hits["without"] / BATCHES < 0.85


def test_the_population_is_a_policy_and_its_reference_is_unbiased(made):
    generator = np.random.default_rng(5)
    policy = made.tabular_population.make_policy(generator)
    rewards = made.tabular_population.make_rewards(policy, generator)
    assert policy.probability.sum(axis=1) == pytest.approx([1.0, 1.0])
    # Σ_y π(y) ∇ log π(y) = 0.
    assert np.einsum("ta,tad->td", policy.probability, policy.score) == pytest.approx(0.0, abs=1e-12)
    kinds = np.full(20_000, 3)
    draws = made.tabular_population.draw(policy, rewards, kinds, generator)
    found = made.tabular_population.group_methods(draws)["rloo"]
    table = 3 % made.tabular_population.TABLES
    exact = np.einsum("a,a,ad->d", policy.probability[table], rewards[3], policy.score[table])
    size = len(exact)
    error = found.std(axis=0) / math.sqrt(len(kinds)) + 1e-12
    assert np.all(
        np.abs(found.mean(axis=0)[table * size : (table + 1) * size] - exact) < 5 * error[table * size :][:size]
    )


def test_the_page_shows_what_fails(made):
    good = made.study.Outcome("group", "gain", 8, 0.1, 0.95, 1.0, 0.95, 1.1, 0)
    bad = made.study.Outcome("known", "gain", 8, 1.0, 0.90, 0.5, 0.80, math.nan, 0)
    assert good.failures == []
    assert bad.failures == ["coverage", "coverage given a verdict"]
    assert made.study.Outcome("group", "gain", 8, 0.1, 0.95, 0.7, 0.95, 1.6, 1).failures == [
        "an interval is missing", "verdicts", "width",
    ]  # fmt: skip
    page = made.calibration.page([good, bad], {7: [good]}, 400, 1.0)
    assert "**1 of 2 cells meet the bar.**" in page
    assert "**90.0 %**" in page
    assert "| known | gain | 8 | 1 | 90.0 % | 80.0 % |  | coverage, coverage given a verdict |" in page
    assert "Seed 7: **1 of 1 cells meet the bar.**" in page
