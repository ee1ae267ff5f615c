"""One line of methods: ids, aliases, files and overrides."""

from __future__ import annotations

import pytest

from gradaxis.errors import RegistryError, UsageError
from gradaxis.taxonomy import parse_override
from gradaxis.taxonomy.selection import split_selection


def test_ids_files_and_overrides_in_one_line(registry, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "id: mine\nname: Mine\nextends: dapo\nfamily: post-grpo\nyear: 2025\nsummary: s\n"
        "trajectory: {trust_region: {set: {clip_ratio: {low: 0.1}}}}\n"
    )
    found = registry.select(f"grpo,{path},dapo[trust_region.high=0.3],{path}[trust_region.high=3e-1]")
    assert [m.label for m in found] == [
        "grpo", "mine", "dapo[trust_region.high=0.3]", "mine[trust_region.high=0.3]"
    ]  # fmt: skip
    assert found[1].slots["trust_region"][0].parameters == {"low": 0.1, "high": 0.28}
    assert found[3].slots["trust_region"][0].parameters == {"low": 0.1, "high": 0.3}
    assert "mine" not in registry.methods


def test_all_is_every_executable_method(registry) -> None:
    assert registry.select("all") == [m for m in registry.methods.values() if m.executable]


def test_twice_is_once(registry) -> None:
    assert [m.id for m in registry.select("grpo, dapo,grpo,all")][:2] == ["grpo", "dapo"]
    assert len(registry.select("grpo,grpo")) == 1


def test_commas_and_braces_inside_brackets() -> None:
    [first, second] = split_selection("gigpo[credit.weights={main: 1, step: 0.5},scale.ddof=0],grpo")
    assert first.overrides == {"credit.weights": {"main": 1, "step": 0.5}, "scale.ddof": 0}
    assert second.name == "grpo"


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=3e-4", 0.0003), ("a.b= 1", 1), ("a.b=true", True), ("a.b=yes", "yes"), ("a.b=null", None),
     ("a.b=x=y", "x=y")],
)  # fmt: skip
def test_values_are_yaml(text: str, value: object) -> None:
    assert parse_override(text) == ("a.b", value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no method is named"),
        (" , ", "no method is named"),
        ("grop", "unknown method 'grop' \\(did you mean 'grpo'\\?\\)"),
        ("grpo[trust_region.high=0.3", "a bracket is not closed"),
        ("grpo]", "closing bracket without"),
        ("grpo[trust_region.high=0.3]x", "nothing may follow"),
        ("grpo[trust_region.high]", "is not an override"),
        ("grpo[trust_region.high=]", "the value is missing"),
        ("grpo[trust_region.high=1,trust_region.high=2]", "given twice"),
        ("grpo[trust_regoin.high=1]", "unknown slot \\(did you mean 'trust_region'\\?\\)"),
        ("grpo[high=1]", "unknown slot"),
        ("grpo[trust_region.hihg=1]", "no parameter 'hihg' in trust_region of grpo \\(did you mean 'high'\\?\\)"),
        ("grpo[trust_region.clip_weight.high=1]", "has no 'clip_weight' in trust_region"),
        ("grpo[selection.statistics=all]", "grpo has no operator in selection"),
        ("grpo[trust_region.high=-1]", "got the number -1, expected a number >= 0"),
        ("grpo[trust_region.high=yes]", "got the text 'yes'.*expected a number"),
        ("grpo[trust_region.high=true]", "got the boolean true, expected a number"),
        ("grpo[ratio.unit=tokens]", "expected one of token, sequence \\(did you mean 'token'\\?\\)"),
        ("grpo[baseline.over=groups]", "expected one of group, batch.*did you mean 'group'"),
        ("grpo-opd[credit.teacher=tutor]", "reads the teacher 'tutor'"),
        ("gigpo[credit.weights={main: 1, stp: 1}]", "no stream 'stp'"),
        ("./absent.yaml", "no such file"),
        ("grpo[trust_region.high=[1]", "a bracket is not closed"),
    ],
)
def test_mistakes(registry, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.select(text)


def test_file_with_problems(registry, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("id: mine\n")
    with pytest.raises(RegistryError, match=r"mine.yaml:1:1: the key 'name' is missing"):
        registry.select(str(path))


def test_file_that_takes_a_shipped_id(registry, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("id: grpo\nname: Mine\nextends: dapo\nfamily: grpo\nyear: 2025\nsummary: s\n")
    with pytest.raises(RegistryError, match="the id 'grpo' is taken"):
        registry.select(str(path))


def test_override_replaces_and_derives_again(registry) -> None:
    method = registry.override("grpo", {"trust_region.high": 0.28, "baseline.over": "batch"})
    assert method.label == "grpo[trust_region.high=0.28,baseline.over=batch]"
    assert method.slots["trust_region"][0].parameters["high"] == 0.28
    assert method.slots["baseline"][0].couples == "batch"
    assert method.side_vs_grpo == "both"
    assert registry.method("grpo").slots["trust_region"][0].parameters["high"] == 0.2
    again = registry.override(method, {"trust_region.low": 0.1})
    assert again.label == "grpo[trust_region.high=0.28,baseline.over=batch,trust_region.low=0.1]"


def test_override_changes_needs(registry) -> None:
    method = registry.override("grpo", {"terms.to": "old"})
    assert "ref_logp" in {need.column for need in registry.method("grpo").needs}
    assert "ref_logp" not in {need.column for need in method.needs}


def test_override_by_operator_label_and_in_a_stream(registry) -> None:
    method = registry.override("gigpo", {"terms.penalise_kl.coefficient": 0.5, "step.credit.gamma": 0.5})
    assert method.slots["terms"][0].parameters["coefficient"] == 0.5
    assert method.streams["step"]["credit"][0].parameters["gamma"] == 0.5


def test_override_that_fits_several_operators(family) -> None:
    body = "trajectory: {trust_region: {add: [{operator: clip, as: second, low: 0.1, high: 0.1}]}}"
    family.method("two", body, extends="base")
    registry = family.load()
    with pytest.raises(UsageError, match=r"trust_region.clip.low or trust_region.second.low"):
        registry.select("two[trust_region.low=0]")
    [method] = registry.select("two[trust_region.second.low=0]")
    assert [placed.parameters["low"] for placed in method.slots["trust_region"]] == [0.2, 0]


def test_no_override_is_the_method_itself(registry) -> None:
    assert registry.override("grpo", {}) is registry.method("grpo")


def test_label_selects_the_same_method_again(registry) -> None:
    method = registry.override("gigpo", {"credit.weights": {"main": 1, "step": 0.5}, "step.credit.gamma": 0.5})
    assert registry.select(method.label) == [method]
