"""Operators and their declarations agree in both directions, and every operator is documented in full."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

from gradaxis.errors import UsageError
from gradaxis.estimators.operators import OPERATORS, find_operator, find_peer_check
from gradaxis.taxonomy import Registry

PARTS = ("Args:", "Returns:", "Reduces to:", "Assumes:", "Paper:", "Traps:", ">>>")


def test_every_declared_operator_has_a_function_and_every_function_a_declaration(registry: Registry) -> None:
    declared = {
        name for name, operator in registry.operators.items() if operator.slot != "sampling" and not operator.not_yet
    }
    assert declared == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_signature_is_the_declaration(name: str, registry: Registry) -> None:
    """Positional arguments are the reads in order; keyword-only ones are the parameters, without defaults."""
    declaration, arguments = registry.operators[name], inspect.signature(OPERATORS[name]).parameters.values()
    assert [a.name for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD] == list(declaration.reads)
    assert [a.name for a in arguments if a.kind is a.KEYWORD_ONLY] == list(declaration.parameters)
    assert all(a.default is a.empty for a in arguments)


@pytest.mark.parametrize("name", OPERATORS)
def test_function_stands_in_the_file_of_its_slot(name: str, registry: Registry) -> None:
    declaration = registry.operators[name]
    parts = OPERATORS[name].__module__.split(".operators.")[1].split(".")
    assert parts[:2] == [declaration.axis, declaration.slot]


@pytest.mark.parametrize("name", OPERATORS)
def test_docstring_has_every_part_and_its_examples_hold(name: str) -> None:
    function = OPERATORS[name]
    for part in PARTS if inspect.signature(function).parameters else PARTS[1:]:
        assert part in (function.__doc__ or ""), part
    module = inspect.getmodule(function)
    assert module is not None
    examples = doctest.DocTestFinder().find(function, name, globs={**vars(module), "torch": torch})
    runner = doctest.DocTestRunner()
    assert [runner.run(test).failed for test in examples if test.examples] == [0]


def test_peer_checks_have_the_signature_of_their_operator() -> None:
    check = find_peer_check("center_rewards")
    assert check is not None
    assert list(inspect.signature(check).parameters) == list(inspect.signature(OPERATORS["center_rewards"]).parameters)
    assert find_peer_check("divide_by_spread") is None


def test_unknown_operator_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no_such_thing"):
        find_operator("no_such_thing")
