"""A task from a file of prompts and a reward function, both the user's."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.items import PromptItem
from gradaxis.estimators.rollouts.rewards import RewardFunction, call_reward


class PromptFileTask:
    """Prompts from a JSON Lines file, scored by a Python function.

    Each line is an object with `prompt` (text), or `messages` (a list of objects with `role` and `content`); whatever
    else it holds reaches the reward function, which is called as `reward(prompt, completion, row)` with the whole
    object as `row`, and returns a number or a dict of named numbers whose sum is the outcome reward.

    Args:
        path: the file.
        reward: the function.
        reward_name: how messages name it.
        max_new_tokens: length of the longest answer.
    """

    def __init__(self, path: Path, reward: RewardFunction, reward_name: str, max_new_tokens: int = 256) -> None:
        self.name = path.name
        self.max_new_tokens = max_new_tokens
        self._reward, self._reward_name = reward, reward_name
        self._items = read_prompts(path)

    def prompts(self, count: int | None = None, seed: int = 0) -> list[PromptItem]:
        """`count` prompts drawn without replacement, in the order of the file; all of them when it is None.

        Raises:
            InputError: the file holds fewer.
        """
        total = len(self._items)
        count = total if count is None else count
        if not 1 <= count <= total:
            raise InputError("count", str(count), f"1 to {total}, the prompts in {self.name}")
        return [self._items[i] for i in sorted(random.Random(seed).sample(range(total), count))]

    def score(self, item: PromptItem, completion: str) -> dict[str, float]:
        """The reward's parts. Raises InputError naming function and line when the function fails or returns NaN."""
        row = dict(item.data)
        place = f"{self.name}:{row.pop('line', '?')}"
        return call_reward(lambda: self._reward(item.text, completion, row), self._reward_name, place)


def read_prompts(path: Path) -> list[PromptItem]:
    """The prompts of a JSON Lines file; blank lines are skipped. Raises InputError with the line's number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("task", f"{path}: {error}", "a readable JSON Lines file in UTF-8") from error
    items = [_read_line(line, f"{path}:{number}", number) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise InputError("task", f"no prompts in {path}", "one JSON object a line, with a prompt")
    return items


def _read_line(line: str, place: str, number: int) -> PromptItem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(place, f"{error.msg} at column {error.colno}", "one JSON object a line") from error
    if not isinstance(row, dict):
        raise InputError(place, f"a JSON {type(row).__name__}", "an object with `prompt` or `messages`")
    messages, prompt = row.get("messages"), row.get("prompt")
    if messages is not None:
        if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
            raise InputError(place, f"messages {messages!r}", "a list of objects with text in `role` and `content`")
        text = prompt if isinstance(prompt, str) else messages[-1]["content"]
    elif isinstance(prompt, str) and prompt:
        messages, text = (), prompt
    else:
        raise InputError(place, f"the keys {sorted(row)}", "`prompt`, a text, or `messages`")
    return PromptItem(text=text, messages=tuple(messages), data={**row, "line": number})


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
