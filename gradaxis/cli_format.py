"""Drawing what a command found: JSON, Markdown, or tables for the terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from gradaxis.taxonomy.pages import Block, Grid, Heading, Paragraph, Verbatim


class Format(StrEnum):
    """How a command prints its data."""

    table = "table"
    json = "json"
    md = "md"


def emit(data: Any, page: Callable[[], Sequence[Block]], format: Format) -> None:
    """Print data as JSON, or the page made of it as Markdown or tables, on standard output."""
    if format is Format.json:
        text = json.dumps(data, indent=2, ensure_ascii=False)
    elif format is Format.md:
        text = markdown(page())
    else:
        print_tables(page())
        return
    sys.stdout.write(text + "\n")


def markdown(blocks: Sequence[Block]) -> str:
    """A page as GitHub Markdown. Pipes and line breaks in cells are escaped."""
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Paragraph):
            parts.append(block.text)
        elif isinstance(block, Verbatim):
            parts.append(f"```\n{block.text}\n```")
        else:
            lines = [block.columns, tuple("---" for _ in block.columns), *block.rows]
            parts.append("\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines))
    return "\n\n".join(parts).replace("\n\n- ", "\n- ")


def print_tables(blocks: Sequence[Block]) -> None:
    """A page on the terminal. Piped output is wide enough to keep rows whole, unless COLUMNS says otherwise."""
    from rich.console import Console
    from rich.text import Text

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    console = Console(file=sys.stdout, width=width, highlight=False, soft_wrap=False)
    for i, block in enumerate(blocks):
        if isinstance(block, Heading):
            console.print(Text(("\n" if i else "") + block.text, style="bold"))
        elif isinstance(block, Paragraph):
            console.print(Text(block.text))
        elif isinstance(block, Verbatim):
            console.print(Text(block.text), soft_wrap=True)
        else:
            console.print(_table(block))


def _table(grid: Grid) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, column in enumerate(grid.columns):
        table.add_column(Text(column), overflow="fold", no_wrap=i == 0 and column != "finding")
    for row in grid.rows:
        table.add_row(*(Text(text) for text in row))
    return table


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
