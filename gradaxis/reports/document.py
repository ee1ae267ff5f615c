"""A report as data: what it says and in which order, before anything is drawn. HTML and Markdown draw the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

NO_REMEDY = "none in this version"
"""The remedy of a gap that no input would close."""

Standing = Literal["finding", "no finding", "not assessed", "inconsistent input"]


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict, with what it rests on.

    Attributes:
        kind: what it speaks of (`bias`, `slots`, `signal`, `silent groups`, `staleness`, `coincidence`, ...).
        text: the sentence; plain text, names of methods included as the user typed them.
        standing: finding, no finding (the data do not resolve it), not assessed, inconsistent input.
        certainty: how it is known: exact, or the interval and the number of prompts.
        methods: labels that it names.
        points: points in the update that it speaks of.
        axis: trajectory, reward, or None.
        slot: slot that it blames, or None.
        remedy: what would resolve or enable it; empty for a finding.
        advice: what a practitioner can do about it.
    """

    kind: str
    text: str
    standing: Standing
    certainty: str
    methods: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    axis: str | None = None
    slot: str | None = None
    remedy: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Cell:
    """A table cell: main text, a smaller second line (an interval, a unit), a verdict chip, a mark (`exact`)."""

    text: str
    note: str = ""
    chip: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    """A list of (term, text); an empty term gives a plain list."""

    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading. `numeric` columns are set right."""

    identity: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure: `draw` receives an empty `matplotlib.figure.Figure`; `size` in inches."""

    title: str
    alt: str
    size: tuple[float, float]
    draw: Callable[[Any], None]


@dataclass(frozen=True)
class Figure:
    """Panels beside each other under one caption. Markdown prints caption and descriptions only."""

    identity: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


Block = Paragraph | Items | Code | Table | Figure


@dataclass(frozen=True)
class Section:
    identity: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """The whole report. `gaps` are what was not assessed (of kind `method` or `quantity`), shown below the verdict."""

    title: str
    subtitle: str
    verdict: tuple[Finding, ...]
    sections: tuple[Section, ...] = ()
    footer: str = ""
    gaps: tuple[Finding, ...] = ()
