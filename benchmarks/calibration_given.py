"""Cells whose prompts are taken as given, beside a target that is known on each of them.

With several groups a prompt the units are groups and the prompts strata; with one, prompts are the units. The methods
couple a group, or (token-mean) the batch. Letters: P prompts, m groups a prompt, M = P·m units, D parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from calibration_cells import Pool
from calibration_study import LOUD, Array, Outcome, measure
from numpy.typing import NDArray
from tabular_population import KINDS

from gradaxis.diagnostics.statistics import (
    Estimate,
    Strata,
    cosine_change_given,
    cosine_given,
    cosine_with_known,
    efficiency_given,
    efficiency_on_known,
    gain_given,
    gain_on_known,
    remove_noise,
    split,
)

TRUTH_BATCHES = 4_000
STATISTICS = ("gain", "cosine, orthogonal bias", "efficiency eff_n", "change of the cosine")


@dataclass(frozen=True)
class Prompts:
    """P given prompts: `kinds` [P], the rows of the pool that each can draw from, and each group's prompt [M]."""

    kinds: NDArray[np.int64]
    rows: list[NDArray[np.int64]]
    of: NDArray[np.int64]

    def draw(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Rows of the pool for M groups."""
        groups = np.bincount(self.of)
        return np.concatenate(
            [rows[generator.integers(0, len(rows), size)] for rows, size in zip(self.rows, groups, strict=True)]
        )


def choose_prompts(pool: Pool, count: int, groups: int, generator: np.random.Generator) -> Prompts:
    """`count` prompts with `groups` groups each; two prompts of a kind are two strata."""
    kinds = generator.integers(0, KINDS, count)
    rows = [np.flatnonzero(pool.draws.kind == kind) for kind in kinds]
    return Prompts(kinds, rows, np.repeat(np.arange(count), groups))


def given_outcomes(pool: Pool, prompts: Prompts, coupled: bool, level: float, count: int, seed: int) -> list[Outcome]:
    """What becomes of the statistics beside a known target on given prompts. With `coupled`, method b does."""
    generator = np.random.default_rng(seed)
    of, groups = prompts.of, len(prompts.of) // len(prompts.kinds)
    a, b, reference = (pool.units[name] for name in ("grpo", "grpo-sum", "rloo"))
    target = np.stack([reference[rows].mean(0) for rows in prompts.rows])  # each prompt's ∇J
    means, noises = {}, {}
    for name, values in (("a", a), ("b", b), ("t", reference)):
        within = [values[rows] for rows in prompts.rows]
        means[name] = np.mean([one.mean(0) for one in within], axis=0)
        spread = sum(float(((one - one.mean(0)) ** 2).sum(1).mean()) for one in within)
        noises[name] = spread / groups / len(prompts.kinds) ** 2
    form: Callable[[NDArray[np.int64]], Mapping[str, Array]] = lambda rows: {"a": a[rows], "b": b[rows]}  # noqa: E731
    if coupled:
        token_mean = pool.coupled["token-mean"]

        def form(rows: NDArray[np.int64]) -> Mapping[str, Array]:
            parts, counts = token_mean.parts[rows], token_mean.counts[rows]
            whole = parts.sum(0) / counts.sum()
            without = (parts.sum(0) - parts) / (counts.sum() - counts)
            values = whole + (len(rows) - 1) * (whole - without)
            return {"a": values - values.mean(0) + whole, "b": b[rows]}

        many = np.stack([form(prompts.draw(generator))["a"].mean(0) for _ in range(TRUTH_BATCHES)])
        means["a"], noises["a"] = many.mean(0), float(((many - many.mean(0)) ** 2).sum(1).mean())
    shifts = {
        name: mean / np.linalg.norm(mean) * math.sqrt(noises[name] / level) - mean for name, mean in means.items()
    }
    truths = _truths({name: means[name] + shifts[name] for name in means}, noises)
    strata = Strata(of)
    found: list[list[Estimate]] = [[] for _ in STATISTICS]
    for _ in range(count):
        rows = prompts.draw(generator)
        units = form(rows)
        known, error = target[of] + shifts["t"], reference[rows] - target[of]
        blocks = {}
        for name in ("a", "b"):
            parts = (units[name] + shifts[name], known, error)
            blocks[name] = np.array([[one @ other.T for other in parts] for one in parts])
        for index, estimate in enumerate(_estimates(blocks, strata, groups)):
            found[index].append(estimate)
    coupling = _coupling(coupled, groups)
    outcomes = []
    for name, true, estimates in zip(STATISTICS, truths, found, strict=True):
        if estimates:
            values = np.array([[estimate.value] for estimate in estimates])
            logarithm = name.startswith("efficiency")
            parts = (np.log(values) if logarithm else values) if level <= LOUD else None
            back = math.exp if logarithm else float
            outcome = measure(coupling, name, estimates, true, parts, back, len(prompts.kinds), level)
            outcomes.append(replace(outcome, order=STATISTICS.index(name)))
    return outcomes


def _coupling(coupled: bool, groups: int) -> str:
    if groups == 1:
        return "known"
    return "batch, prompts given" if coupled else "group, prompts given"


def _estimates(blocks: Mapping[str, Array], strata: Strata, groups: int) -> list[Estimate]:
    own = blocks["a"][0, 0]
    if groups == 1:
        residual = split(blocks["a"])
        return [gain_on_known(residual), cosine_with_known(residual), efficiency_on_known(residual, own)]
    first, second = (remove_noise(blocks[name], strata) for name in ("a", "b"))
    return [
        gain_given(first, strata), cosine_given(first, strata), efficiency_given(first, own, strata),
        cosine_change_given(first, second, strata),
    ]  # fmt: skip


def _truths(mean: Mapping[str, Array], noise: Mapping[str, float]) -> tuple[float, ...]:
    """Gain, cosine, efficiency and change of the cosine."""
    square = float(mean["t"] @ mean["t"])
    along = {name: float(mean[name] @ mean["t"]) for name in ("a", "b")}
    cosine = {name: along[name] / math.sqrt(square * float(mean[name] @ mean[name])) for name in along}
    share = along["a"] ** 2 / square / (float(mean["a"] @ mean["a"]) + noise["a"])
    return along["a"] / square, cosine["a"], share, cosine["b"] - cosine["a"]
