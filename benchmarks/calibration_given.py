"""Cells whose prompts are taken as given, beside a target that is known on each of them.

With several groups a prompt the units are groups and the prompts strata; with one, prompts are the units. The methods
couple a group, or (`batch-std`) the batch. Letters: P prompts, m groups a prompt, M = P·m units, D parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from calibration_cells import COUPLED, NAMES, Pool
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
    """What becomes of the statistics beside a known target on given prompts. With `coupled`, method a does."""
    generator = np.random.default_rng(seed)
    strata, groups = Strata(prompts.of), len(prompts.of) // len(prompts.kinds)
    centres = {short: _centres(pool.units[NAMES[short]], pool, prompts) for short in ("a", "b", "t")}
    means = {short: centre.mean(0) for short, (centre, _) in centres.items()}
    noises = {short: noise / groups for short, (_, noise) in centres.items()}
    if coupled:
        many = np.stack([_coupled(pool, prompts.draw(generator)).mean(0) for _ in range(TRUTH_BATCHES)])
        means["a"], noises["a"] = many.mean(0), float(((many - many.mean(0)) ** 2).sum(1).mean())
    shifts = {name: mean * (math.sqrt(noises[name] / level) / np.linalg.norm(mean) - 1) for name, mean in means.items()}
    target = centres["t"][0][prompts.of]  # each group's prompt's ∇J
    found: list[list[Estimate]] = [[] for _ in STATISTICS]
    for _ in range(count):
        rows = prompts.draw(generator)
        error = pool.units[NAMES["t"]][rows] - target
        units = {short: pool.units[NAMES[short]][rows] for short in ("a", "b")}
        if coupled:
            units["a"] = _coupled(pool, rows)
        blocks = {}
        for short in ("a", "b"):
            parts = units[short] + shifts[short], target + shifts["t"], error
            blocks[short] = np.array([[one @ other.T for other in parts] for one in parts])
        for index, estimate in enumerate(_estimates(blocks, strata, groups)):
            found[index].append(estimate)
    truths = _truths({name: means[name] + shifts[name] for name in means}, noises)
    outcomes = []
    for name, true, estimates in zip(STATISTICS, truths, found, strict=True):
        values = np.array([[estimate.value] for estimate in estimates])
        logarithm = name.startswith("efficiency")
        if estimates:
            parts = None if level > LOUD else np.log(values) if logarithm else values
            back = math.exp if logarithm else float
            coupling, n = _coupling(coupled, groups), len(prompts.kinds)
            outcomes.append(measure(coupling, name, estimates, true, parts, back, n, level))
    return outcomes


def _centres(values: Array, pool: Pool, prompts: Prompts) -> tuple[Array, float]:
    """Each prompt's mean unit [P, D], and the noise tr Cov(ĝ) of a batch with one group a prompt."""
    centres, total = {}, 0.0
    for kind in prompts.kinds.tolist():
        if kind not in centres:
            within = values[pool.draws.kind == kind]
            centres[kind] = within.mean(0), float(((within - within.mean(0)) ** 2).sum(1).mean())
        total += centres[kind][1]
    return np.stack([centres[kind][0] for kind in prompts.kinds.tolist()]), total / len(prompts.kinds) ** 2


def _coupled(pool: Pool, rows: NDArray[np.int64]) -> Array:
    """Units of a method that couples the batch, groups left out in turn, as the package forms them: [M, D]."""
    method = pool.coupled[COUPLED["a"]]
    parts, counts = method.parts[rows], method.counts[rows]
    whole = parts.sum(0) / method.divisor(counts.sum(0))
    without = (parts.sum(0) - parts) / method.divisor(counts.sum(0) - counts)[:, None]
    values = (len(rows) - 1) * (whole - without)
    return values - values.mean(0) + whole


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
