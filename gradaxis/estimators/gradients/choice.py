"""Which way to the inner products of gradients, chosen by estimated cost, and told with the result.

Letters: N sequences, B patterns, R rows, L positions, T response positions, D sketch columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gradaxis.estimators.gradients.budget import (
    ModelShape,
    exact_bytes,
    exact_units,
    projected_bytes,
    projected_units,
)

TOKENS_AT_ONCE = {"cpu": 2**10, "cuda": 2**13}
"""Tokens of a pass that is projected, by device; more gain nothing there."""

COMFORT = 4 * 10**9
"""Bytes on a CPU beyond which layers run again although memory is left: it is shared with everything else."""

WORTH = 2.0
"""An exact result may cost so many times a projected one."""

NEGLIGIBLE_WORK = 2e12
"""Multiplications and additions that take some ten seconds on a small machine: then exact is worth any ratio."""


@dataclass(frozen=True)
class Way:
    """What one way would cost: `units` of a batched forward and backward pass over the same rollouts, and `bytes`."""

    units: float
    bytes: int


@dataclass(frozen=True)
class Problem:
    """The size of a Gram matrix. `tokens` is the mean of prompt and response together, `patterns` the largest rank.

    `at_once` is how many sequences a projected pass takes where memory allows.
    """

    sequences: int
    rows: int
    patterns: int
    positions: int
    answers: int
    tokens: float
    columns: int
    at_once: int


@dataclass(frozen=True)
class Choice:
    """How a Gram matrix was made, and why so.

    `mode` and the reason `why`; the estimates `exact` and `projected`; `memory`, the bytes that were free for it;
    `recomputed` layers that the exact way runs again; `micro_batch` sequences a pass of the projected way. Of what was
    asked: `patterns` (the largest rank of a sequence), `mean_rank`, and `tolerance`, the part of a method's
    coefficients that may lie outside them. `columns` of the sketch and its `relative_error` are None and 0 where exact.
    """

    mode: Literal["exact", "projected"]
    why: str
    exact: Way
    projected: Way
    memory: int
    recomputed: int
    micro_batch: int
    patterns: int
    mean_rank: float
    tolerance: float
    columns: int | None
    relative_error: float

    def facts(self) -> dict[str, Any]:
        """Plain numbers and words, for a file."""
        return asdict(self)


def exact_way(shape: ModelShape, problem: Problem, memory: int, comfort: int | None = None) -> tuple[Way, int]:
    """The exact way with as few recomputed layers as fit, and their number; all of them where none do.

    Args:
        memory: bytes that are free. comfort: fewer bytes, within which it stays if it can.
    """

    def need(recomputed: int) -> int:
        return exact_bytes(shape, problem.rows, problem.positions, problem.answers, recomputed)

    bounds = [memory] if comfort is None else [min(memory, comfort), memory]
    fitting = (count for bound in bounds for count in range(shape.layers + 1) if need(count) <= bound)
    recomputed = next(fitting, shape.layers)
    units = exact_units(problem.sequences, problem.rows, problem.tokens, recomputed / max(1, shape.layers))
    return Way(units, need(recomputed)), recomputed


def projected_way(shape: ModelShape, problem: Problem, memory: int, micro_batch: int | None) -> tuple[Way, int]:
    """The projected way with the largest micro-batch that fits into memory, one sequence at least."""

    def need(sequences: int) -> int:
        rows = problem.sequences * problem.patterns
        sizes = (rows, problem.positions, problem.answers, problem.columns)
        return projected_bytes(shape, sequences, *sizes)

    size = min(micro_batch or problem.at_once, max(1, problem.sequences))
    while size > 1 and need(size) > memory:
        size -= 1
    return Way(projected_units(problem.patterns, problem.tokens), need(size)), size


def choose(
    mode: str, shape: ModelShape, problem: Problem, exact: Way, projected: Way, memory: int
) -> tuple[Literal["exact", "projected"], str]:
    """The mode, and why. Exact where it fits into memory and is worth its work, unless one was asked for."""
    if mode == "exact":
        return "exact", "it was asked for"
    if mode == "projected":
        return "projected", "it was asked for"
    if exact.bytes > memory:
        return "projected", f"exact needs {exact.bytes / 1e9:.1f} GB and {max(0, memory) / 1e9:.1f} GB are free"
    if 2.0 * problem.rows**2 * shape.selected <= NEGLIGIBLE_WORK:
        return "exact", "it fits into memory, and its inner products are a matter of seconds"
    ratio = exact.units / projected.units
    if ratio <= WORTH:
        return "exact", f"it fits into memory and costs {ratio:.1f} times the projected way ({WORTH:.0f} at most)"
    return "projected", f"exact would cost {ratio:.1f} times as much ({WORTH:.0f} at most)"


def choice_from_facts(facts: Mapping[str, Any]) -> Choice:
    """The choice back from its facts."""
    return Choice(**{**facts, "exact": Way(**facts["exact"]), "projected": Way(**facts["projected"])})
