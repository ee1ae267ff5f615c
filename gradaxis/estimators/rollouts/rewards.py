"""Reward functions: loading a user's own, and checking what any of them returns."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gradaxis.errors import GradaxisError, InputError

RewardFunction = Callable[[str, str, Mapping[str, Any]], Any]
"""`reward(prompt, completion, row)` returns a number, or a dict of named numbers whose sum is the outcome reward."""


def load_reward(spec: str) -> RewardFunction:
    """The function that `file.py:function` or `module:function` names. The file runs: it is the user's own, by name.

    Raises:
        InputError: no such file, module or function, or the file fails when it runs.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise InputError("reward", repr(spec), "file.py:function or module:function")
    module = _run_file(Path(place)) if place.endswith(".py") else _import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        close = difflib.get_close_matches(name, own, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else f"It has {', '.join(sorted(own)) or 'no functions'}."
        raise InputError("reward", f"{name!r}, which {place} does not define", "one of its functions", remedy)
    return function


def check_reward(value: Any, function: str, row: str) -> dict[str, float]:
    """The named parts of a reward; a bare number is named `reward`.

    Args:
        value: what the function returned.
        function: how the message names the function.
        row: how the message names the row that was scored.

    Raises:
        InputError: it is neither a finite number nor a non-empty dict of finite numbers.
    """
    parts = value if isinstance(value, Mapping) else {"reward": value}
    checked = {}
    for name, part in parts.items():
        number = _as_number(part)
        if not isinstance(name, str) or number is None or not math.isfinite(number):
            got = f"{value!r} from {function} on {row}"
            raise InputError("reward", got, "a finite number, or a dict of named finite numbers")
        checked[name] = number
    if not checked:
        raise InputError("reward", f"an empty dict from {function} on {row}", "at least one named number")
    return checked


def call_reward(function: Callable[[], Any], name: str, row: str) -> dict[str, float]:
    """Calls a reward function and checks its value. Raises InputError naming function and row when it raises."""
    try:
        value = function()
    except GradaxisError:  # it says already what is wrong
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error} from {name} on {row}"
        raise InputError("reward", got, "a function that returns a reward for every completion") from error
    return check_reward(value, name, row)


def _as_number(value: Any) -> float | None:
    if isinstance(value, (str, bytes)) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError("reward", f"no file {path}", "a Python file")
    spec = importlib.util.spec_from_file_location(f"gradaxis_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError("reward", str(path), "a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError("reward", f"{type(error).__name__}: {error} from {path}", "a file that runs") from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError("reward", f"{type(error).__name__}: {error}", f"an importable module {name!r}") from error
