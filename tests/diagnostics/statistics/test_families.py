"""Families: hand numbers, scipy's own correction, and error rates over many draws of nothing but noise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradaxis.diagnostics.statistics import benjamini_hochberg, holm, max_t, student
from gradaxis.errors import InputError


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, made to rise: .02 .03 .06 .06.
    assert holm(np.array([0.03, 0.005, 0.04, 0.01])) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    assert holm(np.array([0.6, 0.7])) == pytest.approx([1.0, 1.0])


def test_benjamini_hochberg_by_hand():
    # Sorted .005 .01 .03 .04 times 4/1 4/2 4/3 4/4: .02 .02 .04 .04.
    assert benjamini_hochberg(np.array([0.03, 0.005, 0.04, 0.01])) == pytest.approx([0.04, 0.02, 0.04, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_is_that_of_scipy(p):
    assert benjamini_hochberg(np.array(p)) == pytest.approx(stats.false_discovery_control(p))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusting_keeps_order_and_never_lowers(p):
    values = np.array(p)
    for adjusted in (holm(values), benjamini_hochberg(values)):
        assert np.all(adjusted >= values)
        assert np.all(np.diff(adjusted[np.argsort(values, kind="stable")]) >= -1e-15)
    assert np.all(holm(values) >= benjamini_hochberg(values) - 1e-15)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p", [[0.5, math.nan], [1.2], [-0.1]])
def test_what_is_no_p_value_is_refused(adjust, p):
    with pytest.raises(InputError, match="0 to 1"):
        adjust(np.array(p))
    assert len(adjust(np.array([]))) == 0


def mean_and_leave_out(values):
    return values.mean(0), (values.sum(0) - values) / (len(values) - 1)


@given(st.integers(3, 40), st.integers(0, 1000))
def test_max_t_of_one_test_is_students(n, seed):
    values = np.random.default_rng(seed).standard_normal((n, 1)) + 0.5
    found = max_t(*mean_and_leave_out(values))
    test = stats.ttest_1samp(values[:, 0], 0.0)
    assert found.p[0] == pytest.approx(test[1])
    assert found.half[0] == pytest.approx(student(n) * values.std(ddof=1) / math.sqrt(n))


def test_copies_of_one_test_cost_nothing():
    values = np.random.default_rng(1).standard_normal((20, 1)) + 0.4
    found = max_t(*mean_and_leave_out(np.hstack([values, -3 * values, values])))
    alone = stats.ttest_1samp(values[:, 0], 0.0)[1]
    assert found.p == pytest.approx(alone, abs=0.02)
    assert found.half[1] == pytest.approx(3 * found.half[0])


def test_max_t_of_many_independent_tests_is_sidaks():
    # With 200 units and 30 independent tests: 1 − (1 − p)^30, and the quantile at 1 − .95^(1/30).
    values = np.random.default_rng(2).standard_normal((200, 30))
    found = max_t(*mean_and_leave_out(values))
    alone = np.asarray(stats.ttest_1samp(values, 0.0)[1])
    assert found.p == pytest.approx(1 - (1 - alone) ** 30, abs=0.03)
    quantile = found.half / values.std(0, ddof=1) * math.sqrt(200)
    assert quantile == pytest.approx(stats.t.isf((1 - 0.95 ** (1 / 30)) / 2, 199), rel=0.03)


@pytest.mark.parametrize(("n", "k", "shared"), [(8, 12, 0.0), (16, 8, 0.9)])
def test_under_noise_alone_a_family_errs_as_often_as_it_says(n, k, shared):
    generator, runs = np.random.default_rng(n + k), 300
    wrong = dict.fromkeys(("max-t", "half", "holm"), 0)
    for _ in range(runs):
        values = math.sqrt(1 - shared) * generator.standard_normal((n, k))
        values += math.sqrt(shared) * generator.standard_normal((n, 1))
        estimates, without = mean_and_leave_out(values)
        found = max_t(estimates, without)
        wrong["max-t"] += found.p.min() <= 0.05
        wrong["half"] += bool(np.any(np.abs(estimates) > found.half))
        wrong["holm"] += holm(np.asarray(stats.ttest_1samp(values, 0.0)[1])).min() <= 0.05
    # 300 runs of a rate of .05: above .09 once in a thousand.
    assert all(count / runs <= 0.09 for count in wrong.values()), wrong
    if shared:  # Bonferroni pays for eight tests, max-t for little more than one
        assert wrong["max-t"] > wrong["holm"]


def test_the_false_share_among_findings_is_bounded():
    generator, shares = np.random.default_rng(4), []
    for _ in range(400):
        ratio = generator.standard_normal(40)
        ratio[:10] += 3.0
        found = benjamini_hochberg(2 * stats.norm.sf(np.abs(ratio))) <= 0.05
        shares.append(found[10:].sum() / max(found.sum(), 1))
    assert np.mean(shares) < 0.05


def test_statistics_without_spread_or_without_a_value():
    without = np.column_stack([np.full(5, 2.0), np.zeros(5), [1.0, 2.0, 3.0, 4.0, math.nan]])
    found = max_t(np.array([2.0, 0.0, 2.5]), without)
    assert found.p.tolist() == [0.0, 1.0, 1.0]
    assert found.half.tolist() == [0.0, 0.0, math.inf]
    with pytest.raises(InputError, match="k"):
        max_t(np.zeros(3), np.zeros((5, 2)))
