"""Functionals that a user writes: a Python function that gives every answer a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from gradaxis.diagnostics.functionals import SCORE_ONLY, Functional, Source
from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.rewards import load_reward

UserFunction = Callable[[Mapping[str, Any], str, Mapping[str, Any]], float]
"""`function(data, completion, facts)` returns a number.

`data` is what the task knows of the prompt. `facts` holds `prompt` (its text), `length` (policy tokens), `truncated`,
`reward` (the outcome) and `rewards` (its parts by name).
"""


def load_functionals(specs: Sequence[str]) -> list[Functional]:
    """A functional for each `file.py:function`, named after its function. The files run: they are the user's own.

    Raises InputError for a file or function that is not there, or two functions of one name.
    """
    found: dict[str, Functional] = {}
    for spec in specs:
        try:
            function = cast(UserFunction, load_reward(spec))
        except InputError as error:
            raise InputError("functional", error.got, error.expected, error.remedy) from error
        name = spec.rpartition(":")[2]
        if name in found:
            raise InputError("functional", f"two functions named {name!r}", "names that differ", "Rename one of them")
        found[name] = user_functional(name, function)
    return list(found.values())


def user_functional(name: str, function: UserFunction) -> Functional:
    """The mean over answers of what `function` returns for each."""
    law = f"What {name} returns, mean over answers. {SCORE_ONLY}"
    return Functional(name, "units of its own", law, name,
                      pieces={name: lambda source: source.piece(values_of(name, function, source))})  # fmt: skip


def values_of(name: str, function: UserFunction, source: Source) -> Tensor:
    """The function's value for each answer, float64 [N].

    Raises InputError naming the answer where the function fails, or returns no finite number.
    """
    batch = source.batch
    values = [_value(name, function, batch, row) for row in _facts(batch)]
    return torch.tensor(values, dtype=torch.float64, device=batch.device)


def _facts(batch: RolloutBatch) -> list[tuple[int, str, dict[str, Any]]]:
    """Of each answer its prompt's number, its text, and its facts."""
    columns = zip(batch.prompt.tolist(), batch.completions, batch.length.tolist(), batch.truncated.tolist(),
                  batch.rewards.double().tolist(), batch.reward.double().tolist(), strict=True)  # fmt: skip
    return [
        (prompt, text, {"prompt": batch.prompts[prompt].text, "length": length, "truncated": cut, "reward": outcome,
                        "rewards": dict(zip(batch.reward_names, rewards, strict=True))})
        for prompt, text, length, cut, rewards, outcome in columns
    ]  # fmt: skip


def _value(name: str, function: UserFunction, batch: RolloutBatch, row: tuple[int, str, dict[str, Any]]) -> float:
    prompt, text, facts = row
    expected = "a finite number for every answer"
    try:
        value = float(function(batch.prompts[prompt].data, text, facts))
    except Exception as error:
        got = f"{type(error).__name__}: {error} on the answer {text!r}"
        raise InputError(f"functional {name}", got, expected) from error
    if not math.isfinite(value):
        raise InputError(f"functional {name}", f"{value} on the answer {text!r}", expected)
    return value
