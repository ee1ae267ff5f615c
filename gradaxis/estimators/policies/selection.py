"""Which of a model's parameters count."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torch import nn

from gradaxis.errors import InputError

EXAMPLES = 4


def select_parameters(model: nn.Module, params: str) -> dict[str, nn.Parameter]:
    """The parameters that `params` names, each once, under the first name that the model gives it.

    A matrix that two modules share (a tied embedding and head) is one parameter; either of its names selects it.

    Args:
        model: any module.
        params: `all`; `lora` for adapter weights only; else a glob over whole names (`*.layers.3.*`) or, where that
            matches nothing, a regular expression that is searched for in them.

    Raises:
        InputError: nothing matches, or nothing floating-point does.
    """
    aliases: dict[int, list[str]] = {}
    values: dict[int, nn.Parameter] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(value), []).append(name)
        values[id(value)] = value
    every = [name for names in aliases.values() for name in names]
    wanted = set(_matching(every, params))
    selected = {names[0]: values[key] for key, names in aliases.items() if wanted.intersection(names)}
    if not selected:
        expected = f"all, lora or a pattern that matches a name such as {', '.join(every[:EXAMPLES])}"
        raise InputError("params", f"{params!r}, which matches no parameter", expected)
    quantised = [name for name, value in selected.items() if not value.is_floating_point()]
    if quantised:
        raise InputError(f"parameter {quantised[0]!r}", f"dtype {selected[quantised[0]].dtype}", "floating point")
    return selected


def _matching(names: list[str], params: str) -> list[str]:
    if params == "all":
        return names
    if params == "lora":
        return [name for name in names if "lora_" in name]
    matched = [name for name in names if fnmatchcase(name, params)]
    if matched:
        return matched
    try:
        pattern = re.compile(params)
    except re.error:
        return []
    return [name for name in names if pattern.search(name)]
