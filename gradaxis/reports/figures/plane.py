"""The bias–noise plane: where each method's gradient points, against how much of an update is lost to noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gradaxis.reports.figures.marks import Mark, PlaneMark, finite, log_axis
from gradaxis.reports.figures.palette import GRID, MUTED, PAPER, series_styles
from gradaxis.reports.format import shorten


def plane_size(methods: int) -> tuple[float, float]:
    """Figure size in inches: tall enough that every label has a line of its own."""
    return 5.2, max(3.6, 0.9 + 0.19 * methods)


def plane(
    marks: Sequence[PlaneMark],
    xlabel: str,
    ylabel: str,
    log_y: bool = False,
    limit: Callable[[float], float] | None = None,
) -> Callable[[Any], None]:
    """Scatter of (x, y) with interval bars. Names stand in a column at the right, joined to their marks.

    Marks that cannot be drawn (no finite x or y, or y ≤ 0 on a logarithmic axis) are left out; the table lists them.
    `limit` is drawn as a broken line over x: the best y that an x allows.
    """
    known = [mark for mark in marks if finite(mark.x.value) and finite(mark.y.value)]
    drawn = [mark for mark in known if mark.y.value > 0 or not log_y]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        if log_y:
            axes.set_yscale("log")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if not drawn:
            axes.text(0.5, 0.5, "nothing resolved", ha="center", color=MUTED, transform=axes.transAxes)
            return
        _set_limits(axes, drawn, log_y)
        if log_y:
            log_axis(axes.yaxis)
        if limit is not None:
            left, right = axes.get_xlim()
            places = [left + (right - left) * step / 60 for step in range(61)]
            axes.plot(places, [limit(place) for place in places], color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)))
        styles = series_styles([mark.label for mark in marks])
        for mark in drawn:
            color, marker = styles[mark.label]
            _bars(axes, mark, color)
            face = color if mark.x.resolved and mark.y.resolved else PAPER
            axes.plot([mark.x.value], [mark.y.value], marker, color=color, markerfacecolor=face, markersize=6, zorder=3)
        _label_column(axes, drawn, styles, log_y)

    return draw


def _set_limits(axes: Any, marks: Sequence[PlaneMark], log_y: bool) -> None:
    """Limits from the values, not from the bars: one wide interval must not squeeze all marks together."""
    xs = [mark.x.value for mark in marks]
    ys = [math.log10(mark.y.value) if log_y else mark.y.value for mark in marks]
    x_pad = 0.15 * (max(xs) - min(xs)) or 0.05
    y_pad = 0.15 * (max(ys) - min(ys)) or 0.3
    axes.set_xlim(min(xs) - x_pad, max(xs) + x_pad / 3)
    low, high = min(ys) - y_pad, max(ys) + y_pad
    axes.set_ylim(*((10.0**low, 10.0**high) if log_y else (low, high)))


def _bars(axes: Any, mark: PlaneMark, color: str) -> None:
    """Interval bars, cut at the frame; one that would cross the whole frame says nothing and is not drawn."""
    x_ends = _cut(mark.x, axes.get_xlim())
    y_ends = _cut(mark.y, axes.get_ylim())
    if x_ends is not None:
        axes.plot(x_ends, [mark.y.value] * 2, color=color, linewidth=0.9, alpha=0.4)
    if y_ends is not None:
        axes.plot([mark.x.value] * 2, y_ends, color=color, linewidth=0.9, alpha=0.4)


def _cut(mark: Mark, frame: tuple[float, float]) -> tuple[float, float] | None:
    if mark.low is None or mark.high is None or (mark.low <= frame[0] and mark.high >= frame[1]):
        return None
    return max(mark.low, frame[0]), min(mark.high, frame[1])


def _label_column(axes: Any, marks: Sequence[PlaneMark], styles: dict[str, tuple[str, str]], log_y: bool) -> None:
    """Names at the right edge in the order of y, spread so that none covers another."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()

    def height(value: float) -> float:
        if log_y:
            return (math.log(value) - math.log(bottom)) / (math.log(top) - math.log(bottom))
        return (value - bottom) / (top - bottom)

    ordered = sorted(marks, key=lambda mark: (mark.y.value, mark.label))
    places = spread([height(mark.y.value) for mark in ordered], gap=min(0.062, 1.0 / max(len(ordered), 1)))
    for mark, place in zip(ordered, places, strict=True):
        color = styles[mark.label][0]
        start = ((mark.x.value - left) / (right - left), height(mark.y.value))
        axes.plot([start[0], 1.0, 1.04], [start[1], place, place], color=GRID, linewidth=0.7, transform=axes.transAxes,
                  clip_on=False, zorder=0.5)  # fmt: skip
        axes.text(1.06, place, shorten(mark.label, 20), color=color, fontsize=8, va="center", transform=axes.transAxes)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places in [0, 1] moved as little as a two-pass sweep needs so that neighbours are `gap` apart.

    >>> spread([0.5, 0.5, 0.52], gap=0.25)
    [0.5, 0.75, 1.0]
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    ceiling = 1.0
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
