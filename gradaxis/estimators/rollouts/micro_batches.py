"""Work in pieces that shrink when memory runs out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from gradaxis.errors import GradaxisError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_micro_batches(
    run: Callable[[Sequence[Item]], Result], items: Sequence[Item], size: int
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Yields each piece of `items` with `run(piece)`, in order. A piece that runs out of memory is halved, for good.

    Raises:
        GradaxisError: one item alone does not fit.
    """
    start = 0
    while start < len(items):
        piece = items[start : start + size]
        try:
            result = run(piece)
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            if len(piece) == 1:
                message = f"out of memory with one sequence at a time ({error}); use shorter answers or a smaller model"
                raise GradaxisError(message) from error
        else:
            start += len(piece)
            yield piece, result
            continue
        # Outside the handler, so that the traceback no longer holds the tensors that are to be freed.
        size = max(1, len(piece) // 2)
        warnings.warn(f"out of memory: going on with {size} at a time", stacklevel=2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(f"{words} memory" in text for words in ("out of", "can't allocate", "cannot allocate", "not enough"))
