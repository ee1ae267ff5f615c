"""Operators: pure functions on tensors, bound by name to the declarations in `registry/operators`.

A slot is a module, or a folder of modules where it holds several families.

Positional arguments are the declared `reads`, in order; keyword-only arguments are the declared parameters. A function
`without_peers_<operator>` of the same signature says which entries the operator cannot serve for want of peers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import getmembers, isfunction
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from gradaxis.errors import UsageError
from gradaxis.estimators.operators.reward import baseline, credit, scale, selection, shaping, signal
from gradaxis.estimators.operators.trajectory import aggregation, ratio, terms, token_weight, trust_region

_SLOTS: tuple[ModuleType, ...] = (
    ratio, trust_region, token_weight, aggregation, terms,
    signal, shaping, selection, baseline, scale, credit,
)  # fmt: skip
_CHECK = "without_peers_"


def _modules(slot: ModuleType) -> list[ModuleType]:
    """The module of a slot, or the modules of its folder."""
    path = getattr(slot, "__path__", None)
    return [slot] if path is None else [import_module(f"{slot.__name__}.{found.name}") for found in iter_modules(path)]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: function
    for slot in _SLOTS
    for module in _modules(slot)
    for name, function in getmembers(module, isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}

OPERATORS: dict[str, Callable[..., Any]] = {n: f for n, f in _FUNCTIONS.items() if not n.startswith(_CHECK)}
"""Operator name -> function."""


def find_operator(name: str) -> Callable[..., Any]:
    """The function of an operator. Raises UsageError where the package has none."""
    if name not in OPERATORS:
        raise UsageError(f"operator {name!r} is declared, but no function of that name exists in estimators/operators")
    return OPERATORS[name]


def find_peer_check(name: str) -> Callable[..., Any] | None:
    """The function that marks entries whose peer set is too small for an operator, or None where any set will do."""
    return _FUNCTIONS.get(_CHECK + name)


__all__ = ["OPERATORS", "find_operator", "find_peer_check"]
