"""Where a correction stops helping, on rows written by hand."""

from __future__ import annotations

import math

import pytest

from gradaxis.diagnostics.curves import Bracket, bracket, curves_of, drift_by_point, earlier, end_of_corrections
from gradaxis.diagnostics.measurements import Measurement

DRIFT = {"stale-1": 0.001, "stale-2": 0.01, "stale-3": 0.1}


def drifts(points=DRIFT, probe="staleness"):
    return [Measurement(probe, "k3_kl", point=point, estimate=value) for point, value in points.items()]


def effects(*values, method="grpo", points=DRIFT):
    """(ratio of efficiencies, p-value) at each point."""
    return [Measurement("correction", "correction_effect", method, point, estimate=ratio, p_value=p)
            for point, (ratio, p) in zip(points, values, strict=True)]  # fmt: skip


def cosines(*values, method="grpo", points=DRIFT):
    return [Measurement("bias", "cosine", method, point, estimate=value, low=value - 0.02, high=value + 0.02)
            for point, value in zip(points, values, strict=True)]  # fmt: skip


def found(rows, metric="correction_helps_until", method="grpo"):
    (row,) = (row for row in end_of_corrections(rows) if (row.metric, row.method) == (metric, method))
    return row


@pytest.mark.parametrize(
    ("states", "values", "expected"),
    [
        # log 2 to −log 2 between 0.01 and 0.1: half way in the logarithm
        ([1, 1, -1], [2.0, 1.0, -1.0], Bracket(0.01, 0.1, math.sqrt(0.01 * 0.1))),
        # three quarters of the way down: 0.01 · 10^(3/4)
        ([1, 1, -1], [2.0, 3.0, -1.0], Bracket(0.01, 0.1, 0.01 * 10**0.75)),
        # undecided in the middle: the crossing lies in the part where the estimates change sign
        ([1, 0, -1], [2.0, -1.0, -1.0], Bracket(0.001, 0.1, 0.001 * 10 ** (2 / 3))),
        ([1, 0, -1], [2.0, math.nan, -2.0], Bracket(0.001, 0.1, 0.01)),
        ([1, 1, 1], [1.0, 1.0, 1.0], Bracket(0.1, math.inf)),
        ([1, 0, 0], [1.0, 1.0, -1.0], Bracket(0.001, math.inf)),
        ([0, 0, -1], [1.0, 1.0, -1.0], Bracket(0.0, 0.1)),
        ([-1, 1, 1], [-1.0, 1.0, 1.0], Bracket(0.0, 0.001)),
        ([0, 0, 0], [1.0, 1.0, -1.0], Bracket(0.0, math.inf)),
    ],
)
def test_brackets_by_hand(states, values, expected):
    result = bracket(list(DRIFT.values()), states, values)
    assert result[:2] == expected[:2]
    assert result.estimate == pytest.approx(expected.estimate, nan_ok=True)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Bracket(0.1, 0.3, 0.2), Bracket(0.5, 0.9, 0.7), Bracket(0.1, 0.3, 0.2)),
        (Bracket(0.1, 0.3, 0.2), Bracket(0.4, math.inf), Bracket(0.1, 0.3, 0.2)),
        (Bracket(0.1, 0.3, 0.2), Bracket(0.0, math.inf), Bracket(0.0, 0.3)),  # the other may have ended before
    ],
)
def test_the_first_of_two_ends(one, other, expected):
    for result in (earlier(one, other), earlier(other, one)):
        assert result[:2] == expected[:2]
        assert result.estimate == pytest.approx(expected.estimate, nan_ok=True)


def test_a_correction_that_helps_and_then_hurts():
    row = found(drifts() + effects((2.0, 1e-4), (2.0, 1e-4), (0.5, 1e-4)))
    assert (row.low, row.high, row.n) == (0.01, 0.1, 3)
    assert row.estimate == pytest.approx(math.sqrt(0.001))
    assert "logarithm" in row.interval
    assert row.unit == "nats a token"


