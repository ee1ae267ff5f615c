"""Reading registry files: which files there are, of which kind, and every problem of all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradaxis.taxonomy.axes import AXES, SLOTS
from gradaxis.taxonomy.checking import check_model
from gradaxis.taxonomy.coupling import check_of_others
from gradaxis.taxonomy.declarations import RESERVED, OperatorBody, OperatorDeclaration
from gradaxis.taxonomy.entries import LIBRARY, Compound, Entry, Failure
from gradaxis.taxonomy.parameters import check_value
from gradaxis.taxonomy.problems import Problem
from gradaxis.taxonomy.yaml_nodes import Document, read_yaml

KINDS = ("methods", "presets", "failures", "compounds", "operators")
_METHOD_KEYS = frozenset({"extends", "family", "trajectory", "reward"})
_MODELS: dict[str, type[Entry] | type[Failure]] = {
    "methods": Entry, "presets": Entry, "failures": Failure, "compounds": Compound,
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One file: its kind, path, document, the typed content (None when it has problems), and its problems."""

    kind: str
    path: Path
    document: Document
    content: Any
    problems: tuple[Problem, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the file defines, read off the raw data so that it is known even when the file has problems."""
        data = self.document.data
        if not isinstance(data, Mapping):
            return ()
        if self.kind == "operators":
            return tuple(data)
        return (data["id"],) if isinstance(data.get("id"), str) else ()


@dataclass
class Sources:
    """The files of a registry by kind, in path order."""

    files: list[Source] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Source]:
        """The files of some kinds, kind after kind."""
        return [source for kind in kinds for source in self.files if source.kind == kind]

    def with_files(self, paths: Iterable[Path]) -> Sources:
        """These files and those of `paths`; a path that is here already is read anew."""
        new = [read_source(path) for path in expand(paths)]
        replaced = {source.path for source in new}
        return Sources([source for source in self.files if source.path not in replaced] + new)


def expand(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders as all their YAML files, in order and each once."""
    found: list[Path] = []
    for path in paths:
        found += sorted([*path.rglob("*.yaml"), *path.rglob("*.yml")]) if path.is_dir() else [path]
    return list(dict.fromkeys(path.resolve() for path in found))


def read_folder(root: Path) -> Sources:
    """All files of a registry folder (`methods`, `presets`, `failures`, `compounds`, `operators`)."""
    return Sources([read_source(path) for kind in KINDS for path in expand([root / kind]) if path.exists()])


def kind_of(path: Path, data: Any = None) -> str:
    """The kind of a file: a preset when its family is `library`, else a method when it has a method's keys, else by the
    nearest folder that names a kind."""
    if isinstance(data, Mapping) and data.keys() & _METHOD_KEYS:
        return "presets" if data.get("family") == LIBRARY else "methods"
    return next((part for part in reversed(path.parent.parts) if part in KINDS), "methods")


def read_source(path: Path) -> Source:
    """Read and type one file."""
    document, problems = read_yaml(path, _shown(path))
    kind = kind_of(path, document.data)
    if not document.whole or document.root is None:
        return Source(kind, path, document, None, tuple(problems))
    if kind == "operators":
        content, found = _read_operators(path, document)
    else:
        content, found = check_model(_MODELS[kind], document)
        found += _check_slots(content, document) if isinstance(content, Failure) else []
    problems += found
    return Source(kind, path, document, None if problems else content, tuple(problems))


def _shown(path: Path) -> str:
    """The path as messages show it: relative to the working folder where it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _check_slots(failure: Failure, document: Document) -> list[Problem]:
    return [
        document.problem(("slots", i), f"unknown slot {slot!r}", list(SLOTS), slot)
        for i, slot in enumerate(failure.slots)
        if slot not in SLOTS
    ]


def _read_operators(path: Path, document: Document) -> tuple[dict[str, OperatorDeclaration], list[Problem]]:
    axis, slot = path.parent.name, path.stem
    if slot not in AXES.get(axis, ()):
        message = "operators stand in operators/<axis>/<slot>.yaml, and this is neither axis and slot"
        return {}, [document.problem((), message, [f"{axis}/{slot}" for axis, slots in AXES.items() for slot in slots])]
    if not isinstance(document.data, Mapping):
        return {}, [document.problem((), "expected a mapping from operator names to declarations")]
    found: dict[str, OperatorDeclaration] = {}
    problems: list[Problem] = []
    for name, data in document.data.items():
        body, wrong = check_model(OperatorBody, document, (name,), data)
        problems += wrong
        if body is not None:
            problems += _check_declaration(name, body, document)
            problems += check_of_others(name, slot, body, document)
            found[name] = OperatorDeclaration.model_construct(**dict(body), name=name, axis=axis, slot=slot)
            found[name].__pydantic_fields_set__.update(body.model_fields_set)
    return found, problems


def _check_declaration(name: str, body: OperatorBody, document: Document) -> list[Problem]:
    """Defaults within their own range, choices where they are due, names that are free, `requires` well formed."""
    problems: list[Problem] = []
    for key, parameter in body.parameters.items():
        at = (name, "parameters", key)
        if key in RESERVED:
            problems.append(document.problem(at, f"{key!r} is a key of every item, not a parameter", key=True))
        if (parameter.type == "choice") != bool(parameter.choices):
            problems.append(document.problem(at, "a choice lists its `choices`, and nothing else does"))
        elif not parameter.required:
            wrong = check_value(key, parameter, parameter.default)
            problems += [document.problem((*at, "default"), p.message, p.allowed, p.got) for p in wrong]
    if body.over and body.over.default not in body.over.choices:
        at = (name, "over", "default")
        problems.append(document.problem(at, "the default is none of the choices", body.over.choices))
    for i, required in enumerate(body.requires):
        slot, _, operator = required.partition(".")
        if slot not in SLOTS or not operator:
            message = f"requires got {required!r}, expected slot.operator"
            problems.append(document.problem((name, "requires", i), message, list(SLOTS), slot))
    return problems
