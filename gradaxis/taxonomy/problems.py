"""What is wrong in a file, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem of one file. `line` and `column` count from 1; `text` is the offending line."""

    file: str
    line: int
    column: int
    message: str
    text: str = ""
    allowed: tuple[str, ...] = ()
    closest: str | None = None

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def __str__(self) -> str:
        lines = [f"{self.place}: {self.message}"]
        if self.text.strip():
            lines += [f"    {self.text}", f"    {' ' * (self.column - 1)}^"]
        if self.closest:
            lines.append(f"    did you mean {self.closest!r}?")
        if self.allowed:
            lines.append(f"    allowed: {', '.join(self.allowed)}")
        return "\n".join(lines)


def closest(name: object, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like `name`, or None when none comes near."""
    matches = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else None


def closest_match(name: object, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing, to be put behind a name that does not exist."""
    match = closest(name, candidates)
    return f" (did you mean {match!r}?)" if match else ""
