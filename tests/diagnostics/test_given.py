"""Prompts taken as given, groups as units: coverage where prompts differ widely, hand numbers, and the real policy."""

import math

import numpy as np
import pytest

from gradaxis.diagnostics.statistics import (
    Strata,
    cosine_change_given,
    cosine_change_of_means,
    cosine_given,
    cosine_of_means,
    cosine_with_known,
    efficiency_given,
    fieller,
    freedom,
    gain_given,
    gain_on_known,
    realised_cosine,
    realised_cosine_given,
    remove_noise,
    share_interval,
    split,
    stratified_mean,
    stratified_ratio,
)
from gradaxis.diagnostics.units import Groups, pseudo_values_by_group, sums_by_group

P, M, D = 24, 4, 20
STRATA = Strata(np.repeat(np.arange(P), M))


def blocks_of(*parts):
    return np.array([[one @ other.T for other in parts] for one in parts])


@pytest.fixture(scope="module")
def prompts():
    """Prompts that differ far more than their groups: known vectors, the method's means, and each prompt's noise."""
    generator = np.random.default_rng(0)
    t = generator.standard_normal(D) + 3.0 * generator.standard_normal((P, D))
    means = 0.6 * t + 0.8 * generator.standard_normal((P, D)) + 0.35 * generator.standard_normal(D)
    return t, means, generator.uniform(0.1, 2.0, P)


def draws(prompts, count):
    """Group gradients with the noise of their prompt, and the noise of a reference that shares part of it."""
    generator = np.random.default_rng(1)
    t, means, sizes = prompts
    spread = sizes[STRATA.of][:, None]
    for _ in range(count):
        e = spread * generator.standard_normal((P * M, D))
        yield means[STRATA.of] + 0.7 * e + 0.5 * spread * generator.standard_normal((P * M, D)), t[STRATA.of], e


def test_intervals_cover_and_hold_no_differences_between_prompts(prompts):
    t, means, sizes = prompts
    target, mean = t.mean(0), means.mean(0)
    gain = mean @ target / (target @ target)
    cosine = mean @ target / np.linalg.norm(mean) / np.linalg.norm(target)
    # |ĝ|² is expected to be |mean|² and the noise of the mean: D (.7² + .5²) Σ_p size_p² / (P² M).
    square = mean @ mean + D * 0.74 * (sizes**2).sum() / (P**2 * M)
    efficiency = (mean @ target) ** 2 / (target @ target) / square
    truth = {"gain": gain, "cosine": cosine, "efficiency": efficiency}
    hits, widths = dict.fromkeys(truth, 0), {"given": [], "prompts": []}
    for g, known, e in draws(prompts, 400):
        units = remove_noise(blocks_of(g, known, e), STRATA)
        found = {"gain": gain_given(units, STRATA), "cosine": cosine_given(units, STRATA),
                 "efficiency": efficiency_given(units, g @ g.T, STRATA)}  # fmt: skip
        for name, estimate in found.items():
            hits[name] += estimate.interval.low <= truth[name] <= estimate.interval.high
        together = [part.reshape(P, M, D).mean(1) for part in (g, known, e)]
        old = split(blocks_of(*together))
        pairs = {"given": (found["gain"], found["cosine"]), "prompts": (gain_on_known(old), cosine_with_known(old))}
        for name, pair in pairs.items():
            widths[name].append([estimate.interval.high - estimate.interval.low for estimate in pair])
    assert all(count / 400 >= 0.92 for count in hits.values()), hits
    assert np.all(np.mean(widths["given"], 0) < 0.5 * np.mean(widths["prompts"], 0)), widths


def test_the_cosine_of_a_parallel_method_is_covered_at_its_edge(prompts):
    # The true cosine is 1, where the part across the target has mean zero and its square is all noise.
    t, _, sizes = prompts
    generator, hits = np.random.default_rng(2), 0
    for _ in range(400):
        noise = sizes[STRATA.of][:, None] * generator.standard_normal((P * M, D))
        units = remove_noise(blocks_of(0.5 * t[STRATA.of] + noise, t[STRATA.of]), STRATA)
        hits += cosine_given(units, STRATA).interval.high == 1.0
    assert hits / 400 >= 0.92


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def span(interval):
    return interval.high - interval.low


