"""Reading YAML with the place of everything: plain data beside the nodes it came from.

Scalars follow YAML 1.2: `true` and `false` are the only booleans, `3e-4` is a number, `010` is ten, and `yes` is text.
Anchors, tags and duplicate keys are problems.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gradaxis.taxonomy.problems import Problem, closest


class _Loader(yaml.CSafeLoader):
    """The C parser, without YAML 1.1's guesses at what a plain scalar means."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_TAGS = "tag:yaml.org,2002:"
_MAX_DEPTH = 40


@dataclass(frozen=True)
class Document:
    """One YAML file: its data, its nodes and its lines. `data` is None when the file could not be read.

    `whole` is false when aliases or tags left holes in `data`.
    """

    file: str
    data: Any
    root: Node | None
    lines: tuple[str, ...] = field(repr=False)
    whole: bool = True

    def node(self, path: Sequence[Any], key: bool = False) -> Node | None:
        """The node at a path of keys and indices, or the deepest one on the way that exists.

        Names in the path that the file does not have (the grammar's own) are passed over. With `key`, the key of the
        last mapping entry instead of its value.
        """
        node, found = self.root, self.root
        for part in path:
            if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = found = node.value[part]
            elif isinstance(node, MappingNode):
                for key_node, value_node in node.value:
                    if key_node.value == part:
                        node, found = value_node, (key_node if key else value_node)
                        break
        return found

    def problem(
        self, path: Sequence[Any], message: str, allowed: Sequence[str] = (), got: object = None, key: bool = False
    ) -> Problem:
        """A problem at a path; `got` is compared with `allowed` to find the closest match."""
        node = self.node(path, key)
        line, column = (node.start_mark.line, node.start_mark.column) if node is not None else (0, 0)
        match = closest(got, allowed) if got is not None and allowed else None
        return Problem(self.file, line + 1, column + 1, message, self._text(line), tuple(map(str, allowed)), match)

    def _text(self, line: int) -> str:
        return self.lines[line] if line < len(self.lines) else ""


def read_yaml(path: Path, shown_as: str | None = None) -> tuple[Document, list[Problem]]:
    """Read one file. Returns the document and every problem of its form; never raises for what the file holds."""
    file = shown_as or str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        return Document(file, None, None, ()), [Problem(file, 1, 1, f"cannot read the file: {reason}")]
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str) -> tuple[Document, list[Problem]]:
    """Parse YAML text that is reported as `file`."""
    lines = tuple(text.splitlines())
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return Document(file, None, None, lines), [_syntax_problem(error, file, lines)]
    except RecursionError:
        return Document(file, None, None, lines), [Problem(file, 1, 1, "nested too deeply")]
    if root is None:
        return Document(file, None, None, lines), [Problem(file, 1, 1, "the file is empty")]
    constructor = _Constructor(file, lines)
    data = constructor.construct(root)
    return Document(file, data, root, lines, constructor.whole), constructor.problems


def plain_value(text: str) -> Any:
    """The value of a plain (unquoted) scalar: null, boolean, integer, number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) < 300:
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text


def _syntax_problem(error: yaml.YAMLError, file: str, lines: tuple[str, ...]) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line, mark.column) if mark else (0, 0)
    message = getattr(error, "problem", None) or str(error).splitlines()[0]
    return Problem(file, line + 1, column + 1, f"not valid YAML: {message}", lines[line] if line < len(lines) else "")


class _Constructor:
    """Plain data from nodes; what the form of a file forbids is collected in `problems`."""

    def __init__(self, file: str, lines: tuple[str, ...]) -> None:
        self.file, self.lines = file, lines
        self.problems: list[Problem] = []
        self.whole = True
        self._seen: set[int] = set()

    def construct(self, node: Node, depth: int = 0) -> Any:
        if id(node) in self._seen:
            return self._hole(node, "anchors and aliases are not allowed; write the value out")
        self._seen.add(id(node))
        if depth > _MAX_DEPTH:
            return self._hole(node, f"nested more than {_MAX_DEPTH} deep")
        if not node.tag.startswith(_TAGS) or node.tag.startswith(f"{_TAGS}python"):
            return self._hole(node, f"the tag {node.tag!r} is not allowed; a registry file holds plain data only")
        if isinstance(node, ScalarNode):
            return node.value if node.style else plain_value(node.value)
        if isinstance(node, SequenceNode):
            return [self.construct(item, depth + 1) for item in node.value]
        result: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._problem(key, "a key must be plain text")
                continue
            if key.value in result:
                self._problem(key, f"duplicate key {key.value!r}")
            result[key.value] = self.construct(value, depth + 1)
        return result

    def _hole(self, node: Node, message: str) -> None:
        self.whole = False
        self._problem(node, message)

    def _problem(self, node: Node, message: str) -> None:
        line, column = node.start_mark.line, node.start_mark.column
        text = self.lines[line] if line < len(self.lines) else ""
        self.problems.append(Problem(self.file, line + 1, column + 1, message, text))
