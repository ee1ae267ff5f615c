"""Experiments: kill and resume, another configuration, files instead of sampling, inner steps, missing models."""

from pathlib import Path

import pytest

from gradaxis.diagnostics import ExperimentConfig, read_measurements, run_experiment
from gradaxis.diagnostics.storage import read_json
from gradaxis.errors import InputError, UsageError

METHODS = "reinforce,rloo,grpo,dr-grpo,dapo,gspo"


def config(**changes):
    chosen = {"prompts": 6, "group_size": 4, "methods": METHODS, "teacher": None, "critic": None}
    return ExperimentConfig.demo(**{**chosen, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_experiment(config(), tmp_path_factory.mktemp("finished") / "results")


def comparable(folder):
    return [repr(row) for row in read_measurements(folder)]


def stamps(folder):
    names = [path for path in folder.iterdir() if path.name.split("-")[0] in ("rollouts", "scored", "gram", "rows")]
    return {path.name: path.stat().st_mtime_ns for path in names}


class Killed(Exception):
    """Stands for a kill: nothing in the package catches it."""


@pytest.mark.parametrize(
    "moment", ["fresh: sampling", "fresh: gradients", "fresh: probes", "stale: scoring", "stale: gradients"]
)
def test_killed_and_resumed_gives_the_same_rows_and_repeats_nothing(moment, finished, tmp_path):
    folder = tmp_path / "results"

    def kill(stage, done, total):
        if stage == moment and done > 0:
            raise Killed

    with pytest.raises(Killed):
        run_experiment(config(), folder, kill)
    before = stamps(folder)
    seen = []
    run_experiment(config(), folder, lambda stage, done, total: seen.append(stage))
    after = stamps(folder)
    assert {name: after[name] for name in before} == before
    assert comparable(folder) == comparable(finished)
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".partial")]
    if moment.startswith("stale"):
        assert not [stage for stage in seen if stage.startswith("fresh")]


def test_a_finished_experiment_is_not_run_again(finished):
    before = stamps(finished)
    seen = []
    run_experiment(config(), finished, lambda stage, done, total: seen.append(stage))
    assert stamps(finished) == before
    assert set(seen) == {"points"}


def test_another_configuration_is_refused(finished):
    with pytest.raises(InputError, match="--output") as caught:
        run_experiment(config(seed=1), finished)
    assert "seed 0" in str(caught.value)


def test_a_run_that_failed_before_any_work_leaves_the_folder_free(tmp_path):
    with pytest.raises(UsageError, match="nothing"):
        run_experiment(config(policy="embedded:nothing", behavior=None), tmp_path)
    assert read_measurements(run_experiment(config(behavior=None, methods="dr-grpo"), tmp_path))


def test_what_is_stored(finished):
    stored = read_json(finished / "config.json")
    assert stored["fingerprint"] == config().fingerprint
    assert ExperimentConfig(**{k: v for k, v in stored.items() if k != "fingerprint"}) == config()
    provenance = read_json(finished / "provenance.json")
    assert provenance["versions"]["torch"]
    assert provenance["points"]["stale"]["rollouts"]["policy"].startswith("embedded:stale@")
    assert provenance["points"]["stale"]["rollouts"]["scored_by"]["logp"].startswith("embedded:policy@")
    assert provenance["points"]["fresh"]["gram"]["exact"] is True
    assert read_json(finished / "methods.json")["dapo"]["relative"]["parent"]["relative_to"] == "grpo"
    assert {row.point for row in read_measurements(finished)} == {"fresh", "stale"}


def test_a_missing_model_makes_rows_and_stops_nobody(tmp_path):
    folder = run_experiment(config(reference=None, behavior=None, methods="grpo,dr-grpo,ppo"), tmp_path / "r")
    rows = read_measurements(folder)
    absent = {row.method: row for row in rows if row.metric == "assessed"}
    assert absent["grpo"].needs == ("ref_logp",)
    assert "--reference" in absent["grpo"].advice
    assert "--critic" in absent["ppo"].advice
    assert all(row.verdict == "not assessed" for row in absent.values())
    assert any(row.method == "dr-grpo" and row.estimate is not None for row in rows)
    assert not any(row.method == "grpo" and row.estimate is not None for row in rows)


def test_rollouts_from_a_file_without_a_model(finished, tmp_path):
    file = finished / "scored-stale.parquet"
    folder = run_experiment(ExperimentConfig(rollouts=str(file), methods="grpo,dr-grpo"), tmp_path / "r")
    rows = read_measurements(folder)
    assert {row.point for row in rows} == {"stale"}
    assert any(row.metric == "ess" and row.estimate is not None for row in rows)
    assert {row.verdict for row in rows if row.probe in ("variance", "bias")} == {"not assessed"}


@pytest.mark.parametrize("point", ["fresh", "stale"])
def test_rollouts_from_a_file_with_the_model_give_what_sampling_gave(point, finished, tmp_path):
    changes = {"behavior": None} if point == "fresh" else {"fresh": False}
    again = config(rollouts=str(finished / f"rollouts-{point}.parquet"), **changes)
    folder = run_experiment(again, tmp_path / "r")
    key = lambda row: (row.metric, row.method, row.compared_with, row.part, row.slot)  # noqa: E731
    expected = {key(row): row.estimate for row in read_measurements(finished) if row.point == point}
    found = {key(row): row.estimate for row in read_measurements(folder)}
    for name, value in expected.items():
        if name[0] == "coincides":
            continue
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-3, abs=1e-4)), name


def test_inner_steps_move_the_policy_and_leave_the_rollouts_fresh(finished, tmp_path):
    changes = {"fresh": False, "behavior": None, "inner_step": 2, "inner_rate": 1e-3, "methods": "grpo,gspo,dr-grpo"}
    folder = run_experiment(config(**changes), tmp_path / "r")
    rows = read_measurements(folder)
    assert {row.point for row in rows} == {"inner-step-2"}
    size = next(row for row in rows if row.metric == "ess" and row.part == "sequence weights")
    assert size.estimate is not None
    assert 0.1 < size.estimate < 0.999
    assert not [
        row for row in rows if row.metric == "coincides" and {row.method, row.compared_with} == {"grpo", "gspo"}
    ]


def test_a_full_disk_is_an_error_and_keeps_what_is_there(finished, tmp_path, monkeypatch):
    folder = tmp_path / "results"
    real = Path.write_text

    def fill(path, *arguments, **named):
        if "rows-fresh" in path.name:
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(Exception, match="No space left"):
        run_experiment(config(behavior=None), folder)
    monkeypatch.undo()
    before = stamps(folder)
    assert "gram-fresh.npz" in before
    assert "rows-fresh.json" not in before
    run_experiment(config(behavior=None), folder)
    assert {name: stamps(folder)[name] for name in before} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": None}, "--model"),
        ({"task": None}, "--task"),
        ({"fresh": False, "behavior": None}, "--behavior"),
        ({"probes": ("variance", "bais")}, "bais"),
        ({"methods": "grpp"}, "grpp"),
        ({"policy": "embedded:nothing"}, "nothing"),
    ],
)
def test_wrong_usage(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        run_experiment(config(**changes), tmp_path / "r")
