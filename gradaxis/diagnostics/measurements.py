"""Measurements: the tidy rows that probes return and reports read, and how they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradaxis.diagnostics.storage import atomic_path, write_json
from gradaxis.errors import InputError

VERDICTS = ("ok", "watch", "bad", "unresolved", "not assessed", "not applicable")
"""`unresolved`: the interval does not decide. `not assessed`: an input is missing. `not applicable`: no threshold."""

FINDINGS = ("ok", "watch", "bad")
"""The verdicts that claim something, and therefore need a finite estimate."""

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Measurement:
    """One number about one method at one point of an update, with its interval and what follows from it.

    `estimate`, `low` and `high` are in `unit`; an open end is ±infinity and an unknown value is None. `interval` says
    how the interval was made, `n` how many independent units it rests on (prompts, or groups where `interval` says so),
    `exact` whether the inner products behind it are exact (True) or projected (False). `part` names the part of the
    data the row speaks of ("position 3"). `p_value` is two-sided and for this row alone: the chance of an estimate as
    far from what the row compares it with (0 for a difference, 1 for a ratio) where the two are equal.
    `axis`, `slot` and `failure` are registry ids. `needs` are the inputs that would turn `not assessed` into a number.
    """

    probe: str
    metric: str
    method: str = ""
    point: str = "fresh"
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    n: int | None = None
    exact: bool | None = None
    unit: str = ""
    compared_with: str = ""
    part: str = ""
    axis: str = ""
    slot: str = ""
    failure: str = ""
    verdict: str = "not applicable"
    threshold: float | None = None
    threshold_source: str = ""
    advice: str = ""
    reason: str = ""
    needs: tuple[str, ...] = ()
    p_value: float | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError("verdict", repr(self.verdict), f"one of {', '.join(VERDICTS)}")
        if self.verdict in FINDINGS and not is_number(self.estimate):
            raise InputError(
                f"estimate of {self.metric!r}", repr(self.estimate), f"a finite number for {self.verdict!r}"
            )
        if self.verdict == "not assessed" and not self.reason:
            raise InputError("reason", "nothing", "why the row is not assessed")
        if self.p_value is not None and not 0 <= self.p_value <= 1:
            raise InputError(f"p_value of {self.metric!r}", repr(self.p_value), "a number from 0 to 1, or None")


def is_number(value: float | None) -> bool:
    """True for a finite number; None, NaN and infinities are not evidence."""
    return value is not None and math.isfinite(value)


def judge(row: Measurement, low_is_good: bool, watch: float, bad: float, source: str) -> Measurement:
    """The row with a verdict from two thresholds, or `unresolved` / `not assessed` where the data do not decide.

    With `low_is_good` the value is `ok` below `watch`, `bad` from `bad` on; otherwise the order is reversed. When the
    interval holds values on both sides of a threshold that the estimate has passed, the verdict is `unresolved`: a
    finding needs an interval that clears its threshold. A row without a finite estimate is `not assessed`.
    """
    if not is_number(row.estimate):
        return replace(row, estimate=None, low=None, high=None, p_value=None, verdict="not assessed",
                       reason=row.reason or "no finite estimate: the input is empty or not a number")  # fmt: skip
    assert row.estimate is not None
    sign = 1.0 if low_is_good else -1.0

    def level(value: float) -> int:
        return int(sign * value >= sign * watch) + int(sign * value >= sign * bad)

    ends = [row.estimate if end is None or math.isnan(end) else end for end in (row.low, row.high)]
    levels = {level(end) for end in ends}
    verdict = FINDINGS[level(row.estimate)] if len(levels) == 1 else "unresolved"
    if verdict == "unresolved" and 0 not in levels:
        verdict = "watch"  # the whole interval lies beyond `watch`; only `bad` is open
    threshold = bad if verdict == "bad" else watch
    return replace(row, verdict=verdict, threshold=threshold, threshold_source=source)


def not_assessed(row: Measurement, reason: str, needs: Sequence[str] = (), advice: str = "") -> Measurement:
    """The row without a number: why, which input would enable it, and how to supply that."""
    return replace(row, estimate=None, low=None, high=None, p_value=None, verdict="not assessed", reason=reason,
                   needs=tuple(needs), advice=advice or row.advice)  # fmt: skip


def write_measurements(rows: Iterable[Measurement], folder: Path) -> None:
    """Store the rows as `measurements.parquet` and `measurements.json` in `folder`, each atomically."""
    records = [asdict(row) for row in rows]
    table = pa.Table.from_pylist([{**record, "needs": list(record["needs"])} for record in records], schema=SCHEMA)
    with atomic_path(folder / "measurements.parquet") as path:
        pq.write_table(table.replace_schema_metadata({"gradaxis_schema": str(SCHEMA_VERSION)}), path)
    write_json(
        folder / "measurements.json", {"schema": SCHEMA_VERSION, "rows": [to_json(record) for record in records]}
    )


def read_measurements(folder: Path) -> list[Measurement]:
    """The stored rows of a results folder. Raises InputError when there are none or their schema is another."""
    path = folder / "measurements.parquet"
    if not path.is_file():
        raise InputError("results", str(folder), "a folder with measurements.parquet", "run the experiment to its end")
    table = pq.read_table(path)
    version = (table.schema.metadata or {}).get(b"gradaxis_schema", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise InputError(str(path), f"schema {version}", f"schema {SCHEMA_VERSION}", "run the experiment again")
    return [from_record(record) for record in table.to_pylist()]


def to_json(record: dict[str, Any]) -> dict[str, Any]:
    """The record with an open end as the string "inf" or "-inf" and NaN as null: JSON has no infinities."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in record.items()}


def from_record(record: dict[str, Any]) -> Measurement:
    """A measurement from a stored record (Parquet, or `to_json`'s)."""
    numbers = {name: float(record[name]) for name in NUMBERS if record[name] is not None}
    return Measurement(**{**record, **numbers, "needs": tuple(record["needs"])})


NUMBERS = ("estimate", "low", "high", "threshold", "p_value")
_TYPES = {"n": pa.int64(), "exact": pa.bool_(), "needs": pa.list_(pa.string()), **dict.fromkeys(NUMBERS, pa.float64())}
SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in fields(Measurement)])
