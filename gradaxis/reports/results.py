"""The stored results that a report reads: rows, configuration, provenance and method cards, nothing computed anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gradaxis.diagnostics.measurements import Measurement, read_measurements
from gradaxis.diagnostics.storage import read_json
from gradaxis.errors import InputError
from gradaxis.reports.family import Family, family_of
from gradaxis.reports.points import FRESH


@dataclass(frozen=True)
class Results:
    """One run's rows and what is known about how they came to be."""

    rows: tuple[Measurement, ...]
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def family(self) -> Family:
        """The statements that a verdict could make, and how clear each must be when all are counted."""
        return family_of(self.rows)

    @property
    def points(self) -> tuple[str, ...]:
        """Points in the update, fresh first, then in the order of the rows."""
        points = list(dict.fromkeys(row.point for row in self.rows if row.point))
        return tuple(sorted(points, key=lambda point: point != FRESH))

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels of the methods, in the order of the cards, then of the rows."""
        named = [row.method for row in self.rows if row.method]
        return tuple(label for label in dict.fromkeys([*self.cards, *named]) if label in set(named))

    def select(self, metric: str | Iterable[str] | None = None, **wanted: Any) -> list[Measurement]:
        """Rows whose metric is (one of) `metric` and whose other fields equal those given."""
        metrics = {metric} if isinstance(metric, str) else None if metric is None else set(metric)
        return [
            row
            for row in self.rows
            if (metrics is None or row.metric in metrics)
            and all(getattr(row, name) == value for name, value in wanted.items())
        ]

    def find(self, metric: str, method: str = "", point: str = FRESH, **wanted: Any) -> Measurement | None:
        """The first such row, or None."""
        return next(iter(self.select(metric, method=method, point=point, **wanted)), None)


def read_results(folder: Path) -> Results:
    """Reads a results folder. Raises InputError when it is not one."""
    if not folder.is_dir():
        raise InputError("results", str(folder), "a results folder", "give the --output of `gradaxis probe` or `demo`")
    rows = read_measurements(folder)
    if not rows:
        raise InputError("results", f"no measurements in {folder}", "at least one row", "run the experiment to its end")
    return Results(
        rows=tuple(rows),
        config=_read_optional(folder / "config.json"),
        provenance=_read_optional(folder / "provenance.json"),
        cards=_read_optional(folder / "methods.json"),
    )


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
