"""From pydantic's errors to problems with a place: what was got, what is allowed, and the closest match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from gradaxis.taxonomy.problems import Problem
from gradaxis.taxonomy.yaml_nodes import Document

Model = TypeVar("Model", bound=BaseModel)

_EXPECTED = {
    "string_type": "text", "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
    "list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping", "int_from_float": "a whole number",
    "model_attributes_type": "a mapping",
}  # fmt: skip
_PATTERNS = {
    "a-z0-9]+(-": "a kebab-case name such as dr-grpo",
    "a-z][a-z0-9_": "a name in lower case such as clip_ratio",
    r"\d{4}": 'an arXiv id in quotes such as "2402.03300"',
}


def describe(value: Any) -> str:
    """A value as a message shows it: its kind and its text."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        hint = " (YAML 1.1 reads it as a boolean; here it is text)" if value.lower() in _WORDY else ""
        return f"the text {value!r}{hint}"
    return {dict: "a mapping", list: "a list"}.get(type(value), type(value).__name__)


_WORDY = frozenset({"yes", "no", "on", "off"})


def check_model(
    model: type[Model], document: Document, path: Sequence[Any] = (), data: Any = None
) -> tuple[Model | None, list[Problem]]:
    """Validate `data` (default: the whole document) at `path`. Returns the model, or None and every problem."""
    try:
        return model.model_validate(document.data if data is None else data), []
    except ValidationError as error:
        found = [_problem(model, document, path, dict(item)) for item in error.errors(include_url=False)]
        return None, found


def _problem(model: type[BaseModel], document: Document, path: Sequence[Any], error: dict[str, Any]) -> Problem:
    location, kind, value = (*path, *error["loc"]), error["type"], error["input"]
    last = error["loc"][-1] if error["loc"] else ""
    if kind == "extra_forbidden":
        allowed = _keys(model, error["loc"][:-1])
        return document.problem(location, f"unknown key {last!r}", allowed, last, key=True)
    if kind == "missing":
        return document.problem(location[:-1], f"the key {last!r} is missing", key=False)
    if kind in ("literal_error", "enum"):
        allowed = [part.strip().strip("'\"") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return document.problem(location, f"got {describe(value)}", allowed, value)
    if kind == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        expected = next((text for part, text in _PATTERNS.items() if part in pattern), f"text like {pattern}")
        at_key = last == "[key]"
        return document.problem(location, f"got {describe(value)}, expected {expected}", key=at_key)
    if kind in _EXPECTED:
        quote = "; put it in quotes" if kind == "string_type" and isinstance(value, (int, float, bool)) else ""
        return document.problem(location, f"got {describe(value)}, expected {_EXPECTED[kind]}{quote}")
    if kind == "too_short":
        return document.problem(location, f"got {describe(value)} that is too short: {error['msg']}")
    return document.problem(location, f"got {describe(value)}: {error['msg']}")


def _keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The keys that the model at a location of pydantic's error accepts."""
    current: Any = model
    for part in location:
        models = [m for m in _models(current) if isinstance(part, str) and part in _fields(m)]
        if models:
            current = _fields(models[0])[part]
    found = _models(current)
    return sorted(_fields(found[0])) if found else []


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
