"""A new entry as commented YAML, ready to be filled in."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradaxis.errors import GradaxisError, UsageError
from gradaxis.taxonomy.axes import AXES, SLOTS
from gradaxis.taxonomy.entries import FAMILIES
from gradaxis.taxonomy.methods import Method, Placed
from gradaxis.taxonomy.problems import closest_match
from gradaxis.taxonomy.registry import Registry


def new_entry(id_: str, parent: Method, registry: Registry, year: int, family: str | None = None) -> str:
    """The YAML of an entry that extends `parent` and changes nothing yet.

    The blocks behind `# ` repeat what the parent holds, and are valid YAML once that is taken off. Raises UsageError
    for an id that is taken or not in kebab-case, and for an unknown family.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id_):
        raise UsageError(f"{id_!r} is no id; use kebab-case such as dr-grpo")
    if id_ in registry.methods or id_ in registry.aliases:
        raise UsageError(f"the id {id_!r} is taken; `gradaxis show {id_}` tells by what")
    if family is not None and family not in FAMILIES:
        raise UsageError(f"unknown family {family!r}{closest_match(family, FAMILIES)}; allowed: {', '.join(FAMILIES)}")
    family = family or ("post-grpo" if parent.family == "grpo" else parent.family)
    lines = [
        f"# {id_} extends {parent.id}: write down only what differs. Then try",
        f"#     gradaxis validate {id_}.yaml        and        gradaxis diff {parent.id} ./{id_}.yaml",
        f"id: {id_}",
        f"name: {json.dumps(id_.replace('-', ' ').title())}",
        f"extends: {parent.id}",
        f"family: {family}",
        "status: preview  # checked and stable are earned: see CONTRIBUTING",
        f"year: {year}",
        'summary: "What the method does, in one sentence."',
        '# paper: {title: "Title", arxiv: "2402.03300", equation: "3"}  # arXiv ids in quotes',
        "",
        "# For each slot that differs: `set: [...]` replaces its whole list, `set: {operator: {...}}` changes keys of",
        "# one operator, `add: [...]` appends, `drop: [...]` removes. `addresses` names failures (gradaxis failures),",
        "# `why` gives the reason. Take off the first `# ` of a line to use it. What stands there is the parent's.",
    ]
    for axis in AXES:
        lines += ["", f"# {axis}:"]
        for slot in AXES[axis]:
            lines += [f"#   {line}" for line in _slot_lines(slot, parent.slots[slot], registry)]
        lines += ["#   {}"] if not any(parent.slots[slot] for slot in AXES[axis]) else []
    lines += ["", '# sources: {}  # where each value comes from, such as  trust_region.low: "paper, section 4.2"']
    return "\n".join(lines) + "\n"


def _slot_lines(slot: str, held: tuple[Placed, ...], registry: Registry) -> Iterator[str]:
    operators = [name for name, operator in registry.operators.items() if operator.slot == slot]
    yield f"# {slot}: {SLOTS[slot].question}{'' if held else f' Empty: {SLOTS[slot].empty}.'}"
    yield f"# operators: {', '.join(operators) or 'none yet'}"
    if held:
        yield f"{slot}:"
        yield "  set:"
        for placed in held:
            yield f"    {placed.label}: {_flow({**placed.parameters, **_placing(placed)})}"


def _placing(placed: Placed) -> dict[str, Any]:
    said = {"where": placed.where, "over": placed.over, "stage": placed.stage}
    return {name: value for name, value in said.items() if value is not None}


def _flow(value: Any) -> str:
    """Flow YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and value.isidentifier():
        return value
    return json.dumps(value)


def write_text(path: Path, text: str, force: bool = False) -> None:
    """Write a file whole or not at all.

    Raises UsageError when it exists and `force` is not given, GradaxisError when it cannot be written.
    """
    if path.exists() and not force:
        raise UsageError(f"{path} exists; give --force to overwrite it")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False,
                                         encoding="utf-8") as file:  # fmt: skip
            temporary = Path(file.name)
            file.write(text)
        if force:
            os.replace(temporary, path)
        else:
            _move_new(temporary, path)
    except OSError as error:
        raise GradaxisError(f"{path}: cannot write it: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _move_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless another one took the name meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise UsageError(f"{path} exists; give --force to overwrite it") from None
    except OSError:  # a file system without hard links
        os.replace(temporary, path)
