"""Values by position, and shares that add up to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradaxis.reports.figures.marks import Line, finite
from gradaxis.reports.figures.palette import BLUE, GREEN, INK, MUTED, VERMILION, series_styles

LINES_SIZE = (5.2, 2.9)


def lines(series: Sequence[Line], xlabel: str, ylabel: str) -> Callable[[Any], None]:
    """One line a series over the positions named by its marks' labels, with a band for the intervals."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        styles = series_styles([line.label for line in series])
        positions = list(dict.fromkeys(mark.label for line in series for mark in line.marks))
        for line in series:
            color, marker = styles[line.label]
            marks = [mark for mark in line.marks if finite(mark.value)]
            places = [positions.index(mark.label) for mark in marks]
            values = [mark.value for mark in marks]
            axes.plot(places, values, marker=marker, color=color, markersize=4, label=line.label)
            if marks and all(finite(mark.low) and finite(mark.high) for mark in marks):
                band = [mark.low for mark in marks], [mark.high for mark in marks]
                axes.fill_between(places, *band, color=color, alpha=0.15, linewidth=0)
        step = max(1, len(positions) // 12)
        axes.set_xticks(range(0, len(positions), step), positions[::step])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.grid(axis="x", visible=False)
        if len(series) > 1:
            figure.legend(loc="outside upper right", ncols=min(len(series), 4))

    return draw


def shares_size(rows: int) -> tuple[float, float]:
    """Figure size in inches."""
    return 5.2, 1.0 + 0.36 * max(rows, 1)


def stacked_shares(rows: Mapping[str, Mapping[str, float]], xlabel: str) -> Callable[[Any], None]:
    """One horizontal bar a row, split into named shares in [0, 1]; each share is written where it fits."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        kinds = list(dict.fromkeys(kind for shares in rows.values() for kind in shares))
        palette = dict(zip(kinds, (VERMILION, BLUE, GREEN, MUTED, INK), strict=False))
        for row, shares in enumerate(rows.values()):
            left = 0.0
            for kind in kinds:
                share = shares.get(kind, 0.0)
                axes.barh(
                    row, share, left=left, height=0.6, facecolor=palette[kind], alpha=0.35, linewidth=0,
                    label=kind if row == 0 else None,
                )  # fmt: skip
                if share >= 0.08:
                    axes.text(left + share / 2, row, f"{100 * share:.0f} %", ha="center", va="center", fontsize=8)
                left += share
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel(xlabel)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        figure.legend(loc="outside upper right", ncols=len(kinds))

    return draw
