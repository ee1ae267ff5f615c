"""Atomic writes: a file in a results folder is whole or absent, whatever interrupts the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradaxis.errors import GradaxisError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends well and vanishes when it does not.

    Raises GradaxisError when the disk is full or the folder cannot be written; `target` is then as it was.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        remedy = "free some space or name another output folder; finished stages are kept"
        raise GradaxisError(f"cannot write {target}: {error.strerror or error}; {remedy}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities are refused: JSON has no word for them."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(target) as path:
        path.write_text(text + "\n", encoding="utf-8")


def read_json(source: Path) -> Any:
    """The parsed JSON of `source`."""
    return json.loads(source.read_text(encoding="utf-8"))
