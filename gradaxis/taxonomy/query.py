"""Asking the registry: methods by what they are, failures and operators by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gradaxis.errors import UsageError
from gradaxis.taxonomy.axes import SLOTS, axis_of
from gradaxis.taxonomy.declarations import OperatorDeclaration
from gradaxis.taxonomy.entries import FAMILIES, LIBRARY, Failure
from gradaxis.taxonomy.methods import Method
from gradaxis.taxonomy.problems import closest_match
from gradaxis.taxonomy.registry import Registry

SIDES = ("trajectory", "reward", "both", "none", "origin")


def find_methods(
    registry: Registry,
    family: str | None = None,
    side: str | None = None,
    slot: str | None = None,
    addresses: str | None = None,
    parent: str | None = None,
    executable: bool | None = None,
) -> list[Method]:
    """The methods that meet every condition, in the registry's order; presets where the family is `library`.

    `side` is relative to the parent; `slot` is one in which the method differs from its parent. Raises UsageError for a
    family, side, slot, failure or parent that does not exist.
    """
    if family is not None:
        _require("family", family, FAMILIES)
    if side is not None:
        _require("side", side, SIDES)
    if slot is not None:
        axis_of(slot)
    wanted = find_failure(registry, addresses).id if addresses is not None else None
    parent_id = registry.method(parent).id if parent is not None else None
    return [
        method
        for method in (registry.presets if family == LIBRARY else registry.methods).values()
        if family in (None, method.family)
        and side in (None, method.side)
        and (slot is None or slot in {key.split(".")[-1] for key in method.relative["parent"].slots})
        and (wanted is None or wanted in method.addresses)
        and parent_id in (None, method.extends)
        and executable in (None, method.executable)
    ]


def find_failure(registry: Registry, name: str, kind: str | None = None) -> Failure:
    """A `failure` or a `compound` (None: either) by id or alias. Raises UsageError with the closest match."""
    kinds: dict[str, Mapping[str, Failure]] = {"failure": registry.failures, "compound": registry.compounds}
    known = {id_: failure for word in ([kind] if kind else kinds) for id_, failure in kinds[word].items()}
    for failure in known.values():
        if name == failure.id or name in failure.aliases:
            return failure
    kind = kind or "failure"
    raise UsageError(f"unknown {kind} {name!r}{closest_match(name, known)}; `gradaxis {kind}s` names all")


def find_operator(registry: Registry, name: str) -> OperatorDeclaration:
    """An operator by name. Raises UsageError with the closest match."""
    if name not in registry.operators:
        near = closest_match(name, registry.operators)
        raise UsageError(f"unknown operator {name!r}{near}; `gradaxis operators` names all")
    return registry.operators[name]


def operators_by_slot(registry: Registry) -> list[OperatorDeclaration]:
    """All operators in the order of axes and slots, and within a slot as its file has them."""
    place = {slot: number for number, slot in enumerate(SLOTS)}
    return sorted(registry.operators.values(), key=lambda operator: place[operator.slot])


def _require(what: str, value: str, allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    if value not in allowed:
        raise UsageError(f"unknown {what} {value!r}{closest_match(value, allowed)}; allowed: {', '.join(allowed)}")
