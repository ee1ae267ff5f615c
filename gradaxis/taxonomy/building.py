"""From files to a registry: names, references, inheritance in order, and every problem of all files at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradaxis.taxonomy.declarations import OperatorDeclaration
from gradaxis.taxonomy.derivation import derive
from gradaxis.taxonomy.entries import FAMILIES, LIBRARY, Compound, Entry, Failure
from gradaxis.taxonomy.loading import Source, Sources
from gradaxis.taxonomy.methods import Method
from gradaxis.taxonomy.placing import Lookup, Report
from gradaxis.taxonomy.problems import Problem
from gradaxis.taxonomy.resolution import check_items, resolve


@dataclass(frozen=True)
class Built:
    """Everything that could be resolved, and the problems of the rest."""

    methods: Mapping[str, Method]
    presets: Mapping[str, Method]
    failures: Mapping[str, Failure]
    compounds: Mapping[str, Compound]
    operators: Mapping[str, OperatorDeclaration]
    aliases: Mapping[str, str]
    problems: tuple[Problem, ...]


def build(sources: Sources) -> Built:
    """Resolve all files; methods and presets come by family, year and id.

    Files with problems are left out, and nothing that rests on them is reported a second time.
    """
    problems = [problem for source in sources.files for problem in source.problems]
    operators = _collect_operators(sources, problems)
    failures = {s.content.id: s.content for s in _unique(sources.of("failures"), problems) if s.content}
    compounds = {s.content.id: s.content for s in _unique(sources.of("compounds"), problems) if s.content}
    entries = _unique(sources.of("methods", "presets"), problems)
    aliases = _collect_aliases(entries, problems)
    broken = [name for source in sources.files if source.content is None for name in source.names]
    named = {name for source in sources.of("failures", "compounds") for name in source.names}
    lookup = Lookup(operators, frozenset(named), frozenset(broken))
    _check_operators(sources, lookup, problems)
    _check_compounds(sources, named, problems)
    methods = _resolve_all(entries, lookup, problems)
    methods = {id_: derive(method, methods) for id_, method in methods.items()}
    ranked = sorted(methods.items(), key=lambda item: _rank(item[1]))
    methods = {id_: method for id_, method in ranked if method.family != LIBRARY}
    presets = {id_: method for id_, method in ranked if method.family == LIBRARY}
    ordered = sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))
    return Built(methods, presets, failures, compounds, operators, aliases, tuple(dict.fromkeys(ordered)))


def _rank(method: Method) -> tuple[int, int, str]:
    return FAMILIES.index(method.family), method.year, method.id


def _collect_operators(sources: Sources, problems: list[Problem]) -> dict[str, OperatorDeclaration]:
    found: dict[str, OperatorDeclaration] = {}
    places: dict[str, str] = {}
    for source in sources.of("operators"):
        for name in source.names:
            if name in places:
                message = f"the operator {name!r} is in {places[name]} already; names are unique over all slots"
                problems.append(source.document.problem((name,), message, key=True))
            places.setdefault(name, source.document.file)
        for name, declaration in (source.content or {}).items():
            found.setdefault(name, declaration)
    return found


def _unique(sources: Sequence[Source], problems: list[Problem]) -> list[Source]:
    """The sources without those whose id another file has already."""
    kept: dict[str, Source] = {}
    rest = []
    for source in sources:
        for id_ in source.names:
            if id_ in kept:
                message = f"the id {id_!r} is taken by {kept[id_].document.file}"
                problems.append(source.document.problem(("id",), message))
            else:
                kept[id_] = source
        if not source.names:
            rest.append(source)
    return [*kept.values(), *rest]


def _collect_aliases(entries: Sequence[Source], problems: list[Problem]) -> dict[str, str]:
    ids = {name: source.document.file for source in entries for name in source.names}
    found: dict[str, str] = {}
    for source in entries:
        for i, alias in enumerate(source.content.aliases if source.content else ()):
            owner = alias if alias in ids else found.get(alias)
            if owner is not None:
                message = f"the name {alias!r} belongs to {owner!r} already"
                problems.append(source.document.problem(("aliases", i), message))
            else:
                found[alias] = source.content.id
    return found


def _check_operators(sources: Sources, lookup: Lookup, problems: list[Problem]) -> None:
    """`requires` names operators that exist, in the slot that it says."""
    for source in sources.of("operators"):
        for name, declaration in (source.content or {}).items():
            for i, required in enumerate(declaration.requires):
                slot, _, operator = required.partition(".")
                other = lookup.operators.get(operator)
                if (other is None or other.slot != slot) and operator not in lookup.broken:
                    known = [f"{o.slot}.{o.name}" for o in lookup.operators.values() if o.slot == slot]
                    message = f"{name} requires {required!r}, which no file declares"
                    problems.append(source.document.problem((name, "requires", i), message, known, required))


def _check_compounds(sources: Sources, failures: set[str], problems: list[Problem]) -> None:
    for source in sources.of("compounds"):
        for i, failure in enumerate(source.content.failures if source.content else ()):
            if failure not in failures:
                message = f"unknown failure {failure!r}"
                problems.append(source.document.problem(("failures", i), message, sorted(failures), failure))


def _resolve_all(entries: Sequence[Source], lookup: Lookup, problems: list[Problem]) -> dict[str, Method]:
    """Parents before children. An entry whose parent has problems is only checked for its own."""
    by_id = {source.content.id: source for source in entries if source.content}
    known = {name for source in entries for name in source.names}
    done: dict[str, Method] = {}
    waiting, loops = dict(by_id), _loops({id_: source.content.extends for id_, source in by_id.items()})
    while waiting:
        ready = [i for i, s in waiting.items() if s.content.extends is None or s.content.extends not in waiting]
        ready = ready or list(waiting)
        for id_ in ready:
            source = waiting.pop(id_)
            entry: Entry = source.content
            report = Report(source.document)
            _check_references(entry, known, loops, report)
            parent = done.get(entry.extends) if entry.extends else None
            if entry.extends and parent is None:
                check_items(entry, lookup, report)
            else:
                method = resolve(entry, parent, lookup, report)
                if method is not None:
                    done[id_] = method
            problems += report.problems
    return done


def _loops(parents: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Every id that inherits from itself, with the way round."""
    found: dict[str, list[str]] = {}
    for start in parents:
        way, at = [start], parents[start]
        while at is not None and at not in way:
            way.append(at)
            at = parents.get(at)
        if at == start:
            found[start] = [*way, start]
    return found


def _check_references(entry: Entry, known: set[str], loops: Mapping[str, list[str]], report: Report) -> None:
    """Every other entry that this one names must exist, and nothing may inherit from itself."""
    names: list[tuple[tuple[Any, ...], str]] = [(("mix", i, "of"), part.of) for i, part in enumerate(entry.mix)]
    names += [(("coincides_with", i), other) for i, other in enumerate(entry.coincides_with)]
    names += [(("claimed_side", "relative_to"), entry.claimed_side.relative_to)] if entry.claimed_side else []
    if entry.id in loops:
        report.add(("extends",), f"{' extends '.join(loops[entry.id])}: an entry cannot inherit from itself")
    elif entry.extends is not None and entry.extends not in known:
        report.add(("extends",), f"no entry {entry.extends!r} to extend", sorted(known), entry.extends)
    for path, name in names:
        if name not in known:
            report.add(path, f"no entry {name!r}", sorted(known), name)
