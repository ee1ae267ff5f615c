"""From a matplotlib figure to an SVG element inside a page: small, deterministic, free of outside links."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import escape

from gradaxis.reports.figures.palette import GRID, INK, MUTED, VARIABLES

LARGEST = 1.4
"""Pixels a point of the view box up to which a page may enlarge a figure."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, selected and searched
    "svg.hashsalt": "gradaxis",
    "text.parse_math": False,  # a method's label may hold a dollar sign
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so that the layout is the same everywhere
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
}


def draw_svg(identity: str, alt: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """Draws one figure and returns its `<svg>` element as text.

    Args:
        identity: prefix of every id inside the element; it must be unique over the page.
        alt: what the figure shows, for readers who do not see it; becomes the element's `<title>`.
        size: width and height in inches (72 units of the view box an inch).
        draw: receives a `matplotlib.figure.Figure` and draws on it.

    The same drawing gives the same text: ids are hashed with a fixed salt and no date is stored. The page scales it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _drawing_style():
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _embed(buffer.getvalue(), identity, alt)


@contextmanager
def _drawing_style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield


def _embed(source: str, identity: str, alt: str) -> str:
    """Strips what only a file of its own needs, makes ids unique, and turns drawn colours into the page's variables."""
    body = source[source.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]+)"', body)
    if view_box is None:
        raise ValueError("matplotlib wrote an SVG without a view box")
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    used = set(re.findall(r'href="#([^"]+)"', body)) | set(re.findall(r"url\(#([^)]+)\)", body))
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{identity}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{identity}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{identity}-\1)", body)
    body = re.sub(r"font-family: 'DejaVu Sans'(, sans-serif)?; ", "", body)  # the page's font
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r' (d|x|y|transform)="[^"]*"', _round_numbers, body)
    for drawn, variable in VARIABLES.items():
        body = body.replace(drawn, f"var({variable})")
    width = float(view_box[1].split()[2])
    head = f'<svg viewBox="{view_box[1]}" style="max-width: {LARGEST * width:.0f}px" role="img" '
    head += f'aria-labelledby="{identity}-title">'
    head += f'<title id="{identity}-title">{escape(alt)}</title>'
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"<defs>\s*</defs>", "", head + body)).strip() + "\n"


def _round_numbers(attribute: re.Match[str]) -> str:
    """Hundredths of a point are enough to draw with; more would differ between machines in their last digits."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), attribute[0])
