"""Writing a report beside, or anywhere away from, the results that it is made of."""

from __future__ import annotations

from pathlib import Path

from gradaxis.diagnostics.storage import atomic_path
from gradaxis.errors import InputError
from gradaxis.reports.assemble import build_document
from gradaxis.reports.html import render_html
from gradaxis.reports.json_report import render_json
from gradaxis.reports.markdown import render_markdown
from gradaxis.reports.results import Results, read_results

SUFFIXES = (".html", ".md", ".json")


def write_report(results_dir: str | Path, output: str | Path) -> Path:
    """Write the report of a results folder; the suffix of `output` chooses HTML, Markdown or JSON.

    Only stored rows are read: no model is loaded and nothing is measured anew. The file is whole or absent.

    Raises:
        InputError: another suffix, or a folder that holds no results.
    """
    target = Path(output)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError("output", repr(str(output)), f"a name that ends in {', '.join(SUFFIXES)}")
    text = render_report(read_results(Path(results_dir)), suffix)
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")
    return target


def render_report(results: Results, suffix: str) -> str:
    """The report as text in the format of a suffix."""
    if suffix == ".json":
        return render_json(results)
    return (render_html if suffix == ".html" else render_markdown)(build_document(results))
