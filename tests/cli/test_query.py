"""The commands that ask the registry: fields of their JSON, filters, exit codes, and what goes to which stream."""

from __future__ import annotations

import json

import pytest

from gradaxis.estimators.operators import OPERATORS
from gradaxis.taxonomy.axes import SLOTS

LIST_FIELDS = {
    "id", "name", "family", "year", "arxiv", "extends", "side", "side_vs_grpo", "side_vs_reinforce", "claimed_side",
    "slots", "addresses", "executable", "status",
}  # fmt: skip
OPERATOR_FIELDS = {"operator", "parameters", "where", "over", "stage", "inherited_from", "addresses", "why"}


def ids(rows: list[dict]) -> set[str]:
    return {row["id"] for row in rows}


def test_list_has_every_method_with_every_field(run_json, registry) -> None:
    rows = run_json("list")
    assert ids(rows) == set(registry.methods)
    assert all(row.keys() >= LIST_FIELDS for row in rows)
    dapo = next(row for row in rows if row["id"] == "dapo")
    assert dapo["arxiv"] == "2503.14476"
    assert (dapo["extends"], dapo["side"], dapo["year"]) == ("grpo", "both", 2025)
    assert dapo["slots"] == ["sampling", "trust_region", "aggregation", "terms", "shaping", "selection"]


def test_filters_agree_with_the_rows(run_json) -> None:
    rows = run_json("list")
    for flag, values, test in [
        ("--family", {row["family"] for row in rows}, lambda row, v: row["family"] == v),
        ("--side", {row["side"] for row in rows}, lambda row, v: row["side"] == v),
        ("--slot", {slot for row in rows for slot in row["slots"]}, lambda row, v: v in row["slots"]),
        ("--addresses", {f for row in rows for f in row["addresses"]}, lambda row, v: v in row["addresses"]),
        ("--parent", {row["extends"] for row in rows} - {None}, lambda row, v: row["extends"] == v),
    ]:
        for value in sorted(values)[:4]:
            found = ids(run_json("list", flag, value))
            assert found == {row["id"] for row in rows if test(row, value)}
            assert found


def test_filters_together(run_json) -> None:
    assert ids(run_json("list", "--parent", "grpo", "--side", "trajectory", "--slot", "ratio")) == {"gspo"}


def test_executable_filter_splits_the_list(run_json, registry) -> None:
    yes, no = ids(run_json("list", "--executable")), ids(run_json("list", "--not-executable"))
    assert yes | no == set(registry.methods)
    assert not yes & no


def test_show_has_every_slot_and_field(run_json, registry) -> None:
    row = run_json("show", "gigpo")
    assert row.keys() >= LIST_FIELDS | {"trajectory", "reward", "couplings"}
    method = registry.method("gigpo")
    assert (list(row["trajectory"]), list(row["reward"])) == (list(method.trajectory), list(method.reward))
    placed = [item for axis in ("trajectory", "reward") for items in row[axis].values() for item in items]
    assert placed
    assert all(item.keys() >= OPERATOR_FIELDS for item in placed)
    [clip] = row["trajectory"]["trust_region"]
    assert (clip["operator"], clip["inherited_from"]) == ("clip_ratio", "ppo")
    assert clip["parameters"] == {"low": 0.2, "high": 0.2}
    assert row["streams"]["step"]["signal"][0]["operator"] == "score_steps"
    assert row["lineage"] == ["grpo", "ppo", "reinforce"]


def test_show_takes_overrides_aliases_and_files(run, run_json, tmp_path) -> None:
    row = run_json("show", "dapo[trust_region.high=0.3]")
    assert row["trajectory"]["trust_region"][0]["parameters"] == {"low": 0.2, "high": 0.3}
    assert row["label"] == "dapo[trust_region.high=0.3]"
    assert run_json("show", "grpo-teacher-advantage")["id"] == "grpo-opd"
    run("new", "mine", "--extends", "dapo")
    assert run_json("show", "mine.yaml")["id"] == "mine"


