"""`probe --exact` and its documents, against a checker that imports nothing of the package."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gradaxis.cli import app
from gradaxis.diagnostics.oracle.document import compare_with

CHECKER = Path(__file__).parent / "checker.py"
SPEC = importlib.util.spec_from_file_location("exact_checker", CHECKER)
assert SPEC is not None
assert SPEC.loader is not None
CHECK = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(CHECK)

CASES = [
    ("reinforce", "eos", 3),
    ("rloo", "graded", 2),
    ("grpo", "eos", 3),
    ("grpo[scale.ddof=0,terms.coefficient=0]", "continuous", 2),
    ("dr-grpo", "graded", 3),
    ("gspo", "environment", 2),
    ("cispo", "fixed-length", 2),
    ("cispo[trust_region.low=0.1]", "eos[prompts=1,drift=0.8]", 3),
    ("ppo", "eos[prompts=1]", 3),
    ("ppo[credit.gamma=0.9,credit.lam=0.5]", "fixed-length", 2),
]


def run(*words: str):
    return CliRunner().invoke(app, ["probe", "--exact", *words])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small document with a declared term: two prompts of eight answers, stale."""
    path = tmp_path_factory.mktemp("exact") / "rloo.json"
    words = ["rloo", "--testbed", "fixed-length", "--stale", "--group-size", "2", "--output", str(path)]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(path)
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize(("entry", "testbed", "group_size"), CASES)
def test_every_number_follows(entry, testbed, group_size, stale, tmp_path) -> None:
    path = tmp_path / "exact.json"
    words = [entry, "--testbed", testbed, "--group-size", str(group_size), "--output", str(path)]
    result = run(*words, *(["--stale"] if stale else []))
    assert result.exit_code == 0, result.output
    document = json.loads(path.read_text(encoding="utf-8"))
    assert CHECK.check(document) == []
    assert document["schema"] == 1
    assert document["entry"]["label"] == entry
    assert ("behavior" in document["testbed"]["logits"], document["testbed"]["made_with"]["stale"]) == (True, stale)
    assert [p.name for p in tmp_path.iterdir()] == ["exact.json"]


def test_checker_runs_alone_and_imports_nothing_of_the_package(stored, tmp_path) -> None:
    imported = {
        alias.name.split(".")[0] if isinstance(node, ast.Import) else str(node.module).split(".")[0]
        for node in ast.walk(ast.parse(CHECKER.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    assert imported == {"__future__", "itertools", "json", "math", "numpy", "pathlib", "sys", "typing"}
    path = tmp_path / "exact.json"
    path.write_text(json.dumps(stored), encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(CHECKER), str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "every number follows\n"), done.stderr
    stored = deepcopy(stored)
    stored["whole"]["mean"][0] += 1e-9
    path.write_text(json.dumps(stored), encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(CHECKER), str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "whole: mean: off by 1e-09\n")


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every number of a document, one for each kind: lists count by their last entry."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from _leaves(value[-1], (*path, len(value) - 1))
    elif isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        yield path


NOT_CHECKED = ("made_with", "turns", "greedy_reward", "max_new_tokens", "prompts", "groups", "types", "teacher")
"""What the formulas of these entries do not read, or what only says how the document came about."""


def test_a_document_that_was_tampered_with_fails(stored) -> None:
    """Every kind of number in turn: a billionth more, or the next whole number."""
    assert CHECK.check(stored) == []
    paths = [path for path in _leaves(stored) if not set(NOT_CHECKED) & set(path)]
    assert len(paths) > 35
    for path in paths:
        changed = deepcopy(stored)
        *way, last = path
        place = changed
        for key in way:
            place = place[key]
        place[last] += 1e-9 if isinstance(place[last], float) else 1
        try:
            problems = CHECK.check(changed)
        except (IndexError, ValueError):
            continue  # an index that points nowhere
        assert problems, path


def test_a_document_of_another_kind_fails(stored) -> None:
    assert CHECK.check({**stored, "schema": 2}) == ["schema 2 is not known"]
    other = deepcopy(stored)
    other["entry"]["id"] = "mine"
    assert CHECK.check(other) == ["no formula for mine"]
    del other["task"]["without"][0]
    other["entry"]["id"] = "rloo"
    assert CHECK.check(other)  # the divergence would be counted as bias


def test_declared_terms_are_no_bias(stored) -> None:
    """RLOO on its own samples without its divergence is unbiased; what the divergence adds stands apart."""
    assert stored["declared"]["operators"] == ["shaping.penalise_kl_in_reward"]
    assert max(map(abs, stored["declared"]["shift"])) > 1e-4
    fresh_task = [a - b for a, b in zip(stored["whole"]["mean"], stored["declared"]["shift"], strict=True)]
    assert fresh_task == pytest.approx(stored["task"]["mean"], abs=1e-15)


def test_unbiased_on_fresh_rollouts(tmp_path) -> None:
    path = tmp_path / "fresh.json"
    assert run("rloo", "--testbed", "graded", "--group-size", "2", "--output", str(path)).exit_code == 0
    task = json.loads(path.read_text(encoding="utf-8"))["task"]
    assert task["gain"] == pytest.approx(1, abs=1e-12)
    assert task["relative_bias"] < 1e-12
    assert task["cosine"] == pytest.approx(1, abs=1e-12)


def test_eight_answers_by_default(tmp_path) -> None:
    path = tmp_path / "grpo.json"
    assert run("grpo", "--output", str(path)).exit_code == 0
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["update"]["group_size"], document["whole"]["count_vectors"]) == (8, 18)
    assert document["declared"]["operators"] == ["terms.penalise_kl"]


def test_sampling_that_is_held_fixed_is_said(tmp_path) -> None:
    path = tmp_path / "dapo.json"
    words = ["dapo", "--testbed", "fixed-length", "--group-size", "2", "--output", str(path)]
    refused = run(*words)
    assert (refused.exit_code, path.exists()) == (1, False)
    assert "refilled" in refused.stderr
    assert run(*words, "--hold-sampling").exit_code == 0
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["update"]["held_fixed"] == ["sampling.refill_groups"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["grpo,ppo", "--output", "x.json"], 2, "names 2 methods"),
        (["grop", "--output", "x.json"], 2, "grpo"),
        (["grpo", "--testbed", "eoss", "--output", "x.json"], 2, "no testbed 'eoss'"),
        (["grpo", "--testbed", "embedded", "--output", "x.json"], 2, "that a document can hold"),
        (["grpo", "--testbed", "eos[promts=2]", "--output", "x.json"], 1, "prompts=a whole number"),
        (["grpo", "--testbed", "eos[prompts=0]", "--output", "x.json"], 1, "one or more"),
        (["grpo", "--testbed", "eos[", "--output", "x.json"], 1, "name[option=value]"),
        (["rloo", "--output", "x.json"], 1, "Brute force only"),
        (["grpo", "--output", "."], 1, "a file, such as grpo.json"),
    ],
)
def test_what_cannot_be_stored_is_refused(words, code, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == code
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_directions_that_are_missing_are_null() -> None:
    zero, one = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    nothing = compare_with(one, zero)
    assert [nothing[name] for name in ("gain", "cosine", "relative_bias", "orthogonal_relative_bias")] == [None] * 4
    still = compare_with(zero, one)
    assert (still["gain"], still["cosine"], still["relative_bias"]) == (0, None, 1)
    across = compare_with(torch.tensor([0.5, 0.5], dtype=torch.float64), one)
    assert (across["gain"], across["orthogonal_relative_bias"]) == (0.5, 1)
