"""From a task's name, or a file, to the task."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradaxis.errors import InputError, UsageError
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask
from gradaxis.estimators.rollouts.items import PromptItem, Task
from gradaxis.estimators.rollouts.prompt_file_task import PromptFileTask
from gradaxis.estimators.rollouts.reasoning_gym_task import ReasoningGymTask
from gradaxis.estimators.rollouts.rewards import load_reward

__all__ = ["PromptItem", "Task", "load_task"]

_REASONING_GYM = "reasoning-gym"


def load_task(spec: str, *, reward: str | None = None, **options: Any) -> Task:
    """The task that `spec` names.

    Args:
        spec: `arithmetic` (the embedded one), `reasoning-gym:<name>` (options of the data set may follow in brackets:
            `reasoning-gym:chain_sum[max_terms=2,max_digits=1]`), or the path of a JSON Lines file of prompts.
        reward: for a file of prompts, `file.py:function` or `module:function`; naming it is the consent to run it.
        options: keyword arguments of the task's class, such as `max_new_tokens`.

    Raises:
        UsageError: no such task, or the extra that it needs is not installed.
        InputError: an option, a line of the file or the reward function is not what it should be.
    """
    name, config = _split_options(spec)
    if spec.endswith((".jsonl", ".json")) or Path(spec).is_file():
        if reward is None:
            raise InputError("reward", "none", "file.py:function or module:function, since prompts alone score nothing")
        arguments = {"path": Path(spec), "reward": load_reward(reward), "reward_name": reward}
        return _build(PromptFileTask, spec, arguments, options)
    if reward is not None:
        raise InputError("reward", f"{reward!r} with the task {spec!r}", "a function with a file of prompts only")
    kind, _, dataset = name.partition(":")
    if kind == _REASONING_GYM and dataset:
        return _build(ReasoningGymTask, spec, {"dataset": dataset, "config": config}, options)
    if spec == ArithmeticTask.name:
        return _build(ArithmeticTask, spec, {}, options)
    close = difflib.get_close_matches(kind, (ArithmeticTask.name, _REASONING_GYM), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"no task {spec!r}{hint} (arithmetic, reasoning-gym:<name>, or a JSON Lines file of prompts)")


def _build(task: Any, spec: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Task:
    try:
        return task(**arguments, **options)
    except TypeError as error:
        if not options:
            raise
        given = ", ".join(sorted(options))
        raise InputError(f"options of task {spec!r}", given, "options it has", str(error)) from error


def _split_options(spec: str) -> tuple[str, dict[str, Any]]:
    """`name[a=1,b=word]` in two parts; values are read as JSON where they are JSON, as text elsewhere."""
    match = re.fullmatch(r"([^\[\]]+)\[(.*)\]", spec)
    if match is None:
        return spec, {}
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in match[2].split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError("task", repr(part), "option=value")
        try:
            options[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[key.strip()] = value.strip()
    return match[1], options
