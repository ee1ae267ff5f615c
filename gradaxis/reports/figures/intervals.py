"""Values with intervals, one row a method: a forest plot, and pairs of points joined by a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradaxis.reports.figures.marks import Mark, finite, log_axis
from gradaxis.reports.figures.palette import BLUE, GRID, INK, MUTED, PAPER, VERMILION
from gradaxis.reports.format import shorten

ROW_HEIGHT = 0.27
HEAD_HEIGHT = 0.75


def forest_size(rows: int, width: float = 5.2) -> tuple[float, float]:
    """Figure size in inches for so many rows."""
    return width, HEAD_HEIGHT + ROW_HEIGHT * max(rows, 1)


def forest(
    marks: Sequence[Mark], xlabel: str, log: bool = False, reference: float | None = None
) -> Callable[[Any], None]:
    """One row a mark: value and interval; an open end is an arrow to the edge, two are dots; hollow if not resolved.

    Args:
        marks: drawn from top to bottom in the order given; one without a finite value or bound is an empty row.
        xlabel: axis label with its unit.
        log: logarithmic axis; values must be positive, and an interval end at or below zero counts as open.
        reference: a vertical line at this value.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        limits = _limits(marks, log, reference)
        if log:
            axes.set_xscale("log")
        axes.set_xlim(*limits)
        if log:
            log_axis(axes.xaxis)
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        for row, mark in enumerate(marks):
            _interval(axes, row, mark, limits, log)
        _name_rows(axes, [mark.label for mark in marks])
        axes.set_xlabel(xlabel)

    return draw


def dumbbells(
    pairs: Sequence[tuple[Mark, Mark]], xlabel: str, names: tuple[str, str], reference: float | None = None
) -> Callable[[Any], None]:
    """One row a method: its value at two points in the update, joined by a line; `names` are the points'."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        for row, (first, second) in enumerate(pairs):
            if finite(first.value) and finite(second.value):
                axes.plot([first.value, second.value], [row, row], color=GRID, linewidth=3, zorder=1)
            for mark, color, marker in ((first, BLUE, "o"), (second, VERMILION, "s")):
                if finite(mark.value):
                    face = color if mark.resolved else PAPER
                    axes.plot([mark.value], [row], marker, color=color, markerfacecolor=face, markersize=5.5, zorder=3)
        for name, color, marker in ((names[0], BLUE, "o"), (names[1], VERMILION, "s")):
            axes.plot([], [], marker, color=color, label=name)
        _name_rows(axes, [first.label for first, _ in pairs])
        axes.set_xlabel(xlabel)
        figure.legend(loc="outside upper right", ncols=2)

    return draw


def _limits(marks: Sequence[Mark], log: bool, reference: float | None) -> tuple[float, float]:
    ends = [end for mark in marks for end in (mark.value, mark.low, mark.high)]
    values = [end for end in ends if end is not None and finite(end)]
    if reference is not None:
        values.append(reference)
    if log:
        values = [value for value in values if value > 0]
    if not values:
        return (0.1, 10.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        return low / 2.0, high * 2.0
    margin = 0.08 * (high - low) or 0.1 * max(abs(high), 1.0)
    return low - margin, high + margin


def _interval(axes: Any, row: int, mark: Mark, limits: tuple[float, float], log: bool) -> None:
    low, high = mark.low, mark.high
    if low is None and high is None and not finite(mark.value):
        return
    open_low = not finite(low) if low is not None else high is not None
    open_low = open_low or (log and low is not None and low <= 0)
    open_high = not finite(high) if high is not None else low is not None
    start = limits[0] if open_low else low
    stop = limits[1] if open_high else high
    if open_low and open_high:
        axes.plot(limits, [row, row], color=MUTED, linewidth=1.0, linestyle=(0, (1, 3)))
    elif start is not None and stop is not None:
        axes.plot([start, stop], [row, row], color=BLUE, linewidth=1.6, solid_capstyle="butt")
        for is_open, place, marker in ((open_low, start, "<"), (open_high, stop, ">")):
            if is_open:
                axes.plot([place], [row], marker, color=BLUE, markersize=6, clip_on=False)
    if finite(mark.value) and not (log and mark.value <= 0):
        face = BLUE if mark.resolved else PAPER
        axes.plot([mark.value], [row], "o", color=BLUE, markerfacecolor=face, markersize=5.5, zorder=3)


def _name_rows(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [shorten(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
