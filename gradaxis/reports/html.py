"""A document as one HTML page that needs nothing else: no scripts, no fonts, no network."""

from __future__ import annotations

import re

from gradaxis.reports.document import NO_REMEDY, Document, Figure

SHOWN_GAPS = 5
"""Gaps listed below the verdict; all stand in their section."""


def render_html(document: Document) -> str:
    """The page as text. The template engine escapes all text; only figures and style sheet are passed as markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("gradaxis.reports", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["slug"] = slug
    environment.filters["kind"] = lambda block: type(block).__name__
    style, _, _ = loader.get_source(environment, "style.css")
    drawings = {name: [Markup(drawing) for drawing in panels] for name, panels in _draw_figures(document).items()}
    template = environment.get_template("report.html.jinja")
    shown = [gap for gap in document.gaps if gap.kind == "method" or gap.remedy != NO_REMEDY][:SHOWN_GAPS]
    return template.render(document=document, drawings=drawings, shown_gaps=shown, style=Markup(style.strip()))


def slug(text: str) -> str:
    """Text as a CSS class: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _draw_figures(document: Document) -> dict[str, list[str]]:
    from gradaxis.reports.figures.svg import draw_svg

    return {
        block.identity: [
            draw_svg(f"{block.identity}-{number}", panel.alt, panel.size, panel.draw)
            for number, panel in enumerate(block.panels, start=1)
        ]
        for section in document.sections
        for block in section.blocks
        if isinstance(block, Figure)
    }
