"""`validate` and `new` on files of the user's own."""

from __future__ import annotations

import json
import shutil

from gradaxis.taxonomy.registry import SHIPPED

GOOD = "id: mine\nname: Mine\nextends: grpo\nfamily: post-grpo\nyear: 2025\nsummary: s\n"


def test_new_then_validate(run, run_json, tmp_path) -> None:
    assert run_json("new", "mine", "--extends", "grpo") == {"id": "mine", "extends": "grpo", "path": "mine.yaml"}
    assert run_json("validate", "mine.yaml") == {"files": ["mine.yaml"], "problems": [], "not_yet": []}
    assert (tmp_path / "mine.yaml").read_text().count("\n# ") > 20


def test_new_refuses_to_overwrite(run, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("precious")
    result = run("new", "mine", "--extends", "grpo")
    assert (result.exit_code, "--force" in result.stderr) == (2, True)
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert run("new", "mine", "--extends", "grpo", "--force").exit_code == 0
    assert (tmp_path / "mine.yaml").read_text() != "precious"


def test_new_into_another_file(run, tmp_path) -> None:
    assert run("new", "mine", "--extends", "ppo", "--family", "agentic", "-o", "other.yaml").exit_code == 0
    assert "family: agentic" in (tmp_path / "other.yaml").read_text()


def test_problems_are_printed_with_place_line_and_match(run, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD + "trajectory:\n  trust_region: {set: {clip_ratio: {hihg: yes}}}\n")
    result = run("validate", "mine.yaml")
    assert result.exit_code == 1
    assert result.stderr == ""
    assert result.stdout.splitlines()[:4] == [
        "mine.yaml:8:37: clip_ratio has no parameter 'hihg'",
        "      trust_region: {set: {clip_ratio: {hihg: yes}}}",
        " " * 40 + "^",
        "    did you mean 'high'?",
    ]
    assert "1 file, 1 problem" in result.stdout


def test_problems_of_several_files_as_json(run, tmp_path) -> None:
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "a.yaml").write_text(GOOD.replace("mine", "a") + "note: x\n")
    (tmp_path / "entries" / "b.yml").write_text(GOOD.replace("mine", "b") + "year: 2025\n")
    (tmp_path / "entries" / "c.yaml").write_text(GOOD.replace("mine", "c"))
    result = run("validate", "entries", "--format", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert len(found["files"]) == 3
    assert [(p["file"], p["line"], p["column"]) for p in found["problems"]] == [("entries/a.yaml", 7, 1),
                                                                                ("entries/b.yml", 7, 1)]  # fmt: skip


def test_several_files_may_extend_each_other(run, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("mine", "a"))
    (tmp_path / "b.yaml").write_text(GOOD.replace("mine", "b").replace("extends: grpo", "extends: a"))
    assert run("validate", "b.yaml").exit_code == 1
    assert run("validate", "b.yaml", "a.yaml").exit_code == 0


def test_not_yet_is_said_and_is_no_problem(run, run_json, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD + "mix: [{of: ppo, weight: 0.5}, {of: grpo, weight: 0.5}]\n")
    result = run("validate", "mine.yaml")
    assert (result.exit_code, "not yet: mix" in result.stdout) == (0, True)
    [note] = run_json("validate", "mine.yaml")["not_yet"]
    assert note["id"] == "mine"
    assert not run_json("show", "mine.yaml")["executable"]


def test_without_paths_the_whole_registry(run_json) -> None:
    assert len(run_json("validate")["files"]) == len([*SHIPPED.rglob("*.yaml")])


def test_copy_of_the_registry_stands_on_its_own(run, tmp_path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "registry")
    assert run("validate", "registry").exit_code == 0
    assert run("validate", "registry/methods/grpo/grpo.yaml").exit_code == 0
    (tmp_path / "registry" / "methods" / "grpo" / "grpo.yaml").unlink()
    result = run("validate", "registry/methods/post-grpo/dapo.yaml")
    assert (result.exit_code, "no entry 'grpo' to extend" in result.stdout) == (1, True)


def test_empty_folder(run, tmp_path) -> None:
    (tmp_path / "nothing").mkdir()
    result = run("validate", "nothing")
    assert (result.exit_code, "no YAML files" in result.stderr) == (2, True)


def test_show_of_a_file_with_problems_is_exit_1(run, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD + "note: x\n")
    result = run("show", "mine.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "mine.yaml:7:1: unknown key 'note'" in result.stderr
