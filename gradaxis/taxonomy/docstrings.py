"""What the docstrings of operators say, read from their source text: nothing is imported, and so no torch."""

from __future__ import annotations

import ast
import textwrap
from functools import cache
from pathlib import Path

from gradaxis.taxonomy.declarations import OperatorDeclaration

OPERATORS = Path(__file__).resolve().parent.parent / "estimators" / "operators"

_LAID_OUT = ("equation", "args")
"""Whose line breaks mean something."""

_SECTIONS = ("Args", "Returns", "Raises", "Reduces to", "Assumes", "Paper", "Traps")


def operator_sections(operator: OperatorDeclaration) -> dict[str, str]:
    """The docstring of an operator's function by section; empty where the sampler acts and no function does.

    Keys: `summary`, `equation` (what stands before the arguments), and those of Args, Returns, Raises, Reduces to,
    Assumes, Paper, Traps that it has, in lower case with `_` for spaces. Continued lines are joined, but for
    the equation and the arguments.
    """
    text = _docstrings(operator.axis, operator.slot).get(operator.name)
    return {} if text is None else _split(text)


@cache
def _docstrings(axis: str, slot: str) -> dict[str, str]:
    """Function name -> docstring, of a slot's module or of the modules of its folder."""
    folder = OPERATORS / axis / slot
    files = sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    found: dict[str, str] = {}
    for file in files:
        if file.is_file():
            tree = ast.parse(file.read_text(encoding="utf-8"))
            functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
            found |= {node.name: ast.get_docstring(node) or "" for node in functions}
    return found


def _split(text: str) -> dict[str, str]:
    lines = text.splitlines()
    found: dict[str, list[str]] = {"summary": lines[:1], "equation": []}
    key = "equation"
    for line in lines[1:]:
        if line.startswith(">>>"):
            break
        name, colon, rest = line.partition(":")
        if colon and name in _SECTIONS:
            key = name.lower().replace(" ", "_")
            found[key] = [rest.strip()] if rest.strip() else []
        else:
            found[key].append(line)
    kept = {name: "\n".join(part).strip("\n") for name, part in found.items()}
    joined = {name: part if name in _LAID_OUT else " ".join(part.split()) for name, part in kept.items()}
    joined["equation"] = textwrap.dedent(joined["equation"])
    return {name: part for name, part in joined.items() if part}
