"""Methods, failures, compounds and operators as plain data: what `--format json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradaxis.taxonomy.axes import AXES
from gradaxis.taxonomy.comparison import compare, side_of
from gradaxis.taxonomy.declarations import OperatorDeclaration, ParameterDeclaration
from gradaxis.taxonomy.docstrings import operator_sections
from gradaxis.taxonomy.entries import Failure
from gradaxis.taxonomy.methods import Method, Placed
from gradaxis.taxonomy.registry import Registry
from gradaxis.taxonomy.validation import Validation

Row = dict[str, Any]


def method_row(method: Method) -> Row:
    """One object of `list`. `slots` are the slots in which the method differs from its parent."""
    claimed = method.claimed_side
    return {
        "id": method.id, "name": method.name, "family": method.family, "year": method.year, "arxiv": method.arxiv,
        "extends": method.extends, "side": method.side, "parameters_only": method.parameters_only,
        "side_vs_grpo": method.side_vs_grpo, "side_vs_reinforce": method.side_vs_reinforce,
        "claimed_side": claimed.model_dump() if claimed else None, "slots": changed_slots(method),
        "addresses": list(method.addresses), "teacher_entries": list(method.teacher_entries),
        "executable": method.executable, "not_executable": method.not_executable, "status": method.status,
    }  # fmt: skip


def changed_slots(method: Method) -> list[str]:
    """The slots in which a method differs from its parent, those of its streams counted as the same slot."""
    return list(dict.fromkeys(key.split(".")[-1] for key in method.relative["parent"].slots))


def placed_row(placed: Placed) -> Row:
    """One operator of `show`."""
    return {
        "operator": placed.operator, "label": placed.label, "parameters": dict(placed.parameters),
        "where": placed.where, "over": placed.over, "stage": placed.stage, "inherited_from": placed.inherited_from,
        "addresses": list(placed.addresses), "why": placed.why,
    }  # fmt: skip


def _slots_row(slots: Mapping[str, tuple[Placed, ...]]) -> Row:
    return {slot: [placed_row(placed) for placed in items] for slot, items in slots.items()}


def method_detail(method: Method, registry: Registry) -> Row:
    """The object of `show`: the row of `list`, all slots with their operators, and everything derived."""
    entry = method.entry
    return {
        **method_row(method), "label": method.label, "aliases": list(method.aliases), "summary": method.summary,
        "lineage": lineage(method, registry), "paper": entry.paper.model_dump() if entry.paper else None,
        "trajectory": _slots_row(method.trajectory), "reward": _slots_row(method.reward),
        "streams": {name: _slots_row(slots) for name, slots in method.streams.items()},
        "removed": [{"slot": r.slot, "operator": r.label, "by": r.by, "addresses": list(r.addresses), "why": r.why}
                    for r in method.removed],
        "couplings": [dict(coupling) for coupling in method.couplings],
        "relative": {key: {"side": side.side, "relative_to": side.relative_to, "slots": list(side.slots),
                           "parameters_only": side.parameters_only} for key, side in method.relative.items()},
        "teachers": {name: teacher.model_dump() for name, teacher in method.teachers.items()},
        "link": method.link, "mix": [{"of": of, "weight": weight} for of, weight in method.mixed],
        "state": dict(method.state),
        "needs": [{"column": need.column, "slot": need.slot, "operator": need.operator} for need in method.needs],
        "outside": [item.model_dump() for item in entry.outside], "sources": dict(entry.sources),
        "implementations": [item.model_dump() for item in entry.implementations], "notes": list(entry.notes),
        "verified": list(entry.verified), "coincides_with": list(method.coincides_with),
    }  # fmt: skip


def lineage(method: Method, registry: Registry) -> list[str]:
    """The ancestors of a method, parent first."""
    found, at = [], method.extends
    while at is not None:
        found.append(at)
        at = registry.method(at).extends
    return found


def difference_row(before: Method, after: Method) -> Row:
    """The object of `diff`: the side of the second relative to the first, and every operator that differs."""
    side = side_of(after, before)
    return {
        "a": before.label, "b": after.label, "side": side.side, "relative_to": before.label,
        "parameters_only": side.parameters_only, "slots": list(side.slots),
        "link": None if before.link == after.link else [before.link, after.link],
        "differences": [
            {
                "axis": d.axis, "slot": d.slot, "operator": d.label, "change": d.change,
                "parameters": {name: list(pair) for name, pair in d.parameters.items()},
                "a": placed_row(d.before) if d.before else None, "b": placed_row(d.after) if d.after else None,
            }
            for d in compare(before, after)
        ],
    }  # fmt: skip


def failure_row(failure: Failure, registry: Registry) -> Row:
    """One object of `failures`, or of `compounds` with its `failures` and `demonstration`."""
    addressed_by = [method.id for method in registry.methods.values() if failure.id in method.addresses]
    return {**failure.model_dump(), "addressed_by": addressed_by}


def operator_row(operator: OperatorDeclaration, registry: Registry) -> Row:
    """One object of `operators`. `equation`, `assumes`, `reduces_to` and `traps` are from its function's docstring."""
    said = operator_sections(operator)

    def uses(method: Method) -> bool:
        return any(placed.operator == operator.name for items in method.all_slots().values() for placed in items)

    return {
        "name": operator.name, "axis": operator.axis, "slot": operator.slot, "summary": operator.summary,
        "parameters": {name: _parameter_row(parameter) for name, parameter in operator.parameters.items()},
        "reads": list(operator.reads), "of_others": list(operator.of_others), "needs": list(operator.needs),
        "requires": list(operator.requires),
        "over": operator.over.model_dump() if operator.over else None, "stages": list(operator.stages),
        "couples": _plain(operator.couples), "widens": _plain(operator.widens), "law": operator.law,
        "not_yet": operator.not_yet, "paper": operator.paper.model_dump() if operator.paper else None,
        "equation": said.get("equation", ""), "assumes": said.get("assumes"),
        "reduces_to": said.get("reduces_to"), "traps": said.get("traps"), "source": said.get("paper"),
        "notes": list(operator.notes),
        "used_by": [method.id for method in registry.methods.values() if uses(method)],
        "presets": [preset.id for preset in registry.presets.values() if uses(preset)],
    }  # fmt: skip


def validation_row(validation: Validation) -> Row:
    """The object of `validate`: the files, every problem with its place, and what is valid but not computed yet."""
    problems = [
        {"file": p.file, "line": p.line, "column": p.column, "message": p.message, "text": p.text,
         "allowed": list(p.allowed), "closest": p.closest, "shown": str(p)}
        for p in validation.problems
    ]  # fmt: skip
    notes = [{"id": id_, "reason": reason} for id_, reason in validation.not_yet]
    return {"files": list(validation.files), "problems": problems, "not_yet": notes}


def _parameter_row(parameter: ParameterDeclaration) -> Row:
    return {**parameter.model_dump(), "required": parameter.required}


def _plain(value: Any) -> Any:
    return value.model_dump(by_alias=True) if hasattr(value, "model_dump") else value


def axis_slots(row: Row) -> list[tuple[str, str, list[Row]]]:
    """(axis, slot, operators) of a `show` object, in slot order."""
    return [(axis, slot, row[axis][slot]) for axis, slots in AXES.items() for slot in slots]
