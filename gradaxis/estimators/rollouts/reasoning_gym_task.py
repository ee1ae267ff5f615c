"""Any task of the reasoning-gym library by its name (extra `tasks`)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal

from gradaxis.errors import GradaxisError, InputError, UsageError
from gradaxis.estimators.rollouts.answers import extract_answer
from gradaxis.estimators.rollouts.items import PromptItem

INSTRUCTION = "Give the final answer between <answer> and </answer>."

_UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SyntaxError, AssertionError)


class ReasoningGymTask:
    """Problems of one reasoning-gym data set. The answer is extracted before the data set's own scorer sees it.

    Most scorers of the library give part of the marks to any text that contains the answer, so a policy would be paid
    for listing candidates. Here the final answer is extracted (`extract_answer`), the data set's `score_answer` is
    called on it, and `right` is 1 where that score reaches `threshold` and 0 elsewhere. The default threshold of 1
    admits full marks only. (A few scorers, such as that of `knights_knaves`, read the facts out of any text; what
    they accept is still judged on the extracted answer alone.) An answer on which the scorer raises is wrong, provided
    that it can score the data set's own answer.

    Args:
        dataset: the name in the library.
        config: options of the data set, such as `{"max_terms": 2}`.
        threshold: the least score of the data set's scorer that counts as right, in (0, 1].
        form_reward: reward, named `form`, for a completion from which an answer can be extracted; 0 leaves it out.
        extract: `marked` asks for a marked answer; `whole` takes the whole completion, without white space around it,
            and leaves the instruction out of the prompt.
        max_new_tokens: length of the longest answer.

    Raises:
        UsageError: the library is not installed, or has no such data set.
        InputError: an option that the data set does not take.
    """

    def __init__(
        self,
        dataset: str,
        config: Mapping[str, Any] | None = None,
        threshold: float = 1.0,
        form_reward: float = 0.0,
        extract: Literal["marked", "whole"] = "marked",
        max_new_tokens: int = 256,
    ) -> None:
        if not 0 < threshold <= 1:
            raise InputError("threshold", str(threshold), "a number in (0, 1]")
        if extract not in ("marked", "whole"):
            raise InputError("extract", repr(extract), "'marked' or 'whole'")
        options = ",".join(f"{name}={value}" for name, value in sorted((config or {}).items()))
        self.name = f"reasoning-gym:{dataset}[{options}]" if options else f"reasoning-gym:{dataset}"
        self.max_new_tokens = max_new_tokens
        self._dataset, self._config = dataset, dict(config or {})
        self._threshold, self._form_reward, self._extract = threshold, form_reward, extract
        _check_config(dataset, self._config)

    def prompts(self, count: int, seed: int = 0) -> list[PromptItem]:
        """`count` problems generated from `seed`. `data` names each well enough to generate it again."""
        if count < 1:
            raise InputError("count", str(count), "at least 1")
        problems = self._problems(seed, count)
        return [self._item(problems[index], {"seed": seed, "size": count, "index": index}) for index in range(count)]

    def score(self, item: PromptItem, completion: str) -> dict[str, float]:
        """`right`, 0 or 1, and `form` where the task rewards it."""
        answer = extract_answer(completion) if self._extract == "marked" else completion.strip() or None
        parts = {"right": 0.0 if answer is None else float(self._score_answer(answer, item) >= self._threshold)}
        if self._form_reward:
            parts["form"] = 0.0 if answer is None else self._form_reward
        return parts

    def _item(self, entry: Mapping[str, Any], data: dict[str, Any]) -> PromptItem:
        question = str(entry["question"])
        text = question if self._extract == "whole" else f"{question}\n{INSTRUCTION}"
        return PromptItem(text=text, data={**data, "question": question, "answer": str(entry["answer"])})

    def _problems(self, seed: int, size: int) -> Any:
        return _library().create_dataset(self._dataset, seed=seed, size=size, **self._config)

    def _score_answer(self, answer: str, item: PromptItem) -> float:
        data = item.data
        problems = self._problems(data["seed"], data["size"])
        entry = problems[data["index"]]
        if str(entry["question"]) != data["question"]:
            got = f"another problem at index {data['index']}"
            raise InputError(self.name, got, "the one that was asked", "Use the release of reasoning-gym it came from.")
        try:
            return float(problems.score_answer(answer, entry))
        except _UNREADABLE as error:
            _check_scorer(problems, entry, self.name, error)
            return 0.0


def _check_scorer(problems: Any, entry: Mapping[str, Any], name: str, error: Exception) -> None:
    """Raises when the scorer fails on the data set's own answer too: then the fault is not the policy's."""
    try:
        problems.score_answer(entry["answer"], entry)
    except _UNREADABLE:
        raise GradaxisError(f"{name}: its scorer raises {type(error).__name__}: {error} on its own answer") from error


def _library() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        message = "reasoning-gym tasks need an extra that is not installed: pip install 'gradaxis[tasks]'"
        raise UsageError(message) from error
    return reasoning_gym


def _check_config(dataset: str, config: Mapping[str, Any]) -> None:
    library = _library()
    known = library.factory.DATASETS
    if dataset not in known:
        close = difflib.get_close_matches(dataset, known, n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else f"; it has {', '.join(sorted(known))}"
        raise UsageError(f"reasoning-gym has no data set {dataset!r}{hint}")
    options = {field.name for field in dataclasses.fields(known[dataset][1])} - {"seed", "size"}
    for name in config:
        if name not in options:
            raise InputError(f"task option {name!r}", f"an option that {dataset} lacks", ", ".join(sorted(options)))
    try:
        library.create_dataset(dataset, seed=0, size=1, **config)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError("task options", f"{dict(config)}", f"options that {dataset} accepts", str(error)) from error
