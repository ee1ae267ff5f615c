"""The embedded task: sums of two numbers in base four, small enough that every possible answer can be listed."""

from __future__ import annotations

import random
import re

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.items import PromptItem

LARGEST_OPERAND = 15
"""Operands have one or two digits in base four, sums one to three."""

MAX_NEW_TOKENS = 4
"""Three digits and the end token: the longest right answer."""

FORM_REWARD = 0.2
RIGHT_REWARD = 0.8

_NUMBER = re.compile(r"0|[1-3][0-3]{0,2}")


def in_base_four(number: int) -> str:
    """A non-negative number in base four, without leading zeros.

    >>> in_base_four(27)  # 1·16 + 2·4 + 3
    '123'
    """
    digits = str(number % 4)
    while number := number // 4:
        digits = str(number % 4) + digits
    return digits


def all_problems() -> list[PromptItem]:
    """All 256 problems, sorted by their operands."""
    operands = range(LARGEST_OPERAND + 1)
    return [_problem(left, right) for left in operands for right in operands]


def _problem(left: int, right: int) -> PromptItem:
    text = f"{in_base_four(left)}+{in_base_four(right)}"
    return PromptItem(text=text, data={"answer": in_base_four(left + right)})


class ArithmeticTask:
    """Adds two numbers in base four. The policy writes the sum and the end token, nothing else.

    The reward has two parts: `form` is 0.2 for a number of one to three digits without leading zeros, `right` is 0.8
    for the sum itself. So the outcome is 1 for the right answer, 0.2 for a wrong number and 0 for anything else.
    """

    name = "arithmetic"
    max_new_tokens = MAX_NEW_TOKENS

    def prompts(self, count: int, seed: int = 0) -> list[PromptItem]:
        """Different problems, dealt in turn from those with sums of one, two and three digits while they last.

        Args:
            count: how many, at most 256.
            seed: of the order in which they are dealt.

        Raises:
            InputError: there are not so many problems.
        """
        problems = all_problems()
        if not 1 <= count <= len(problems):
            raise InputError("count", str(count), f"1 to {len(problems)} problems")
        by_length: dict[int, list[PromptItem]] = {}
        for item in problems:
            by_length.setdefault(len(item.data["answer"]), []).append(item)
        generator = random.Random(seed)
        decks = [by_length[length] for length in sorted(by_length)]
        for deck in decks:
            generator.shuffle(deck)
        dealt: list[PromptItem] = []
        while len(dealt) < count:
            dealt += [deck.pop() for deck in decks if deck]
        return dealt[:count]

    def score(self, item: PromptItem, completion: str) -> dict[str, float]:
        """The reward's parts for an answer without its end token.

        >>> task = ArithmeticTask()
        >>> [sum(task.score(task.prompts(1)[0], answer).values()) for answer in ("", "01")]
        [0.0, 0.0]
        """
        form = FORM_REWARD if _NUMBER.fullmatch(completion) else 0.0
        right = RIGHT_REWARD if completion == item.data["answer"] else 0.0
        return {"right": right, "form": form}
