"""A document as Markdown (the dialect with pipe tables). Figures are described; their numbers stand in the tables."""

from __future__ import annotations

import re

from gradaxis.reports.document import Block, Cell, Code, Document, Figure, Finding, Items, Paragraph, Table


def render_markdown(document: Document) -> str:
    """The report as Markdown text; what could be read as markup in a label or a model's text is escaped."""
    lines = [f"# {escape_markdown(document.title)}", "", escape_markdown(document.subtitle), "", "## Verdict", ""]
    lines += [_finding(number, finding) for number, finding in enumerate(document.verdict, start=1)]
    if document.gaps:
        lines += ["", "### Not assessed", "", *(_gap(gap) for gap in document.gaps)]
    for section in document.sections:
        lines += ["", f"## {escape_markdown(section.title)}"]
        for block in section.blocks:
            lines += ["", _block(block)]
    return "\n".join([*lines, "", "---", "", escape_markdown(document.footer), ""])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", escaped)


def _finding(number: int, finding: Finding) -> str:
    advice = f" **{escape_markdown(finding.advice)}**" if finding.advice else ""
    remedy = f" Remedy: {escape_markdown(finding.remedy)}" if finding.remedy else ""
    evidence = f"*{finding.standing}*: {escape_markdown(finding.certainty)}{remedy}"
    return f"{number}. {escape_markdown(finding.text)}{advice}  \n   {evidence}"


def _gap(gap: Finding) -> str:
    return f"- {escape_markdown(gap.text)}. Remedy: {escape_markdown(gap.remedy)}"


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return escape_markdown(text)
        case Code(text):
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", text))])
            return f"{fence}\n{text}\n{fence}"
        case Items(entries):
            return "\n".join(
                f"- **{escape_markdown(term)}**: {escape_markdown(text)}" if term else f"- {escape_markdown(text)}"
                for term, text in entries
            )
        case Table():
            return _table(block)
        case Figure():
            panels = "\n".join(f"- {escape_markdown(panel.alt)}" for panel in block.panels)
            return f"### Figure: {escape_markdown(block.title)}\n\n{escape_markdown(block.caption)}\n\n{panels}"


def _table(table: Table) -> str:
    head = "| " + " | ".join(escape_markdown(name) for name in table.header) + " |"
    rule = "|" + " --- |" * len(table.header)
    rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
    note = ["", escape_markdown(table.note)] if table.note else []
    return "\n".join([f"**{escape_markdown(table.caption)}**", "", head, rule, *rows, *note])


def _cell(cell: Cell) -> str:
    parts = [cell.text, f"({cell.mark})" if cell.mark else "", cell.note, f"({cell.chip})" if cell.chip else ""]
    return escape_markdown(" ".join(part for part in parts if part))
