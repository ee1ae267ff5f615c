"""Where results come from: versions, models, the registry's word on each method, and how long each stage took."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from gradaxis.diagnostics.config import ExperimentConfig
from gradaxis.diagnostics.storage import read_json, write_json
from gradaxis.taxonomy import Method

PACKAGES = ("gradaxis", "torch", "transformers", "numpy", "scipy")


class Clock:
    """Adds up seconds by stage over all runs of a folder, kills included; stored in `seconds.json` when it closes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "seconds.json"
        self.seconds: dict[str, float] = read_json(self._path) if self._path.is_file() else {}

    def __enter__(self) -> Clock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        write_json(self._path, self.seconds)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Measures the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)


def write_provenance(folder: Path, config: ExperimentConfig, clock: Clock, points: Mapping[str, Any]) -> None:
    """Store versions, seconds by stage, and what is known of each point's rollouts, models and Gram matrix."""
    write_json(folder / "provenance.json", {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"system": platform.system(), "processor": platform.machine(), "device": config.device},
        "fingerprint": config.fingerprint, "seconds": clock.seconds,
        "total_seconds": round(sum(clock.seconds.values()), 1), "points": dict(points),
    })  # fmt: skip


def describe_method(method: Method) -> dict[str, Any]:
    """What the registry said of a method when it was measured."""
    return {
        "id": method.id, "name": method.name, "status": method.status, "family": method.family,
        "extends": method.extends,
        "relative": {
            key: {"side": side.side, "relative_to": side.relative_to, "slots": list(side.slots),
                  "parameters_only": side.parameters_only}
            for key, side in method.relative.items()
        },
        "couplings": [dict(coupling) for coupling in method.couplings],
        "coincides_with": list(method.coincides_with),
    }  # fmt: skip


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
