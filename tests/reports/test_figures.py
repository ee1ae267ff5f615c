"""Figures: deterministic, free of links, ids unique over the page, hostile labels escaped, open intervals drawn."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from gradaxis.reports.figures.intervals import dumbbells, forest, forest_size
from gradaxis.reports.figures.lines import LINES_SIZE, lines, shares_size, stacked_shares
from gradaxis.reports.figures.marks import Line, Mark, PlaneMark
from gradaxis.reports.figures.matrix import cosine_matrix, matrix_size, write_cosine
from gradaxis.reports.figures.palette import VARIABLES, series_styles
from gradaxis.reports.figures.plane import plane, plane_size, spread
from gradaxis.reports.figures.svg import draw_svg

HOSTILE = 'a"b$x_1$<script>alert(1)</script>&'
MARKS = [Mark("grpo", 20.0, 10.0, 40.0), Mark(HOSTILE, math.nan, 30.0, math.inf), Mark("rloo", 5.0, -1.0, 9.0, False)]
DRAWINGS = {
    "forest": (forest_size(3), forest(MARKS, "prompts", log=True, reference=16.0)),
    "forest-linear": (forest_size(3), forest(MARKS, "gain")),
    "forest-empty": (forest_size(0), forest([], "gain", log=True)),
    "dumbbells": (forest_size(2), dumbbells([(MARKS[0], MARKS[2]), (MARKS[1], MARKS[2])], "cosine", ("a", "b"))),
    "plane": (plane_size(3), plane([PlaneMark(mark, mark) for mark in MARKS], "cosine", "prompts")),
    "plane-empty": (plane_size(0), plane([], "cosine", "prompts")),
    "matrix": (matrix_size(2), cosine_matrix(["grpo", HOSTILE], [[1.0, None], [-0.5, 1.0]])),
    "lines": (LINES_SIZE, lines([Line("fresh", tuple(MARKS)), Line(HOSTILE, (MARKS[0],))], "position", "nats")),
    "shares": (shares_size(2), stacked_shares({"fresh": {"mixed": 0.7, HOSTILE: 0.3}, "b": {"mixed": 1.0}}, "groups")),
}


def draw(name: str) -> str:
    size, drawing = DRAWINGS[name]
    return draw_svg(name, f"figure {HOSTILE}", size, drawing)


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing_is_a_self_contained_element(name: str) -> None:
    svg = draw(name)
    root = ElementTree.fromstring(svg)  # well-formed, hence escaped
    assert root.tag == "svg"
    assert root[0].tag == "title"
    assert root[0].text == f"figure {HOSTILE}"
    assert "http" not in svg
    assert "metadata" not in svg
    assert "<style" not in svg
    assert not list(root.iter("script"))
    identities = re.findall(r' id="([^"]+)"', svg)
    assert len(identities) == len(set(identities))
    assert all(identity.startswith(f"{name}-") for identity in identities)
    targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    assert {first or second for first, second in targets} <= set(identities)


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing_is_deterministic_and_themed(name: str) -> None:
    svg = draw(name)
    assert svg == draw(name)
    assert not [drawn for drawn in VARIABLES if drawn in svg]
    assert "var(--ink)" in svg


def test_labels_are_shown_as_they_stand() -> None:
    texts = [element.text for element in ElementTree.fromstring(draw("matrix")).iter("text")]
    assert "?" in texts  # the cosine that is not resolved
    assert "−.50" in texts
    # 18 characters: 8 of its head, 9 of its tail; no dollar is read as mathematics.
    assert 'a"b$x_1$…/script>&' in texts


def test_open_interval_reaches_the_edge() -> None:
    """The half-open interval ends in an arrow at the axis limit, twice the largest finite end (80)."""
    captured = {}

    def spy(figure: object) -> None:
        forest(MARKS, "prompts", log=True)(figure)
        axes = figure.axes[0]  # type: ignore[attr-defined]
        captured["limit"] = axes.get_xlim()[1]
        captured["arrows"] = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == ">"]

    draw_svg("spy", "", forest_size(3), spy)
    assert captured["limit"] == pytest.approx(80.0)
    assert captured["arrows"] == [pytest.approx(80.0)]


def test_spread_separates_and_keeps_order() -> None:
    places = spread([0.0, 0.01, 0.02, 0.9, 0.95], gap=0.1)
    assert places == sorted(places)
    assert all(later - earlier >= 0.1 - 1e-12 for earlier, later in pairwise(places))
    assert places[-1] <= 1.0


def test_styles_differ() -> None:
    styles = series_styles([str(index) for index in range(40)])
    assert len(set(styles.values())) == 40


def test_cosines_are_written_in_two_decimals() -> None:
    assert [write_cosine(value) for value in (1.0, 0.994, -0.001, -1.0, 0.0)] == ["1", ".99", ".00", "−1", ".00"]


def test_report_modules_do_not_import_matplotlib() -> None:
    modules = "gradaxis.reports, gradaxis.reports.html, gradaxis.reports.figures.plane"
    code = f"import sys, {modules}; print('matplotlib' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
