"""One document drawn as HTML and as Markdown: escaped, closed, captioned, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradaxis.reports.document import Cell, Code, Document, Figure, Finding, Items, Panel, Paragraph, Section, Table
from gradaxis.reports.figures.intervals import forest, forest_size
from gradaxis.reports.figures.marks import Mark
from gradaxis.reports.html import render_html, slug
from gradaxis.reports.markdown import escape_markdown, render_markdown

HOSTILE = (
    """<script>alert('x')</script><img src=x onerror="alert(1)">{{ 7 * 7 }} """
    """`a` | **b** [c](http://evil) & "d\""""
)


@pytest.fixture(scope="module")
def document() -> Document:
    panel = Panel(HOSTILE, HOSTILE, forest_size(1), forest([Mark(HOSTILE, 1.0, 0.5, 2.0)], HOSTILE))
    value = Cell("0.935", "[0.910, 0.951]", "bad", "exact")
    blocks = (
        Paragraph(HOSTILE),
        Items((("term", HOSTILE),)),
        Items((("", HOSTILE),)),
        Code(HOSTILE),
        Table("numbers", HOSTILE, ("method", HOSTILE), ((Cell(HOSTILE), value),), HOSTILE),
        Figure("drawing", HOSTILE, HOSTILE, (panel, panel)),
    )
    finding = Finding("bias", HOSTILE, "finding", HOSTILE, advice=HOSTILE, remedy=HOSTILE)
    return Document(HOSTILE, HOSTILE, (finding,), (Section("first", HOSTILE, blocks),), HOSTILE)


def test_page_escapes_all_text(document: Document, read_page: Callable[[str], Any]) -> None:
    source = render_html(document)
    page = read_page(source)
    assert page.unbalanced == []
    assert page.count("script") == 0
    assert page.count("img") == 0
    assert "onerror" not in {name for _, attributes in page.tags for name in attributes}
    assert "{{ 7 * 7 }}" in page.text()  # not run by the template engine
    # title, h1, subtitle, finding (text, advice, certainty with remedy), contents, h2, paragraph, dd, li, code,
    # caption, two headings, note, h3, two h4, figcaption, footer, two drawings' titles
    assert page.text().count("alert('x')") >= 20


def test_page_needs_nothing_else(document: Document, read_page: Callable[[str], Any]) -> None:
    source = render_html(document)
    page = read_page(source)
    assert page.count("link") == 0
    assert all(target.startswith("#") for target in page.attributes("href"))
    assert page.attributes("src") == []
    assert "@import" not in source
    assert "url(http" not in source
    assert page.repeated_ids() == []
    assert {target[1:] for target in page.attributes("href")} <= set(page.attributes("id"))


def test_page_is_accessible(document: Document, read_page: Callable[[str], Any]) -> None:
    page = read_page(render_html(document))
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert page.count("caption") == page.count("table") == 1
    assert page.count("figcaption") == page.count("figure") == 1
    assert [attributes.get("role") for tag, attributes in page.tags if tag == "svg"] == ["img", "img"]
    assert {attributes.get("scope") for tag, attributes in page.tags if tag == "th"} == {"col", "row"}
    assert set(page.attributes("aria-labelledby")) <= set(page.attributes("id"))


def test_markdown_escapes_and_has_the_same_numbers(document: Document) -> None:
    text = render_markdown(document)
    prose, code, rest = text.split("```")
    assert HOSTILE in code  # a fenced block shows it as it stands
    assert "<script>" not in prose + rest
    assert "[c](" not in prose + rest
    assert "| 0.935 (exact) \\[0.910, 0.951\\] (bad) |" in text
    row = next(line for line in text.splitlines() if "0.935" in line)
    assert row.replace("\\|", "").count("|") == 3  # two cells: the pipe in the label does not split it
    assert text.count("alert") >= 15


def test_slug_and_escape() -> None:
    assert slug("not assessed") == "not-assessed"
    assert escape_markdown("dapo[trust_region.high=0.3]") == "dapo\\[trust\\_region.high=0.3\\]"


def test_empty_document_is_a_page(read_page: Callable[[str], Any]) -> None:
    page = read_page(render_html(Document("Empty", "", ())))
    assert page.unbalanced == []
    assert page.count("h1") == 1
