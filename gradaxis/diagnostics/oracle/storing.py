"""`gradaxis probe --exact`: the document of an entry, written to a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gradaxis.diagnostics.oracle.document import Document, exact_document
from gradaxis.diagnostics.storage import atomic_path
from gradaxis.diagnostics.testbeds import TABLES, load_testbed
from gradaxis.errors import InputError, UsageError
from gradaxis.taxonomy import load_registry

PROMPTS = 2
"""Of a testbed, unless its options say otherwise: one prompt cannot show a gain that differs between prompts."""

_OPTIONS: dict[str, type] = {"prompts": int, "drift": float}


def store_exact(
    entry: str,
    target: Path,
    testbed: str = "eos",
    stale: bool = False,
    group_size: int = 8,
    groups: int = 1,
    seed: int = 0,
    hold_sampling: bool = False,
) -> Path:
    """Compute the exact moments of an entry and write their document; returns `target`.

    Args:
        entry: an id or a file, perhaps with overrides; one method.
        target: a file, written whole or not at all.
        testbed: a table by name, perhaps with options: `graded[prompts=1,drift=0.2]`.
        stale: whether another policy samples.
        group_size, groups, hold_sampling: as for `group_moments`. seed: of the logits.

    Raises:
        UsageError: no such entry or testbed, or more than one entry. InputError: as `group_moments`, a folder as the
        target, or an option that testbeds do not take.
    """
    if target.is_dir():
        raise InputError("--output", f"the folder {target}", "a file, such as grpo.json")
    name, options = _split(testbed)
    if name not in TABLES:
        raise UsageError(f"no testbed {name!r} that a document can hold ({', '.join(TABLES)})")
    registry = load_registry()
    found = registry.select(entry)
    if len(found) != 1:
        raise UsageError(f"--exact {entry!r} names {len(found)} methods; it takes one")
    made = {"prompts": PROMPTS, **options, "stale": stale, "seed": seed}
    listing = load_testbed(name, **made)
    about = {"name": name, "made_with": made}
    document = exact_document(found[0], registry, listing, about, group_size, groups, hold_sampling)
    text = lay_out(document)
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")
    return target


def lay_out(document: Document) -> str:
    """The document as JSON, a line for each short part, so that two documents can be compared by eye."""

    def write(value: Any, depth: int) -> str:
        plain = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if not isinstance(value, dict | list) or not value or len(plain) <= 100 or _is_vector(value):
            return plain
        inside, outside = "  " * (depth + 1), "  " * depth
        if isinstance(value, dict):
            parts = [f"{json.dumps(key, ensure_ascii=False)}: {write(item, depth + 1)}" for key, item in value.items()]
            return "{\n" + ",\n".join(inside + part for part in parts) + f"\n{outside}}}"
        return "[\n" + ",\n".join(inside + write(item, depth + 1) for item in value) + f"\n{outside}]"

    return write(document, 0) + "\n"


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)


def _split(testbed: str) -> tuple[str, dict[str, Any]]:
    """`name[prompts=2,drift=0.3]` in two parts."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[(.*)\])?", testbed)
    if match is None:
        raise InputError("--testbed", repr(testbed), "name or name[option=value]")
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in (match[2] or "").split(","))):
        key, _, value = part.partition("=")
        try:
            options[key] = _OPTIONS[key](value)
        except (KeyError, ValueError) as error:
            raise InputError("--testbed", repr(part), "prompts=a whole number, or drift=a number") from error
    if options.get("prompts", 1) < 1:
        raise InputError("--testbed", f"prompts={options['prompts']}", "one or more")
    return match[1], options
