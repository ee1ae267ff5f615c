"""Reading a line of methods: ids, files and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradaxis.errors import UsageError
from gradaxis.taxonomy.yaml_nodes import parse_yaml

_OPEN, _CLOSE = "[{", "]}"


@dataclass(frozen=True)
class Selected:
    """One part of the line: an id, alias or file, and the overrides in its brackets."""

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        return "/" in self.name or "\\" in self.name or self.name.endswith((".yaml", ".yml"))


def split_selection(text: str) -> list[Selected]:
    """The parts of `grpo,./mine.yaml,dapo[trust_region.high=0.3]`. Commas inside brackets belong to the brackets.

    Raises UsageError for brackets that do not match, empty parts and overrides without `=`.
    """
    parts = split_commas(text)
    if not parts:
        raise UsageError("no method is named; give ids, files or `all`")
    return [_select(part) for part in parts]


def split_commas(text: str) -> list[str]:
    """Split at the commas outside of brackets, braces and quotes."""
    parts, depth, start, quote = [], 0, 0, ""
    for i, character in enumerate(text):
        if quote or character in "\"'":
            quote = "" if character == quote else (quote or character)
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
        if depth < 0:
            raise UsageError(f"{text!r}: a closing bracket without an opening one at character {i + 1}")
    if depth or quote:
        raise UsageError(f"{text!r}: {'a quote' if quote else 'a bracket'} is not closed")
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def parse_override(text: str) -> tuple[str, Any]:
    """`trust_region.high=0.3` as key and value; the value is read as YAML. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text!r} is not an override; write slot.parameter=value, such as trust_region.high=0.3")
    if not value.strip():
        raise UsageError(f"{text!r}: the value is missing; write null for none")
    document, problems = parse_yaml(value.strip(), "override")
    if problems:
        raise UsageError(f"{text!r}: {problems[0].message}")
    return key.strip(), document.data


def _select(part: str) -> Selected:
    name, bracket, rest = part.partition("[")
    if not bracket:
        return Selected(part)
    if not rest.endswith("]"):
        raise UsageError(f"{part!r}: nothing may follow the closing bracket")
    overrides: dict[str, Any] = {}
    for text in split_commas(rest[:-1]):
        key, value = parse_override(text)
        if key in overrides:
            raise UsageError(f"{part!r}: {key} is given twice")
        overrides[key] = value
    return Selected(name.strip(), overrides)
