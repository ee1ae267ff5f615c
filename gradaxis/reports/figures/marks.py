"""What figures are drawn from: labelled values with their intervals, nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mark:
    """A value with its interval. A missing or infinite end is open; `resolved` False draws a hollow mark."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    resolved: bool = True


@dataclass(frozen=True)
class PlaneMark:
    """A method in the bias–noise plane."""

    x: Mark
    y: Mark

    @property
    def label(self) -> str:
        return self.x.label


@dataclass(frozen=True)
class Line:
    """Values by position, with a band where intervals are known."""

    label: str
    marks: tuple[Mark, ...]


def finite(value: float | None) -> bool:
    """True for a number that can be drawn."""
    return value is not None and math.isfinite(value)


def log_axis(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times a power of ten, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    wide = low > 0 and high / low > 300.0
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