def test_diff(run_json) -> None:
    row = run_json("diff", "grpo", "gspo")
    assert (row["a"], row["b"], row["side"], row["slots"]) == ("grpo", "gspo", "trajectory", ["ratio", "trust_region"])
    ratio, clip = row["differences"]
    assert ratio["parameters"] == {"unit": ["token", "sequence"], "pool": ["none", "geometric_mean"]}
    assert clip["parameters"] == {"low": [0.2, 0.0003], "high": [0.2, 0.0004]}
    assert (clip["axis"], clip["change"]) == ("trajectory", "changed")


def test_diff_of_a_method_with_its_override(run_json) -> None:
    row = run_json("diff", "grpo", "grpo[scale.ddof=0]")
    assert (row["side"], row["parameters_only"]) == ("reward", True)


@pytest.mark.parametrize(("command", "extra"), [("failures", set()), ("compounds", {"demonstration"})])
def test_failures_and_compounds(run_json, command, extra) -> None:
    rows = run_json(command)
    assert rows
    for row in rows:
        assert row.keys() >= {"id", "name", "axis", "slots", "addressed_by"} | extra
        assert set(row["addressed_by"]) == ids(run_json("list", "--addresses", row["id"]))
        assert run_json(command, row["id"]) == row


def test_operators(run_json, registry) -> None:
    rows = run_json("operators")
    assert {row["name"] for row in rows} == set(registry.operators)
    for row in rows:
        assert row.keys() >= {"name", "axis", "slot", "parameters", "reads", "used_by"}
    clip = run_json("operators", "clip_ratio")
    assert (clip["axis"], clip["slot"], clip["reads"]) == ("trajectory", "trust_region", ["weight", "advantage"])
    assert clip["parameters"]["low"]["required"]
    assert {"ppo", "grpo", "dapo"} <= set(clip["used_by"])
    assert "cispo" not in clip["used_by"]
    slots = [row["slot"] for row in rows]
    assert slots == sorted(slots, key=list(SLOTS).index)
    for row in rows:
        function = OPERATORS.get(row["name"])
        for title, key in (("Assumes", "assumes"), ("Reduces to", "reduces_to"), ("Traps", "traps")):
            assert (row[key] is None) == (function is None)
            if function is not None:  # the words of the docstring, read without importing the function
                said = " ".join((function.__doc__ or "").split())
                assert f"{title}: {row[key]}" in said


COMMANDS = [["list"], ["show", "gigpo"], ["diff", "grpo", "dapo"], ["diff", "grpo", "grpo"], ["failures"],
            ["failures", "silent-groups"], ["compounds"], ["compounds", "granularity-coupling"], ["operators"],
            ["operators", "center_rewards"], ["validate"]]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("format", ["table", "md", "json"])
def test_every_format_prints_on_stdout_only(run, command, format) -> None:
    result = run(*command, "--format", format)
    assert (result.exit_code, result.stderr) == (0, "")
    if format == "json":
        json.loads(result.stdout)
    else:
        assert all(word in result.stdout for word in command[1:])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_markdown_tables_are_rectangular(run, command) -> None:
    for block in run(*command, "--format", "md").stdout.split("\n\n"):
        lines = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["show", "grop"], "did you mean 'grpo'"),
        (["show", "grpo,dapo"], "names 2 methods; one is wanted"),
        (["diff", "grpo", "dappo"], "did you mean 'dapo'"),
        (["list", "--family", "postgrpo"], "did you mean 'post-grpo'"),
        (["list", "--side", "rewards"], "did you mean 'reward'"),
        (["list", "--slot", "clip"], "unknown slot 'clip'"),
        (["list", "--addresses", "silent-group"], "did you mean 'silent-groups'"),
        (["list", "--parent", "pppo"], "did you mean 'ppo'"),
        (["failures", "length-bia"], "did you mean 'length-bias'"),
        (["compounds", "length-bias"], "unknown compound 'length-bias'"),
        (["operators", "clip_ratios"], "did you mean 'clip_ratio'"),
        (["validate", "absent.yaml"], "no such file"),
        (["list", "--format", "xml"], "xml"),
        (["nosuch"], "nosuch"),
        (["new", "mine"], "--extends"),
        (["new", "mine", "--extends", "grop"], "did you mean 'grpo'"),
        (["new", "grpo", "--extends", "ppo"], "is taken"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_exit_2_on_stderr(run, command, message) -> None:
    result = run(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