def test_a_correction_that_helps_throughout_has_an_open_end():
    row = found(drifts() + effects((1.5, 1e-4), (2.0, 1e-4), (3.0, 1e-4)))
    assert (row.estimate, row.low, row.high) == (None, 0.1, math.inf)
    assert row.verdict == "not applicable"
    assert "largest drift" in row.reason


def test_what_intervals_do_not_decide_is_unresolved():
    row = found(drifts() + effects((1.5, 0.4), (2.0, 0.3), (0.5, 0.2)))
    assert (row.estimate, row.low, row.high, row.verdict) == (None, 0.0, math.inf, "unresolved")


def test_p_values_are_adjusted_over_the_curve():
    """Three tests: .02 alone would do, and 3 · .02 = .06 does not; .01 with .02 and .02 does (Holm: .03, .04, .04)."""
    row = found(drifts() + effects((1.5, 0.02), (2.0, 0.8), (0.5, 0.9)))
    assert row.low == 0.0
    row = found(drifts() + effects((1.5, 0.01), (2.0, 0.02), (0.5, 0.02)))
    assert (row.low, row.high) == (0.01, 0.1)


def test_a_direction_that_falls_below_the_threshold():
    rows = drifts() + cosines(0.99, 0.95, 0.85) + effects((2.0, 1e-4), (2.0, 1e-4), (2.0, 1e-4))
    row = found(rows, "direction_holds_until")
    assert (row.low, row.high) == (0.01, 0.1)
    assert row.estimate == pytest.approx(math.sqrt(0.001))  # .95 and .85 lie .05 above and below .9
    assert found(rows, "correction_stops_helping").estimate == pytest.approx(math.sqrt(0.001))


def test_a_direction_that_was_lost_without_drift_is_not_blamed_on_it():
    rows = drifts() + cosines(0.8, 0.7, 0.6) + cosines(0.82, points=["fresh"])
    row = found(rows, "direction_holds_until")
    assert (row.estimate, row.low, row.verdict) == (None, None, "not applicable")
    assert "without any drift" in row.reason


def test_a_correction_that_never_acts_is_not_judged():
    inert = [Measurement("correction", "correction_effect", "grpo", point, reason="its ratios are 1")
             for point in ("engine-int8", "engine-float16", "engine-bfloat16")]  # fmt: skip
    points = {"engine-int8": 1e-4, "engine-float16": 1e-5, "engine-bfloat16": 1e-3}
    row = found(drifts(points, "mismatch") + inert)
    assert (row.verdict, row.reason, row.part) == ("not applicable", "its ratios are 1", "sampling engines")


def test_fewer_than_three_points_are_not_assessed():
    few = {"stale": 0.1}
    (row,) = end_of_corrections(drifts(few) + effects((2.0, 1e-4), points=few))
    assert (row.verdict, row.method, row.point) == ("not assessed", "", "stale")
    assert "--behavior" in row.advice
    assert "--drift" in row.advice
    assert end_of_corrections(drifts({"fresh": 0.0})) == []


def test_points_lie_where_their_drift_was_measured():
    """By what was measured and not by name; exact where it is known; staleness and mismatch apart."""
    rows = drifts({"stale-1": 0.5, "stale-2": 0.2, "perturbed-0.1": 0.3, "fresh": 0.0})
    rows += drifts({"stale-1": 1e-9, "engine-int8": 1e-4}, "mismatch")
    rows.append(Measurement("staleness", "exact_kl", point="perturbed-0.1", estimate=0.25))
    assert drift_by_point(rows) == {"stale-1": 0.5, "stale-2": 0.2, "perturbed-0.1": 0.25, "engine-int8": 1e-4}
    rows += cosines(0.8, 0.9, points=["stale-1", "stale-2"])
    (curve,) = curves_of(rows)
    assert (curve.kind, curve.metric, curve.drift) == ("older checkpoints", "cosine", (0.2, 0.5))
    assert [row.estimate for row in curve.rows] == [0.9, 0.8]