@pytest.mark.parametrize(("parallel", "narrower"), [(False, 0.8), (True, 1.0)])
def test_the_change_of_the_cosine_is_covered_and_pairing_narrows_it(prompts, parallel, narrower):
    """Two methods that share most of their noise; the second leans less, or points along the target itself."""
    t, means, sizes = prompts
    others = 0.6 * t if parallel else means + 0.4 * t
    truth = cosine(others.mean(0), t.mean(0)) - cosine(means.mean(0), t.mean(0))
    generator, hits, widths = np.random.default_rng(6), 0, []
    for g, known, e in draws(prompts, 300):
        own_noise = 0.2 * sizes[STRATA.of][:, None] * generator.standard_normal(g.shape)
        both = g, g + (others - means)[STRATA.of] + own_noise
        first, second = (remove_noise(blocks_of(one, known, e), STRATA) for one in both)
        change = cosine_change_given(first, second, STRATA)
        ends = [cosine_given(one, STRATA).interval for one in (first, second)]
        hits += change.interval.low <= truth <= change.interval.high
        widths.append((span(change.interval), span(ends[0]) + span(ends[1])))
    assert hits / 300 >= 0.92
    assert np.mean(widths, 0)[0] < narrower * np.mean(widths, 0)[1]


def test_no_change_of_the_cosine_where_one_direction_is_hidden(prompts):
    t = prompts[0][STRATA.of]
    noise = np.random.default_rng(7).standard_normal(t.shape) * 100
    pair = remove_noise(blocks_of(t, t), STRATA), remove_noise(blocks_of(noise, t), STRATA)
    change = cosine_change_given(*pair, STRATA)
    assert math.isnan(change.value)
    assert change.interval == (-math.inf, math.inf, False)


def test_the_change_of_the_cosine_over_draws_is_covered_and_narrower():
    """Prompts as draws, and a target that is itself estimated on them."""
    generator, size = np.random.default_rng(8), 40
    mean = generator.standard_normal(D)
    across = generator.standard_normal(D)
    across -= across @ mean / (mean @ mean) * mean
    truth = cosine(mean + 0.3 * across, mean) - cosine(mean + 0.8 * across, mean)
    hits, widths = 0, []
    for _ in range(300):
        noise = generator.standard_normal((size, D))
        a, b, t = (mean + lean * across + noise + 0.3 * generator.standard_normal((size, D)) for lean in (0.8, 0.3, 0))
        change = cosine_change_of_means(a @ a.T, b @ b.T, t @ t.T, a @ t.T, b @ t.T)
        ends = [cosine_of_means(one @ one.T, t @ t.T, one @ t.T).interval for one in (a, b)]
        hits += change.interval.low <= truth <= change.interval.high
        widths.append((span(change.interval), span(ends[0]) + span(ends[1])))
    assert hits / 300 >= 0.92
    assert np.mean(widths, 0)[0] < 0.8 * np.mean(widths, 0)[1]


def test_a_realised_cosine_in_one_stratum_is_that_of_the_jackknife():
    generator, strata = np.random.default_rng(9), Strata(np.zeros(60, dtype=np.int64))
    a = 1.0 + generator.standard_normal((60, 4))
    b = a + generator.standard_normal((60, 4))
    products = a @ a.T, b @ b.T, a @ b.T
    value, interval = realised_cosine_given(*products, strata)
    known = realised_cosine(*products)
    assert value == pytest.approx(cosine(a.mean(0), b.mean(0)))
    assert span(interval) == pytest.approx(span(known.interval), rel=0.1)


