"""What a task is: prompts with what it takes to score an answer to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class PromptItem:
    """One prompt of a task, before a tokenizer has seen it.

    `text` is the user's message; `messages` is the whole conversation where there is more to it than that one message.
    `data` is what the task needs to score an answer.
    """

    text: str
    messages: tuple[Mapping[str, str], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conversation(self) -> list[dict[str, str]]:
        """The messages that the chat template renders."""
        return [dict(message) for message in self.messages] or [{"role": "user", "content": self.text}]


class Task(Protocol):
    """Prompts with verifiable rewards. `score` returns the named parts of the reward; the outcome is their sum."""

    @property
    def name(self) -> str: ...

    @property
    def max_new_tokens(self) -> int: ...

    def prompts(self, count: int, seed: int) -> Sequence[PromptItem]: ...

    def score(self, item: PromptItem, completion: str) -> dict[str, float]: ...
