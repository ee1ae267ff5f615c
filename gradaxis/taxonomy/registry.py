"""The registry: every method, failure, compound and operator, and the ways to ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gradaxis.errors import RegistryError, UsageError
from gradaxis.taxonomy.building import build
from gradaxis.taxonomy.loading import Sources, read_folder
from gradaxis.taxonomy.methods import Method
from gradaxis.taxonomy.overriding import override_method
from gradaxis.taxonomy.problems import closest_match
from gradaxis.taxonomy.selection import split_selection

SHIPPED = Path(__file__).resolve().parent.parent / "registry"


class Registry:
    """Resolved registry. `methods`, `presets`, `failures`, `compounds` and `operators` are mappings by id or name.

    A preset is what a training library computes under a name of its own; it is asked for like a method.

    Args:
        sources: the files that were read.

    Raises:
        RegistryError: with every problem of every file.
    """

    def __init__(self, sources: Sources) -> None:
        built = build(sources)
        if built.problems:
            raise RegistryError(built.problems)
        self._sources = sources
        self.methods: Mapping[str, Method] = built.methods
        self.presets: Mapping[str, Method] = built.presets
        self.failures, self.compounds, self.operators = built.failures, built.compounds, built.operators
        self.aliases = built.aliases

    def method(self, name: str) -> Method:
        """The method or preset with an id or alias. Raises UsageError with the closest match."""
        id_ = self.aliases.get(name, name)
        found = self.methods.get(id_) or self.presets.get(id_)
        if found is None:
            names = [*self.methods, *self.presets, *self.aliases]
            raise UsageError(f"unknown method {name!r}{closest_match(name, names)}; `gradaxis list` names all")
        return found

    def with_files(self, paths: Iterable[Path]) -> Registry:
        """This registry with further entries, which may extend the ones that are here."""
        paths = list(paths)
        return Registry(self._sources.with_files(paths)) if paths else self

    def select(self, text: str) -> list[Method]:
        """The methods of one line such as `grpo,./mine.yaml,dapo[trust_region.high=0.3]`.

        `all` stands for every executable method of this registry. A method that is named twice with the same overrides
        is returned once. Raises UsageError for what does not exist and RegistryError for files that do not validate.
        """
        return self._select(text)[1]

    def select_one(self, text: str) -> tuple[Registry, Method]:
        """One method, and the registry that holds it: this one, or this one with the file that was named."""
        registry, found = self._select(text)
        if len(found) != 1:
            raise UsageError(f"{text!r} names {len(found)} methods; one is wanted")
        return registry, found[0]

    def _select(self, text: str) -> tuple[Registry, list[Method]]:
        parts = split_selection(text)
        files = {part.name: Path(part.name).resolve() for part in parts if part.is_file}
        for name, path in files.items():
            if not path.is_file():
                raise UsageError(f"{name}: no such file")
        registry = self.with_files(files.values())
        by_path = {source.path: source.content.id for source in registry._sources.of("methods", "presets")}
        found: dict[str, Method] = {}
        for part in parts:
            if part.name == "all" and not part.overrides and "all" not in self.methods:
                found.update({id_: method for id_, method in self.methods.items() if method.executable})
                continue
            if part.is_file and files[part.name] not in by_path:
                raise UsageError(f"{part.name}: not a method")
            method = registry.method(by_path[files[part.name]] if part.is_file else part.name)
            method = registry.override(method, part.overrides)
            found.setdefault(method.label, method)
        return registry, list(found.values())

    def override(self, method: Method | str, overrides: Mapping[str, Any]) -> Method:
        """A method with parameters replaced: `{"trust_region.high": 0.3}`. Everything derived is derived again.

        Keys are `slot.parameter`, or `slot.operator.parameter` where several operators of the slot have it; `over` and
        `stage` count as parameters, and a stream's slot is `stream.slot`. Raises UsageError.
        """
        method = self.method(method) if isinstance(method, str) else method
        return override_method(method, overrides, {**self.methods, **self.presets}) if overrides else method


def load_registry(extra_paths: Iterable[str | Path] = (), root: str | Path | None = None) -> Registry:
    """Read and resolve the registry that ships with the package, and further files or folders.

    Args:
        extra_paths: YAML files or folders of them; an entry there may extend any shipped one.
        root: another registry folder instead of the shipped one.

    Raises:
        RegistryError: with every problem of every file, each with `file:line:column`.
    """
    return Registry(read_folder(Path(root) if root else SHIPPED).with_files(Path(path) for path in extra_paths))