def test_a_stratified_mean_by_hand():
    # Strata (0, 2) and (10, 12, 14): means 1 and 12, variances 2 and 4; x̄ = 6.5, Var = (2/2 + 4/3)/4 = 7/12.
    strata, values = Strata(np.array([0, 0, 1, 1, 1])), np.array([0.0, 2.0, 10.0, 12.0, 14.0])
    # Satterthwaite: parts 1/4 and 1/3 with 1 and 2 degrees of freedom, (7/12)² / (1/16 + 1/18) = 49/17.
    squares = strata.centre(values) ** 2
    assert freedom(squares, strata) == pytest.approx(49 / 17)
    mean, (low, high, _) = stratified_mean(values, strata)
    assert mean == pytest.approx(6.5)
    # Student's 97.5 % quantile with 49/17 = 2.882 degrees of freedom lies between those of 2 (4.303) and 3 (3.182).
    assert 3.182 < (high - low) / 2 / math.sqrt(7 / 12) < 4.303
    assert stratified_ratio(3 * values, values, strata).interval == pytest.approx((3.0, 3.0, True))


def test_without_noise_all_strata_share_the_freedom():
    strata = Strata(np.array([0, 0, 1, 1, 1]))
    assert freedom(np.zeros(5), strata) == 3.0


def test_no_cosine_without_a_gain(prompts):
    t, _, _ = prompts
    noise = np.random.default_rng(3).standard_normal((P * M, D)) * 100
    cosine = cosine_given(remove_noise(blocks_of(noise, t[STRATA.of]), STRATA), STRATA)
    assert math.isnan(cosine.value)
    assert cosine.interval == (-1.0, 1.0, False)


def test_a_gradient_against_the_target_has_a_negative_cosine(prompts):
    t = prompts[0][STRATA.of]
    assert cosine_given(remove_noise(blocks_of(-2.0 * t, t), STRATA), STRATA).value == pytest.approx(-1.0)


def test_pseudo_values_of_a_linear_method_are_its_groups():
    # A mean over sequences: leaving group u out makes (M ĝ − x_u) / (M − 1) of the batch, laid out without its rows.
    generator = np.random.default_rng(4)
    groups = Groups(np.repeat(np.arange(6), 2), Strata(np.repeat(np.arange(3), 2)))
    weights = generator.standard_normal((12, 3))
    without = [np.where((groups.units == unit)[:, None], 0.0, weights * 6 / 5) for unit in range(6)]
    rows = pseudo_values_by_group(weights, without, groups)
    assert rows == pytest.approx(sums_by_group(weights, groups))
    assert groups.strata.share @ rows == pytest.approx(weights.reshape(-1))


def test_unequal_numbers_of_groups_keep_the_gradient_of_the_batch():
    groups = Groups(np.array([0, 0, 1, 2, 3, 4]), Strata(np.array([0, 0, 1, 1, 1])))
    weights = np.random.default_rng(5).standard_normal((6, 2))
    assert groups.strata.share @ sums_by_group(weights, groups) == pytest.approx(weights.reshape(-1))


@pytest.mark.parametrize("shares", [[0.0] * 24, [1.0] * 24, [0.25, *[0.0] * 23]])
def test_a_share_has_its_interval_between_0_and_1(shares):
    low, high, _ = share_interval(np.array(shares), np.full(24, 8))
    assert 0 <= low <= np.mean(shares) <= high <= 1
    assert high - low > 0.01


def test_a_share_by_hand():
    # Two clusters of 8, shares 1/4 and 3/4: p = 1/2, Var = (1/8)/2 = 1/16, n = .25 · 16 = 4, t² with one degree of
    # freedom 161.45: half width √(t²/16 + t⁴/64) / (1 + t²/4) = √(10.09 + 407.3) / 41.36 = .4940.
    low, high, _ = share_interval(np.array([0.25, 0.75]), np.array([8, 8]))
    assert (low, high) == (pytest.approx(0.006, abs=1e-3), pytest.approx(0.994, abs=1e-3))


def test_an_open_ratio_of_squares_does_not_start_below_zero():
    covariance = np.array([[4.0, -1.9], [-1.9, 1.0]])
    assert all(
        fieller(a, b, covariance, 24, floor=0.0).low >= 0 for a in (-3, -1, 1, 3) for b in (-1.5, -0.5, 0.5, 1.5)
    )
