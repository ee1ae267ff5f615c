"""The cosine matrix between methods' gradients as a heat map with its numbers written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradaxis.reports.figures.marks import finite
from gradaxis.reports.figures.palette import BLUE, INK, MUTED, VERMILION
from gradaxis.reports.format import MINUS, shorten

_CELL = 0.31


def matrix_size(methods: int) -> tuple[float, float]:
    """Figure size in inches."""
    return 1.5 + _CELL * methods, 1.35 + _CELL * methods


def cosine_matrix(labels: Sequence[str], values: Sequence[Sequence[float | None]]) -> Callable[[Any], None]:
    """Cells shaded blue for agreement and vermilion for opposition, in proportion to the size of the cosine.

    Args:
        labels: M names.
        values: M × M cosines; None or NaN (not resolved, not assessed) is written as a question mark on no colour.

    The shade grows with |cosine|; the numbers are written to two decimals, and 1 where that rounds to 1.00.
    """

    def draw(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        count = len(labels)
        for row in range(count):
            for column in range(count):
                value = values[row][column]
                if value is None or not finite(value):
                    axes.text(column, row, "?", ha="center", va="center", fontsize=7, color=MUTED)
                    continue
                shade = BLUE if value >= 0 else VERMILION
                # Cubed: most cosines lie near 1, and there the differences matter.
                alpha = round(0.6 * min(abs(value), 1.0) ** 3, 3)
                axes.add_patch(
                    Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, facecolor=shade, alpha=alpha, edgecolor="none")
                )
                axes.text(column, row, write_cosine(value), ha="center", va="center", fontsize=6.5, color=INK)
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_aspect("equal")
        names = [shorten(label, 18) for label in labels]
        axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)

    return draw


def write_cosine(value: float) -> str:
    """Two decimals without the leading zero; exact agreement as 1.

    >>> write_cosine(0.987), write_cosine(-0.2), write_cosine(0.9999)
    ('.99', '−.20', '1')
    """
    text = f"{abs(value):.2f}"
    text = "1" if text == "1.00" else text.removeprefix("0")
    return f"{MINUS if value < 0 and text != '.00' else ''}{text}"
