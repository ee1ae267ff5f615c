"""A measurement in words: its value, its interval, its table cell, and how certain it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Cell
from gradaxis.reports.format import MISSING, clean_text, format_interval, format_list, format_number, format_share

SILENT_VERDICTS = {"not applicable"}
"""Verdicts that say nothing in a table: the quantity has no threshold."""


def write_value(row: Measurement | None, share: bool = False) -> str:
    """The estimate: a number, `≥ low` or `≤ high` where only that end is known, else a dash."""
    if row is None or row.verdict == "not assessed":
        return MISSING
    write = format_share if share else format_number
    if is_number(row.estimate):
        return write(row.estimate)
    if row.low is not None and is_number(row.low) and row.low > 0 and not is_number(row.high):
        return f"≥ {write(row.low)}"
    if is_number(row.high) and not is_number(row.low):
        return f"≤ {write(row.high)}"
    return MISSING


def write_interval(row: Measurement, share: bool = False) -> str:
    """`[low, high]`; nothing where there is no interval, where it is a point, or where it leaves everything open."""
    if _is_point(row) or _says_nothing(row):
        return ""
    if not share:
        return format_interval(row.low, row.high)
    low, high = (None if end is None else 100.0 * end for end in (row.low, row.high))
    text = format_interval(low, high)
    return f"{text} %" if text else ""


def write_quantity(row: Measurement, share: bool = False) -> str:
    """Value and interval for running text: `0.935 [0.910, 0.951]`."""
    interval = write_interval(row, share)
    return f"{write_value(row, share)}{f' {interval}' if interval else ''}"


def value_cell(row: Measurement | None, share: bool = False) -> Cell:
    """A table cell: value, interval below it, `exact` where all was enumerated, a chip for the verdict."""
    if row is None:
        return Cell(MISSING)
    chip = "" if row.verdict in SILENT_VERDICTS else row.verdict
    value, interval = write_value(row, share), write_interval(row, share)
    if chip and value == MISSING and not interval:
        value = ""
    return Cell(value, note=interval, chip=chip, mark="exact" if is_exact(row) else "")


def is_exact(row: Measurement) -> bool:
    """True when the number has no sampling error at all, because everything was enumerated."""
    return row.interval.startswith("none: exact")


def _is_point(row: Measurement) -> bool:
    """True where the ends agree but for rounding."""
    if row.low is None or row.high is None:
        return row.low is row.high
    return row.low == row.high or math.isclose(row.low, row.high, rel_tol=1e-5)


def _says_nothing(row: Measurement) -> bool:
    """True for a row without an estimate whose interval is all that the quantity can be."""
    low = -math.inf if row.low is None else row.low
    high = math.inf if row.high is None else row.high
    return not is_number(row.estimate) and low in (-math.inf, -1.0, 0.0) and high in (math.inf, 1.0)


def excludes(row: Measurement, value: float) -> bool:
    """True when the row's interval lies on one side of `value`; False without an interval."""
    low = row.low if row.low is not None else float("-inf")
    high = row.high if row.high is not None else float("inf")
    return is_number(row.estimate) and (low > value or high < value)


def certainty_of(rows: Sequence[Measurement]) -> str:
    """How a finding is known: how the intervals were made, the number of prompts, exact or projected inner products."""
    hows = list(dict.fromkeys(clean_text(row.interval) for row in rows if row.interval))
    counts = sorted({row.n for row in rows if row.n is not None})
    exact = {row.exact for row in rows if row.exact is not None}
    parts = [format_list(hows, limit=3)] if hows else []
    if counts:
        unit = next((unit for unit in ("groups", "prompts") if any(unit in how for how in hows)), "units")
        parts.append(f"{counts[0]} {unit}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} {unit}")
    if exact:
        parts.append("inner products exact" if exact == {True} else "inner products projected, hence estimated")
    return f"{'; '.join(parts)}." if parts else ""


def remedy_of(row: Measurement) -> str:
    """What would turn the row into a number: its advice, or else the inputs that it needs."""
    return clean_text(row.advice or (f"supply {format_list(row.needs)}" if row.needs else ""))


def subject_of(row: Measurement) -> str:
    """The method that the row speaks of; rows about the rollouts themselves name none."""
    return clean_text(row.method) or "all methods"
