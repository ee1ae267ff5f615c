"""Rows: what a verdict needs, and that storing and reading them changes nothing."""

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from gradaxis.diagnostics import storage
from gradaxis.diagnostics.measurements import (
    Measurement,
    judge,
    not_assessed,
    read_measurements,
    write_measurements,
)
from gradaxis.errors import GradaxisError, InputError

ROW = Measurement(probe="variance", metric="snr", method="grpo", estimate=2.0, low=1.5, high=2.5, n=24)


def test_an_unknown_verdict_is_refused():
    with pytest.raises(InputError, match="verdict"):
        Measurement(probe="p", metric="m", verdict="fine")


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("verdict", ["ok", "watch", "bad"])
def test_a_finding_needs_a_number(value, verdict):
    with pytest.raises(InputError, match="finite number"):
        Measurement(probe="p", metric="m", estimate=value, verdict=verdict)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_no_number_is_not_assessed_and_never_ok(value):
    row = judge(Measurement(probe="p", metric="m", estimate=value), low_is_good=True, watch=1, bad=2, source="test")
    assert (row.verdict, row.estimate) == ("not assessed", None)
    assert row.reason


def test_not_assessed_says_why():
    with pytest.raises(InputError, match="reason"):
        Measurement(probe="p", metric="m", verdict="not assessed")
    row = not_assessed(ROW, "no critic", ("value",), "give a critic (--critic)")
    assert (row.estimate, row.low, row.needs, row.advice) == (None, None, ("value",), "give a critic (--critic)")


@pytest.mark.parametrize(
    ("estimate", "low", "high", "verdict"),
    [
        (0.5, 0.4, 0.6, "ok"),  # clear of watch = 1
        (0.5, 0.4, 1.2, "unresolved"),  # may be on either side
        (1.5, 1.2, 1.8, "watch"),
        (1.5, 1.2, 2.4, "watch"),  # beyond watch for certain; only bad = 2 is open
        (2.5, 1.4, 3.0, "watch"),
        (2.5, 2.2, 3.0, "bad"),
        (2.5, 0.5, math.inf, "unresolved"),
        (0.5, None, None, "ok"),  # no interval: a plain fact
        (2.0, None, None, "bad"),
    ],
)
def test_verdicts_need_an_interval_that_clears_the_threshold(estimate, low, high, verdict):
    row = Measurement(probe="p", metric="m", estimate=estimate, low=low, high=high)
    assert judge(row, low_is_good=True, watch=1, bad=2, source="test").verdict == verdict
    mirrored = Measurement(
        probe="p", metric="m", estimate=-estimate,
        low=None if high is None else -high, high=None if low is None else -low,
    )  # fmt: skip
    assert judge(mirrored, low_is_good=False, watch=-1, bad=-2, source="test").verdict == verdict


def test_rows_come_back_as_they_were(tmp_path):
    rows = [
        ROW,
        Measurement(probe="variance", metric="critical_batch_size", low=8.0, high=math.inf, verdict="unresolved"),
        not_assessed(Measurement(probe="bias", metric="cosine", method="ppo"), "no critic", ("value", "x")),
        replace(ROW, metric="noise_ratio", p_value=0.03),
    ]
    write_measurements(rows, tmp_path)
    assert read_measurements(tmp_path) == rows
    stored = json.loads((tmp_path / "measurements.json").read_text())
    assert stored["rows"][1]["high"] == "inf"
    assert stored["rows"][0]["estimate"] == 2.0
    assert [row["p_value"] for row in stored["rows"]] == [None, None, None, 0.03]


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_p_value_is_a_probability(value):
    with pytest.raises(InputError, match="p_value"):
        replace(ROW, p_value=value)
    assert not_assessed(replace(ROW, p_value=0.5), "no critic").p_value is None


def test_no_rows_are_no_results(tmp_path):
    with pytest.raises(InputError, match="measurements"):
        read_measurements(tmp_path)
    write_measurements([], tmp_path)
    assert read_measurements(tmp_path) == []


def test_another_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gradaxis.diagnostics.measurements.SCHEMA_VERSION", 99)
    write_measurements([ROW], tmp_path)
    monkeypatch.undo()
    with pytest.raises(InputError, match="schema 99"):
        read_measurements(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    storage.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(path, {"a": math.nan})

    def fill_the_disk(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(GradaxisError, match="No space left"), storage.atomic_path(path) as temporary:
        fill_the_disk(temporary)
    assert storage.read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
