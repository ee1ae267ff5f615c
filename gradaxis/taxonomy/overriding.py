"""Replacing parameters of a resolved method by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradaxis.errors import UsageError
from gradaxis.taxonomy.checking import describe
from gradaxis.taxonomy.consistency import check_consistency
from gradaxis.taxonomy.derivation import derive
from gradaxis.taxonomy.methods import Method, Placed
from gradaxis.taxonomy.parameters import check_value, expected_text
from gradaxis.taxonomy.placing import Report
from gradaxis.taxonomy.problems import closest_match
from gradaxis.taxonomy.yaml_nodes import Document


def override_method(method: Method, overrides: Mapping[str, Any], known: Mapping[str, Method]) -> Method:
    """The method with the parameters of `overrides` replaced, checked against their declarations, and derived anew.

    Its label names the overrides in the order given. Raises UsageError.
    """
    slots, streams = dict(method.slots), {name: dict(slots) for name, slots in method.streams.items()}
    for key, value in overrides.items():
        place, index, name = find_parameter(method, key)
        stream, slot = place.split(".") if "." in place else (None, place)
        held = streams[stream] if stream else slots
        placed = _replaced(held[slot][index], name, value, key)
        held[slot] = (*held[slot][:index], placed, *held[slot][index + 1 :])
    said = ",".join(f"{key}={_shown(value)}" for key, value in overrides.items())
    label = f"{method.label[:-1]},{said}]" if method.label.endswith("]") else f"{method.label}[{said}]"
    changed = replace(method, slots=slots, streams=streams, label=label)
    report = Report(Document(label, None, None, ()))
    check_consistency(changed, report)
    if report.problems:
        raise UsageError(f"{label}: {report.problems[0].message}")
    return derive(changed, known)


def find_parameter(method: Method, key: str) -> tuple[str, int, str]:
    """Where `slot.parameter` or `slot.operator.parameter` points: slot key, place in the slot, parameter name."""
    slots = method.all_slots()
    place = next((k for k in sorted(slots, key=len, reverse=True) if key.startswith(f"{k}.")), None)
    if place is None:
        near = closest_match(key.rpartition(".")[0], slots)
        raise UsageError(f"{key!r}: unknown slot{near}; write slot.parameter=value")
    label, _, name = key[len(place) + 1 :].rpartition(".")
    held = [(i, placed) for i, placed in enumerate(slots[place]) if not label or placed.label == label]
    if not slots[place]:
        raise UsageError(f"{key!r}: {method.id} has no operator in {place}")
    if not held:
        labels = [placed.label for placed in slots[place]]
        raise UsageError(f"{key!r}: {method.id} has no {label!r} in {place}{closest_match(label, labels)}")
    found = [i for i, placed in held if name in _names(placed)]
    if len(found) == 1:
        return place, found[0], name
    if found:
        choices = " or ".join(f"{place}.{slots[place][i].label}.{name}" for i in found)
        raise UsageError(f"{key!r}: several operators have it; write {choices}")
    names = [name for _, placed in held for name in _names(placed)]
    has = f"the parameters are {', '.join(names)}" if names else "there are none"
    raise UsageError(f"{key!r}: no parameter {name!r} in {place} of {method.id}{closest_match(name, names)}; {has}")


def _names(placed: Placed) -> list[str]:
    names = list(placed.parameters)
    names += ["over"] if placed.declaration.over else []
    return names + (["stage"] if placed.declaration.stages else [])


def _replaced(placed: Placed, name: str, value: Any, key: str) -> Placed:
    if name in ("over", "stage") and name not in placed.parameters:
        choices = placed.declaration.over.choices if name == "over" and placed.declaration.over else None
        choices = choices or placed.declaration.stages
        if value not in choices:
            near = closest_match(value, choices)
            raise UsageError(f"{key}: got {describe(value)}, expected one of {', '.join(choices)}{near}")
        changed = replace(placed, over=value) if name == "over" else replace(placed, stage=value)
    else:
        declared = placed.declaration.parameters[name]
        if check_value(name, declared, value):
            near = closest_match(value, declared.choices)
            raise UsageError(f"{key}: got {describe(value)}, expected {expected_text(declared)}{near}")
        changed = replace(placed, parameters={**placed.parameters, name: value})
    return replace(changed, inherited_from=None)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
