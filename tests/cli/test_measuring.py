"""The commands that measure, end to end on the embedded model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gradaxis.cli import app

SMALL = ["--prompts", "4", "--groups", "1", "--group-size", "4"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return CliRunner().invoke(app, ["demo", "--output", str(folder), "--methods", "grpo,gspo,ppo", *SMALL]), folder


def test_demo_writes_a_report_and_prints_its_verdict(demo) -> None:
    result, folder = demo
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1] == str(folder / "report.html")
    assert all(line.startswith("- ") for line in lines[:-1])
    assert any("grpo and gspo" in line for line in lines)  # every ratio is 1 on fresh rollouts
    assert "<svg" in (folder / "report.html").read_text(encoding="utf-8")


def test_report_in_every_format(run, demo) -> None:
    _, folder = demo
    for suffix in ("html", "md", "json"):
        result = run("report", str(folder), "-o", str(folder / f"again.{suffix}"))
        assert (result.exit_code, result.stdout.strip()) == (0, str(folder / f"again.{suffix}"))
    data = json.loads((folder / "again.json").read_text(encoding="utf-8"))
    assert [method["label"] for method in data["methods"]] == ["grpo", "gspo", "ppo"]
    assert data["points"] == ["fresh", "stale"]


def test_probe_goes_on_where_it_stopped(run, tmp_path) -> None:
    words = ["probe", "--model", "embedded:policy", "--task", "arithmetic", "--methods", "dr-grpo,cispo", *SMALL]
    first = run(*words, "--output", str(tmp_path))
    assert first.exit_code == 0, first.output
    stamp = (tmp_path / "rollouts-fresh.parquet").stat().st_mtime_ns
    (tmp_path / "rows-fresh.json").unlink()
    second = run(*words, "--output", str(tmp_path))
    assert (second.exit_code, second.stdout) == (0, first.stdout)
    assert (tmp_path / "rollouts-fresh.parquet").stat().st_mtime_ns == stamp
    other = run(*words, "--seed", "1", "--output", str(tmp_path))
    assert other.exit_code == 1
    assert "seed" in other.stderr


def test_a_method_whose_needs_are_not_met_is_a_row_with_the_remedy(run, tmp_path) -> None:
    words = ["--model", "embedded:policy", "--task", "arithmetic", *SMALL, "--output", str(tmp_path)]
    result = run("probe", "--methods", "ppo,dr-grpo", *words)
    assert result.exit_code == 0, result.output
    assert run("report", str(tmp_path), "-o", str(tmp_path / "r.json")).exit_code == 0
    data = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert any("--critic" in gap["text"] + gap["remedy"] for gap in data["not_assessed"])


def test_nothing_assessed_is_exit_code_3(run, tmp_path) -> None:
    words = ["--model", "embedded:policy", "--task", "arithmetic", *SMALL, "--output", str(tmp_path)]
    assert run("probe", "--methods", "ppo", *words).exit_code == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "embedded:policy"], 2, "--task"),
        (["--task", "arithmetic"], 2, "--model"),
        (["--model", "embedded:polcy", "--task", "arithmetic"], 2, "polcy"),
        (["--model", "embedded:policy", "--task", "arithmetik"], 2, "arithmetic"),
        (["--model", "embedded:policy", "--task", "arithmetic", "--methods", "grop"], 2, "grpo"),
        (["--model", "embedded:policy", "--task", "arithmetic", "--probes", "bais"], 2, "bias"),
        (["--model", "embedded:policy", "--task", "arithmetic", "--device", "cuda:99"], 1, "cuda:99"),
        (["--model", "embedded:policy", "--task", "arithmetic", "--top-p", "1.5"], 1, "--top-p"),
        (["--rollouts", "no-such-file.parquet"], 1, "no-such-file.parquet"),
    ],
)
def test_bad_usage_names_the_place(run, tmp_path, words, code, message) -> None:
    result = run("probe", *words, "--output", str(tmp_path / "results"))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
