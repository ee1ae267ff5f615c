"""From an item of an entry to an operator placed in a slot, checked against its declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradaxis.taxonomy.axes import SLOTS, axis_of
from gradaxis.taxonomy.checking import describe
from gradaxis.taxonomy.declarations import OperatorDeclaration
from gradaxis.taxonomy.entries import Item, Patch
from gradaxis.taxonomy.methods import Placed
from gradaxis.taxonomy.parameters import fill_parameters
from gradaxis.taxonomy.problems import Problem
from gradaxis.taxonomy.yaml_nodes import Document

WHERE_VALUES = {"sign": ("positive", "negative", "zero"), "group": ("all-right", "all-wrong", "mixed")}
"""Columns of a gate with a fixed vocabulary."""

_RANGES = ("top", "bottom", "above", "below", "not")


@dataclass(frozen=True)
class Lookup:
    """What items refer to. `broken` holds names whose own files have problems, which are reported there only."""

    operators: Mapping[str, OperatorDeclaration]
    failures: frozenset[str]
    broken: frozenset[str] = frozenset()


@dataclass
class Report:
    """Collects the problems of one document. `broken` is set when something could not be placed."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    broken: bool = False

    def add(
        self, path: Sequence[Any], message: str, allowed: Sequence[str] = (), got: object = None, key: bool = False
    ) -> None:
        self.problems.append(self.document.problem(path, message, allowed, got, key))
        self.broken = True


def place_item(item: Item, slot: str, path: Sequence[Any], lookup: Lookup, report: Report) -> Placed | None:
    """The placed operator of one item, or None when its operator is unknown. Problems go to the report."""
    declaration = lookup.operators.get(item.operator)
    if declaration is None:
        if item.operator not in lookup.broken:
            names = [name for name, found in lookup.operators.items() if found.slot == slot]
            report.add((*path, "operator"), f"unknown operator {item.operator!r}", names or list(lookup.operators),
                       item.operator)  # fmt: skip
        report.broken = True
        return None
    if declaration.slot != slot:
        names = [name for name, found in lookup.operators.items() if found.slot == slot]
        message = f"{item.operator} belongs to {declaration.axis}.{declaration.slot}, not to {axis_of(slot)}.{slot}"
        report.add((*path, "operator"), message, names)
        return None
    check_addresses(item.addresses, path, lookup, report)
    return _place(declaration, item.label, item, item.parameters, path, report)


def patch_placed(placed: Placed, patch: Patch, path: Sequence[Any], lookup: Lookup, report: Report) -> Placed:
    """The operator of a parent with the keys of a patch replaced."""
    check_addresses(patch.addresses, path, lookup, report)
    given = {**placed.parameters, **patch.parameters}
    changed = patch.model_fields_set
    merged = Patch.model_construct(
        where=patch.where if "where" in changed else placed.where,
        over=patch.over if "over" in changed else placed.over,
        stage=patch.stage if "stage" in changed else placed.stage,
        addresses=patch.addresses if "addresses" in changed else list(placed.addresses),
        why=patch.why if "why" in changed else placed.why,
    )
    return _place(placed.declaration, placed.label, merged, given, path, report)


def _place(
    declaration: OperatorDeclaration,
    label: str,
    said: Item | Patch,
    given: Mapping[str, Any],
    path: Sequence[Any],
    report: Report,
) -> Placed:
    parameters, problems = fill_parameters(declaration, given)
    for problem in problems:
        report.add((*path, problem.name), problem.message, problem.allowed, problem.got, key=problem.unknown)
    over = _over(declaration, said.over, path, report)
    stage = _stage(declaration, said.stage, path, report)
    _check_where(said.where, path, report)
    return Placed(
        operator=declaration.name, label=label, parameters=parameters, where=said.where, over=over, stage=stage,
        addresses=tuple(said.addresses), why=said.why, inherited_from=None, declaration=declaration,
    )  # fmt: skip


def _over(
    declaration: OperatorDeclaration, over: str | Sequence[str] | None, path: Sequence[Any], report: Report
) -> str | tuple[str, ...] | None:
    if declaration.over is None:
        if over is not None:
            report.add((*path, "over"), f"{declaration.name} has no peers, so it takes no `over`", key=True)
        return None
    if over is None:
        return declaration.over.default
    if isinstance(over, str):
        if over not in declaration.over.choices:
            report.add((*path, "over"), f"over got {describe(over)}", declaration.over.choices, over)
        return over
    return tuple(over)


def _stage(declaration: OperatorDeclaration, stage: str | None, path: Sequence[Any], report: Report) -> str | None:
    if stage is None:
        return declaration.stages[0] if declaration.stages else None
    if not declaration.stages:
        report.add((*path, "stage"), f"{declaration.name} runs in one place only, so it takes no `stage`", key=True)
    elif stage not in declaration.stages:
        report.add((*path, "stage"), f"stage got {describe(stage)}", declaration.stages, stage)
    return stage


def _check_where(where: Mapping[str, Any] | None, path: Sequence[Any], report: Report) -> None:
    """A gate is a conjunction of `column: value`, of `column: {top: share}` and the like, or a detached `weight`."""
    for column, value in (where or {}).items():
        at = (*path, "where", column)
        if column == "weight":
            if not isinstance(value, Mapping):
                report.add(at, f"weight got {describe(value)}, expected a mapping")
        elif isinstance(value, Mapping):
            for key in value:
                if key not in _RANGES:
                    report.add((*at, key), f"unknown key {key!r}", _RANGES, key, key=True)
        elif column == "truncated":
            if not isinstance(value, bool):
                report.add(at, f"truncated got {describe(value)}, expected true or false")
        elif column in WHERE_VALUES:
            if value not in WHERE_VALUES[column]:
                report.add(at, f"{column} got {describe(value)}", WHERE_VALUES[column], value)
        elif not isinstance(value, (str, bool, int, float)):
            report.add(at, f"{column} got {describe(value)}, expected one value")


def check_addresses(addresses: Sequence[str], path: Sequence[Any], lookup: Lookup, report: Report) -> None:
    """Every failure that is addressed must have an entry."""
    for index, failure in enumerate(addresses):
        if failure not in lookup.failures:
            report.add((*path, "addresses", index), f"unknown failure {failure!r}", sorted(lookup.failures), failure)


def slot_path(slot: str, stream: str | None = None) -> tuple[str, ...]:
    """Where a slot stands in an entry."""
    return ("streams", stream, slot) if stream else (SLOTS[slot].axis, slot)
