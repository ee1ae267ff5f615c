"""Experiments over drift on the embedded policy: several points, how each was made, curves, kill and resume."""

from __future__ import annotations

import itertools
import json

import pytest

from gradaxis.diagnostics import ExperimentConfig, read_measurements, run_experiment
from gradaxis.diagnostics.curves import drift_by_point
from gradaxis.errors import UsageError

PROBES = ("staleness", "mismatch", "importance", "bias", "correction")


def config(**changes):
    chosen = {"prompts": 4, "group_size": 4, "groups": 2, "methods": "reinforce,dr-grpo", "teacher": None,
              "critic": None, "behavior": None, "fresh": False, "probes": PROBES}  # fmt: skip
    return ExperimentConfig.demo(**{**chosen, **changes})


THREE = {"drift": (0.1, 0.03, 0.3)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_experiment(config(**THREE), tmp_path_factory.mktemp("drift") / "results")


def test_points_are_named_and_ordered():
    every = config(fresh=True, behavior="embedded:reference,embedded:stale", **THREE, engine=("int8", "bfloat16"))
    assert every.points == (
        "fresh", "stale-1", "stale-2", "perturbed-0.03", "perturbed-0.1", "perturbed-0.3", "engine-int8",
        "engine-bfloat16",
    )  # fmt: skip
    assert config(behavior="embedded:stale").points == ("stale",)
    assert ExperimentConfig.demo().points == ("fresh", "stale")


def test_three_drifts_make_curves(finished):
    rows = read_measurements(finished)
    drift = drift_by_point(rows)
    assert list(drift) == ["perturbed-0.03", "perturbed-0.1", "perturbed-0.3"]
    assert all(small < large for small, large in itertools.pairwise(drift.values()))  # one direction, growing noise
    for point in drift:
        exact = next(row for row in rows if (row.metric, row.point, row.probe) == ("exact_kl", point, "staleness"))
        assert drift[point] == exact.estimate
        assert not [row for row in rows if row.metric == "exact_kl" and row.probe == "mismatch"]
    effects = [row for row in rows if row.metric == "correction_effect"]
    assert {(row.method, row.point) for row in effects} == {("dr-grpo", point) for point in drift}
    assert all(row.p_value is not None for row in effects if row.estimate is not None)
    ends = {(row.method, row.metric): row for row in rows if row.probe == "curves"}
    assert set(ends) == {
        ("reinforce", "direction_holds_until"), ("dr-grpo", "correction_helps_until"),
        ("dr-grpo", "direction_holds_until"), ("dr-grpo", "correction_stops_helping"),
    }  # fmt: skip
    for row in ends.values():
        assert row.point == ""
        assert row.part == "perturbed weights"
        assert row.estimate is not None or row.reason


def test_provenance_says_how_each_point_was_made(finished):
    points = json.loads((finished / "provenance.json").read_text())["points"]
    assert points["perturbed-0.1"]["rollouts"]["sampler"] == {
        "kind": "perturbed weights", "synthetic": True, "noise": 0.1, "seed": 0,
    }  # fmt: skip
    assert points["perturbed-0.1"]["rollouts"]["policy"].startswith("embedded:policy with noise 0.1@")
    assert len({points[point]["rollouts"]["policy"] for point in points}) == 3


class Killed(Exception):
    """Stands for a kill: nothing in the package catches it."""


def test_killed_between_points_and_resumed(finished, tmp_path):
    folder, moment = tmp_path / "results", "perturbed-0.1: sampling"

    def kill(stage, done, total):
        if stage == moment and done > 0:
            raise Killed

    with pytest.raises(Killed):
        run_experiment(config(**THREE), folder, kill)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*-perturbed-*")}
    assert "rows-perturbed-0.03.json" in before
    seen = []
    run_experiment(config(**THREE), folder, lambda stage, done, total: seen.append(stage))
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert not [stage for stage in seen if stage.startswith("perturbed-0.03")]
    assert list(map(repr, read_measurements(folder))) == list(map(repr, read_measurements(finished)))


def test_several_checkpoints_are_numbered_by_measured_drift(tmp_path):
    """Given in the wrong order, and killed between the two samplings."""
    behavior = "embedded:reference,embedded:stale"
    chosen = config(behavior=behavior, methods="reinforce", groups=1, probes=("staleness",), enumerate=False)
    folder = tmp_path / "results"

    def kill(stage, done, total):
        if stage == "stale: sampling" and (folder / "rollouts-checkpoint-1.parquet").is_file():
            raise Killed

    with pytest.raises(Killed):
        run_experiment(chosen, folder, kill)
    first = (folder / "rollouts-checkpoint-1.parquet").stat().st_mtime_ns
    run_experiment(chosen, folder)
    order = json.loads((folder / "checkpoints.json").read_text())
    rows = read_measurements(folder)
    measured = {row.point: row.estimate or 0.0 for row in rows if (row.probe, row.metric) == ("staleness", "k3_kl")}
    assert list(measured) == ["stale-1", "stale-2"]
    assert measured["stale-1"] < measured["stale-2"]
    for point, facts in order.items():
        assert facts["k3_kl"] == pytest.approx(measured[point], rel=1e-4)
        provenance = json.loads((folder / "provenance.json").read_text())["points"][point]["rollouts"]
        assert provenance["policy"].startswith(facts["model"])
        assert provenance["sampler"]["kind"] == "older checkpoint"
    assert [facts["model"] for facts in order.values()] == ["embedded:stale", "embedded:reference"]
    assert (folder / "rollouts-stale-2.parquet").stat().st_mtime_ns == first  # taken over, not sampled again
    assert not list(folder.glob("rollouts-checkpoint-*"))
    (row,) = (row for row in rows if row.probe == "curves")
    assert row.verdict == "not assessed"


def test_another_engine_is_mismatch_and_no_staleness(tmp_path):
    chosen = config(engine=("int8", "bfloat16"), methods="dr-grpo,dr-grpo[ratio.anchor=behavior]")
    rows = read_measurements(run_experiment(chosen, tmp_path / "results"))
    pick = {(row.point, row.probe, row.metric): row.estimate or 0.0 for row in rows if not row.method}
    for point in ("engine-int8", "engine-bfloat16"):
        assert pick[point, "staleness", "k3_kl"] == 0.0
        assert pick[point, "mismatch", "k3_kl"] > 1e-6
        assert pick[point, "mismatch", "probs_diff_max"] > 1e-4
    assert ("engine-int8", "mismatch", "exact_kl") in pick
    assert ("engine-bfloat16", "mismatch", "exact_kl") not in pick  # its rounding depends on what shares a pass
    effects = {(row.point, row.method): row for row in rows if row.metric == "correction_effect"}
    old, own = (effects["engine-int8", label] for label in ("dr-grpo", "dr-grpo[ratio.anchor=behavior]"))
    assert old.estimate is None
    assert "corrects nothing" in old.reason  # its ratio is against the start of the update
    assert own.estimate == pytest.approx(1.0, abs=0.05)
    assert not own.reason


@pytest.mark.parametrize("changes", [{"drift": (0.1,)}, {"engine": ("int8",)}, {"behavior": "a,b"}])
def test_rollouts_from_a_file_are_at_one_point(changes, tmp_path):
    with pytest.raises(UsageError, match="one point"):
        run_experiment(config(rollouts="some.parquet", **changes), tmp_path / "results")
