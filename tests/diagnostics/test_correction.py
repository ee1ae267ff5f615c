"""Whether a correction helps: paired ratios of efficiency against loops and against the exact answer on tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gradaxis.diagnostics import testbeds
from gradaxis.diagnostics.evidence import EXACT, REFERENCE
from gradaxis.diagnostics.paired_efficiency import efficiency_ratio, efficiency_ratio_given, efficiency_ratio_on_known
from gradaxis.diagnostics.probes import correction
from gradaxis.diagnostics.statistics import Strata, remove_noise, split
from gradaxis.diagnostics.testbeds import draw, load_testbed
from gradaxis.diagnostics.uncorrected import UNCORRECTED
from gradaxis.estimators import compile


def vectors(units, seed, size=5):
    """Two methods' unit gradients and a target known on every unit."""
    generator = np.random.default_rng(seed)
    target = generator.standard_normal((units, size)) * 0.2 + np.eye(size)[0]
    first = target + 0.5 * generator.standard_normal((units, size))
    second = 0.3 * first + 0.4 * generator.standard_normal((units, size)) + 0.5 * np.eye(size)[0]
    return first, second, target


def log_efficiency(method, target, rows, gain_without_noise=None):
    """log of <mean g, mean t>² / (|mean t|² |mean g|²) over these rows."""
    g, t = method[rows].mean(0), target.mean(0)
    return math.log(float(g @ t) ** 2 / float(g @ g) / float(t @ t))


def test_the_ratio_beside_a_known_target_equals_a_loop():
    first, second, _ = vectors(12, 0)
    target = np.tile(np.array([1.0, 0.5, 0.0, 0.0, 0.0]), (12, 1))  # one for all units, so that no regression enters
    blocks = lambda g: np.array([[g @ g.T, g @ target.T], [target @ g.T, target @ target.T]])  # noqa: E731
    found = efficiency_ratio_on_known(split(blocks(first)), first @ first.T, split(blocks(second)), second @ second.T)
    everything = np.arange(12)
    value = log_efficiency(first, target, everything) - log_efficiency(second, target, everything)
    assert found.estimate.value == pytest.approx(math.exp(value), rel=1e-9)
    without = [log_efficiency(first, target, rest) - log_efficiency(second, target, rest)
               for rest in (np.delete(everything, unit) for unit in everything)]  # fmt: skip
    error = math.sqrt(11 / 12 * sum((each - np.mean(without)) ** 2 for each in without))
    assert math.log(found.estimate.interval.high) == pytest.approx(value + 2.200985 * error, rel=1e-5)
    assert 0 < found.p < 1


def test_the_ratio_beside_an_estimated_target_equals_a_loop():
    """U-statistics over pairs of different units, in numerator and denominator."""
    first, second, target = vectors(9, 1)

    def logarithm(g, keep):
        n = len(keep)
        pairs = [(j, k) for j in keep for k in keep if j != k]
        gain = sum(g[j] @ target[k] for j, k in pairs) / len(pairs)
        square = sum(g[j] @ g[k] for j, k in pairs) / len(pairs)
        mean = sum(g[j] for j in keep) / n
        trace = sum(((g[j] - mean) ** 2).sum() for j in keep) / (n - 1)
        return math.log(gain**2 / (square + trace / 9))

    found = efficiency_ratio((first @ first.T, first @ target.T), (second @ second.T, second @ target.T))
    keep = list(range(9))
    value = logarithm(first, keep) - logarithm(second, keep)
    assert found.estimate.value == pytest.approx(math.exp(value), rel=1e-9)
    without = [logarithm(first, rest) - logarithm(second, rest) for rest in ([j for j in keep if j != u] for u in keep)]
    error = math.sqrt(8 / 9 * sum((each - np.mean(without)) ** 2 for each in without))
    assert math.log(found.estimate.interval.low) == pytest.approx(value - 2.306004 * error, rel=1e-5)


