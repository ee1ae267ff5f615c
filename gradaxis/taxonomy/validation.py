"""Validating files and folders of entries, alone or on top of the shipped registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradaxis.errors import UsageError
from gradaxis.taxonomy.building import build
from gradaxis.taxonomy.loading import Sources, expand, read_folder
from gradaxis.taxonomy.problems import Problem
from gradaxis.taxonomy.registry import SHIPPED


@dataclass(frozen=True)
class Validation:
    """The files that were asked for, every problem, and the valid methods that no estimator can compute yet."""

    files: tuple[str, ...]
    problems: tuple[Problem, ...]
    not_yet: tuple[tuple[str, str], ...]


def validate_paths(paths: Sequence[Path]) -> Validation:
    """Validate files and folders; without paths, the shipped registry.

    A file inside a registry folder is validated together with that folder, any other one on top of the shipped
    registry. Raises UsageError for a path that does not exist or holds no YAML file.
    """
    grouped: dict[Path, list[Path]] = {}
    for path in paths or [SHIPPED]:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        files = expand([path])
        if not files:
            raise UsageError(f"{path}: no YAML files in this folder")
        for file in files:
            grouped.setdefault(registry_root(file), []).append(file)
    parts = [_validate(root, files) for root, files in grouped.items()]
    return Validation(
        tuple(file for part in parts for file in part.files),
        tuple(dict.fromkeys(problem for part in parts for problem in part.problems)),
        tuple(note for part in parts for note in part.not_yet),
    )


def registry_root(path: Path) -> Path:
    """The nearest folder above a file that is a registry (it has `operators` and `methods`), or the shipped one."""
    for parent in path.resolve().parents:
        if (parent / "operators").is_dir() and (parent / "methods").is_dir():
            return parent
    return SHIPPED


def _validate(root: Path, files: Sequence[Path]) -> Validation:
    sources: Sources = read_folder(root).with_files(files)
    built = build(sources)
    asked = set(files)
    shown = tuple(source.document.file for source in sources.files if source.path in asked)
    notes = [(m.id, m.not_executable) for m in built.methods.values() if m.not_executable and m.file in set(shown)]
    return Validation(shown, built.problems, tuple((id_, str(reason)) for id_, reason in notes))
