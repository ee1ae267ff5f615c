"""Scalars by YAML 1.2, and the place of every node."""

from __future__ import annotations

import pytest

from gradaxis.taxonomy.yaml_nodes import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 0.0003), ("1.", 1.0), (".5", 0.5), ("-2", -2), ("+2", 2), ("010", 10), ("1_000", "1_000"), ("0x10",
     "0x10"),
     ("1:30", "1:30"), ("yes", "yes"), ("Off", "Off"), ("n", "n"), ("true", True), ("True", "True"), ("null", None),
     ("~", None), ("2025-03-01", "2025-03-01"), ('"3"', "3"), ("'true'", "true"), ("<<", "<<"), ("=", "="),
     (".inf", ".inf")],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    document, problems = parse_yaml(f"a: {text}", "x.yaml")
    assert problems == []
    assert document.data == {"a": value}
    assert type(document.data["a"]) is type(value)


def test_places_of_keys_and_values() -> None:
    document, _ = parse_yaml("a:\n  - b: 1\n    c: {d: e}\n", "x.yaml")
    key, value = document.problem(("a", 0, "c", "d"), "m", key=True), document.problem(("a", 0, "c", "d"), "m")
    assert (key.line, key.column, value.line, value.column) == (3, 9, 3, 12)
    assert key.text == "    c: {d: e}"


def test_place_of_what_is_missing_is_that_of_its_parent() -> None:
    document, _ = parse_yaml("a:\n  - b: 1\n", "x.yaml")
    problem = document.problem(("a", 0, "z"), "m")
    assert (problem.line, problem.column) == (2, 5)


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    document, problems = parse_yaml("\n".join(lines), "x.yaml")
    assert not document.whole
    assert len(problems) == 2 * 39
