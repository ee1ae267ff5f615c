"""Parameter values against an operator's declaration: type, range, choices, schedules and controllers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gradaxis.taxonomy.checking import describe
from gradaxis.taxonomy.declarations import OperatorDeclaration, ParameterDeclaration
from gradaxis.taxonomy.entries import Controller, Schedule
from gradaxis.taxonomy.problems import closest


@dataclass(frozen=True)
class ParameterProblem:
    """What is wrong with one parameter; `name` is the key, `unknown` says that the key itself is at fault."""

    name: str
    message: str
    got: object = None
    allowed: tuple[str, ...] = ()
    unknown: bool = False


def is_moving(value: Any) -> bool:
    """Whether a parameter's value is a schedule or a controller."""
    return isinstance(value, Mapping) and ("schedule" in value or "controller" in value)


def fill_parameters(
    declaration: OperatorDeclaration, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[ParameterProblem]]:
    """All parameters of an operator in declared order, defaults filled in, and every problem of the given ones."""
    declared, problems, meant = declaration.parameters, [], set()
    for name in given:
        if name not in declared:
            allowed = tuple(declared)
            none = "" if allowed else f"; {declaration.name} has no parameters"
            message = f"{declaration.name} has no parameter {name!r}{none}"
            problems.append(ParameterProblem(name, message, name, allowed, unknown=True))
            meant.add(closest(name, [other for other in allowed if other not in given]))
    filled: dict[str, Any] = {}
    for name, parameter in declared.items():
        if name in given:
            filled[name] = given[name]
            problems += check_value(name, parameter, given[name])
        elif parameter.required and name in meant:
            continue  # misspelt, which is reported already
        elif parameter.required:
            problems.append(ParameterProblem(name, f"{declaration.name} needs the parameter {name!r}", unknown=True))
        else:
            filled[name] = parameter.default
    return filled, problems


def check_value(name: str, declared: ParameterDeclaration, value: Any) -> list[ParameterProblem]:
    """Every problem of one value; an empty list when it is valid."""
    if value is None and declared.nullable:
        return []
    if declared.type in ("number", "integer") and isinstance(value, Mapping) and is_moving(value):
        return _check_moving(name, value)
    expected = expected_text(declared)
    bad = [ParameterProblem(name, f"{name} got {describe(value)}, expected {expected}")]
    match declared.type:
        case "number" | "integer":
            kinds = (int, float) if declared.type == "number" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                return bad
            return [] if _in_range(declared, value) else bad
        case "boolean":
            return [] if isinstance(value, bool) else bad
        case "choice":
            if isinstance(value, str) and value in declared.choices:
                return []
            return [ParameterProblem(name, f"{name} got {describe(value)}", value, tuple(declared.choices))]
        case "string":
            return [] if isinstance(value, str) and value else bad
        case "mapping":
            return [] if isinstance(value, Mapping) and value else bad


def expected_text(declared: ParameterDeclaration) -> str:
    """What a parameter accepts, in words: `a number >= 0`, `one of mean, leave_one_out`."""
    if declared.type == "choice":
        text = f"one of {', '.join(declared.choices)}"
    else:
        kinds = {"number": "a number", "integer": "a whole number", "boolean": "true or false", "string": "text"}
        text = kinds.get(declared.type, "a mapping")
        strict = "" if declared.exclusive else "="
        if declared.minimum is not None:
            text += f" >{strict} {declared.minimum}"
        if declared.maximum is not None:
            text += f"{' and' if declared.minimum is not None else ''} <{strict} {declared.maximum}"
    return f"{text} or null" if declared.nullable else text


def _in_range(declared: ParameterDeclaration, value: float) -> bool:
    low, high = declared.minimum, declared.maximum
    if declared.exclusive:
        return (low is None or value > low) and (high is None or value < high)
    return (low is None or value >= low) and (high is None or value <= high)


def _check_moving(name: str, value: Mapping[str, Any]) -> list[ParameterProblem]:
    model = Schedule if "schedule" in value else Controller
    try:
        model.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        return [ParameterProblem(name, f"{name} is not a valid {model.__name__.lower()}: {key}: {first['msg']}")]
    return []
