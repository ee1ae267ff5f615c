"""The errors that reach a user. Each says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GradaxisError(Exception):
    """Base of every error that gradaxis raises on purpose; `exit_code` is the command line's."""

    exit_code = 1


class UsageError(GradaxisError):
    """The command or call names something that does not exist, or leaves something out."""

    exit_code = 2


class NotYetError(GradaxisError):
    """The request is valid, but this version cannot compute it. Nothing is approximated in its place."""

    exit_code = 2


class RegistryError(GradaxisError):
    """One or more YAML files do not validate; `problems` holds all of them, each with its place."""

    def __init__(self, problems: Sequence[Any]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InputError(GradaxisError):
    """An argument, column or file is not what it should be.

    Args:
        argument: the argument, column or file at fault.
        got: what was given.
        expected: what would have been accepted.
        remedy: what the user can do, when that does not follow from `expected`.
    """

    def __init__(self, argument: str, got: str, expected: str, remedy: str = "") -> None:
        self.argument, self.got, self.expected, self.remedy = argument, got, expected, remedy
        message = f"{argument}: got {got}, expected {expected}"
        super().__init__(f"{message}. {remedy}" if remedy else message)


class MissingInputError(GradaxisError):
    """A batch lacks a column or companion that an operator reads. It is never filled in.

    Args:
        column: the missing column, or `companion:<role>`.
        remedy: the flag or column that supplies it.
        reason: why it is missing, where the batch knows.
    """

    exit_code = 3

    def __init__(self, column: str, remedy: str, reason: str = "") -> None:
        self.column, self.remedy, self.reason = column, remedy, reason
        because = f" ({reason})" if reason else ""
        super().__init__(f"the rollouts have no {column}{because}; {remedy}")