def test_a_method_beside_itself_is_exactly_as_efficient():
    first, _, target = vectors(8, 2)
    strata = Strata(np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    blocks = np.array([[first @ first.T, first @ target.T], [target @ first.T, target @ target.T]])
    given = remove_noise(blocks, strata)
    found = efficiency_ratio_given(given, first @ first.T, given, first @ first.T, strata)
    assert found.estimate == (1.0, (1.0, 1.0, True))
    assert found.p == 1.0
    scaled = remove_noise(blocks * np.array([[4.0, 2.0], [2.0, 1.0]])[:, :, None, None], strata)  # twice the step
    found = efficiency_ratio_given(scaled, 4 * first @ first.T, given, first @ first.T, strata)
    assert found.estimate.value == pytest.approx(1.0)


def test_a_gain_that_is_not_positive_leaves_no_ratio():
    first, _, target = vectors(8, 3)
    found = efficiency_ratio((first @ first.T, -first @ target.T), (first @ first.T, first @ target.T))
    assert math.isnan(found.estimate.value)
    assert found.p == 1.0


@pytest.fixture(scope="module")
def listing():
    return load_testbed("eos", stale=True, prompts=3, seed=2, drift=0.4)


METHODS = "reinforce,dr-grpo,gspo,dapo,dr-grpo[ratio.anchor=behavior]"


@pytest.fixture(scope="module")
def stale(listing, registry):
    batch = draw(listing, [0, 1, 2], 60, 4, torch.Generator().manual_seed(0))
    return testbeds.evidence(listing, batch, registry.select(METHODS), registry, "stale", slots=False)


def test_the_method_without_correction_is_the_one_with_these_slots_emptied(stale, listing, registry):
    """Its gradient of the batch, from coefficients of an entry written out: advantages over a constant, no ratio."""
    batch, key = stale.batch, ("dr-grpo", UNCORRECTED)
    rewards, length = batch.reward, batch.provenance["max_new_tokens"]
    total = torch.zeros_like(batch.column("logp"))
    for row in range(batch.size):
        mine = batch.group == batch.group[row]
        total[row] = (rewards[row] - rewards[mine].mean()) / length / batch.size
    total = torch.where(batch.mask, total, 0.0)
    weights = listing.coefficients_to_vector({"logp": total}, listing.locate(batch))
    assert stale.realised(key, key) == pytest.approx(float(weights @ listing.inner @ weights), rel=1e-8)
    direct = listing.coefficients_to_vector(compile(registry.method("dr-grpo")).coefficients(batch).total,
                                            listing.locate(batch))  # fmt: skip
    cross = float(direct @ listing.inner @ weights)
    assert stale.realised(key, stale.key("dr-grpo", "task")) == pytest.approx(cross, rel=1e-8)


def test_only_methods_that_correct_have_rows_and_none_on_fresh_rollouts(stale):
    rows = correction.measure(stale)
    assert {row.method for row in rows} == set(METHODS.split(",")) - {"reinforce"}
    assert {row.metric for row in rows} == set(correction.METRICS)
    assert all(row.compared_with == "no correction" for row in rows)
    assert correction.measure(replace(stale, point="fresh")) == []


def test_without_a_target_or_a_model_it_says_so(stale):
    rows = correction.measure(replace(stale, target=None, no_target="no reference here"))
    assert {row.reason for row in rows} == {"no reference here"}
    rows = correction.measure(replace(stale, products=None, no_products="no model"))
    assert {(row.verdict, row.reason) for row in rows} == {("not assessed", "no model")}


@pytest.mark.slow
@pytest.mark.parametrize("drift", [0.2, 0.5])
def test_the_ratio_holds_the_exact_one(drift, registry):
    """Over 80 batches of 24 groups on three given prompts: the interval holds E's ratio in about 95 %.

    The truth is from 3,000 other batches: gains and squares of gradients averaged apart, as in the definition.
    """
    label = "dr-grpo[trust_region.low=0.5,trust_region.high=0.5]"
    bed = load_testbed("eos", stale=True, prompts=3, seed=2, drift=drift)
    generator, method = torch.Generator().manual_seed(1), registry.select(label)
    bare = replace(method[0], slots={**method[0].slots, "ratio": (), "trust_region": ()})
    estimators = [compile(method[0]), compile(bare)]
    target = bed.gradient()
    gains, squares = np.zeros(2), np.zeros(2)
    for _ in range(60):  # 60 · 50 batches of 24 groups of 4 to a prompt, as one batch with more prompts
        batch = draw(bed, [0, 1, 2] * 50, 24, 4, generator)
        rows = bed.locate(batch)
        for place, estimator in enumerate(estimators):
            total = estimator.coefficients(batch).total["logp"] * 50
            parts = bed.rows_to_vectors({"logp": total}, rows).reshape(50, -1, len(bed.inner)).sum(1)
            gains[place] += float((parts @ bed.inner @ target).mean()) / 60
            squares[place] += float(((parts @ bed.inner) * parts).sum(1).mean()) / 60
    truth = gains[0] ** 2 / squares[0] / (gains[1] ** 2 / squares[1])
    hits = 0
    for _ in range(80):
        batch = draw(bed, [0, 1, 2], 24, 4, generator)
        found = testbeds.evidence(bed, batch, method, registry, "stale", slots=False)
        row = next(row for row in correction.measure(found) if row.metric == "correction_effect")
        assert found.has(EXACT)
        assert found.has(REFERENCE)
        hits += row.low <= truth <= row.high
    assert hits / 80 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 80)
