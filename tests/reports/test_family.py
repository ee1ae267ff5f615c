"""The family of statements: p-values from intervals, and how often a report on noise says anything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gradaxis.diagnostics.measurements import Measurement
from gradaxis.reports.family import Family, family_of, p_against, p_between


def _row(estimate: float, half: float, metric: str = "entropy_change", n: int = 24, **fields: object) -> Measurement:
    return Measurement("probe", metric, "grpo", estimate=estimate, low=estimate - half, high=estimate + half, n=n,
                       **fields)  # type: ignore[arg-type]  # fmt: skip


def test_p_of_a_t_interval_is_that_of_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.4, 1.0, 24)
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(0.95)
    row = _row(float(values.mean()), (interval.high - interval.low) / 2)
    assert p_against(row, 0.0) == pytest.approx(test.pvalue, rel=1e-9)  # pyright: ignore[reportAttributeAccessIssue]


def test_p_is_below_five_percent_exactly_where_the_interval_excludes() -> None:
    row = Measurement("probe", "gain", estimate=1.0, low=0.5, high=3.0, n=10)
    assert p_against(row, 0.5) == pytest.approx(0.05)
    assert p_against(row, 3.0) == pytest.approx(0.05)
    assert p_against(row, 0.4) < 0.05 < p_against(row, 0.6)


def test_without_an_end_nothing_is_clear() -> None:
    row = Measurement("probe", "gain", estimate=1.0, low=-math.inf, high=3.0, n=10)
    assert p_against(row, 0.0) == 1.0
    assert p_against(Measurement("probe", "gain", low=0.1, high=3.0), 0.0) == 1.0


def test_points_are_compared_as_independent_means() -> None:
    # Halves 3 and 4 make one of 5; with many units a gap of 5 has p = .05.
    before, after = _row(0.0, 3.0, n=10**6), _row(5.0, 4.0, n=10**6)
    assert p_between(before, after) == pytest.approx(0.05, abs=1e-5)


def test_cut_is_that_of_benjamini_and_hochberg() -> None:
    # p = .001, .012, .03 and .2 of four: .012 ≤ .05·2/4 holds and .03 ≤ .05·3/4 too, .2 ≤ .05 fails. The cut is .03.
    wanted = (0.001, 0.012, 0.03, 0.2)
    t = [float(stats.t.isf(p / 2, 23)) for p in wanted]
    rows = [_row(value, float(stats.t.isf(0.025, 23))) for value in t]
    family = family_of(rows)
    assert family.tests == 4
    assert family.cut == pytest.approx(0.03, rel=1e-6)
    assert [family.clear(row, 0.0) for row in rows] == [True, True, True, False]


def test_alone_a_row_may_be_clear_and_not_among_many() -> None:
    row = _row(1.0, 0.95)  # p just below .05
    assert family_of([row]).clear(row, 0.0)
    assert not family_of([row, *(_row(0.1, 1.0) for _ in range(9))]).clear(row, 0.0)


def test_nothing_is_tested_without_rows() -> None:
    assert family_of([]) == Family(0, 0.0)
    assert "No statement" in family_of([]).text


def test_noise_is_seldom_called_anything() -> None:
    """Thirty true nulls a report, correlated as methods on one batch are: a statement in at most 5 % of reports."""
    generator, reports = np.random.default_rng(1), 1000
    spoken = 0
    for _ in range(reports):
        shared = generator.normal(size=(24, 1))
        values = 0.6 * shared + 0.8 * generator.normal(size=(24, 30))
        half = stats.t.isf(0.025, 23) * values.std(axis=0, ddof=1) / math.sqrt(24)
        rows = [_row(mean, width) for mean, width in zip(values.mean(axis=0), half, strict=True)]
        family = family_of(rows)
        spoken += any(family.clear(row, 0.0) for row in rows)
    assert spoken / reports < 0.05 + 3 * math.sqrt(0.05 * 0.95 / reports)
