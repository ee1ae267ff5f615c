"""Cells of the study: batches whose n and B/n are given, and what they estimate. Prompts are draws.

The pool's own moments are the truth; a constant is added to its mean so that noise over signal in a batch, B/n with
B = tr Σ/|G|², is what the cell asks for. Letters: N units in the pool, n in a batch, R batches, D parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from calibration_study import Array, Batch, Cell, Truth
from numpy.typing import NDArray
from tabular_population import KINDS, BatchMethod, Draws, batch_methods, draw, group_methods, make_policy, make_rewards

POOL, TRUTH_BATCHES = 100_000, 20_000
NAMES = {"a": "grpo", "b": "grpo-sum", "t": "rloo", "f": "length", "h": "entropy"}
COUPLED = {"a": "batch-std", "b": "token-mean"}


@dataclass(frozen=True)
class Pool:
    """N units: gradients of methods that couple a group [N, D], methods that couple a batch, and plain numbers [N]."""

    units: Mapping[str, Array]
    coupled: Mapping[str, BatchMethod]
    plain: Mapping[str, Array]
    draws: Draws


@dataclass(frozen=True)
class Moments:
    """The mean [D] of a batch's gradient before the shift, n times the trace of its covariance, and that one's rank."""

    mean: Array
    trace: float
    rank: float

    @classmethod
    def of(cls, values: Array, n: int = 1) -> Moments:
        """Of gradients [R, D] of batches of n units, or of the units themselves."""
        mean = values.mean(0)
        centred = values - mean
        covariance = centred.T @ centred / len(values)
        trace = float(np.trace(covariance))
        return cls(mean, n * trace, trace**2 / float((covariance**2).sum()))

    def shifted(self, n: int, level: float, along: Array | None = None) -> Array:
        """A mean along its own, or along another, for which tr Σ / (n |G|²) is `level`."""
        direction = self.mean if along is None else along
        return direction / np.linalg.norm(direction) * math.sqrt(self.trace / n / level)


def make_pool(seed: int, size: int = POOL) -> Pool:
    """N units with prompts of all kinds."""
    generator = np.random.default_rng(seed)
    policy = make_policy(generator)
    rewards = make_rewards(policy, generator)
    draws = draw(policy, rewards, generator.integers(0, KINDS, size), generator)
    longest = (draws.length == draws.length.max()).mean(1)
    plain = {"share": longest, "size": np.full(size, float(draws.length.shape[1])), "reward": draws.reward.mean(1)}
    return Pool(group_methods(draws), batch_methods(draws), plain, draws)


def group_moments(pool: Pool) -> dict[str, Moments]:
    """Of the units themselves: exact, since the pool is the population."""
    return {short: Moments.of(pool.units[name]) for short, name in NAMES.items()}


def batch_moments(pool: Pool, n: int, generator: np.random.Generator, count: int = TRUTH_BATCHES) -> dict[str, Moments]:
    """Of batches of n units of methods that couple the batch, from many batches; of the reference on the same ones."""
    rows = generator.integers(0, len(pool.draws.kind), (count, n))
    found = group_moments(pool)
    gradients = {short: batch_gradients(pool.coupled[name], rows) for short, name in COUPLED.items()}
    gradients["t"] = np.stack([pool.units[NAMES["t"]][row].mean(0) for row in rows])
    reference = found["t"].mean
    found.update({short: Moments.of(values, n) for short, values in gradients.items()})
    return found | {"t": replace(found["t"], mean=reference)}


def cell(
    pool: Pool, moments: Mapping[str, Moments], coupled: bool, n: int, level: float, count: int, seed: int
) -> Cell:
    """`count` batches of n units. With `coupled`, methods a and b couple the batch."""
    mean = {short: one.shifted(n, level) for short, one in moments.items()}
    mean["p"] = moments["a"].shifted(n, level, along=mean["t"])
    trace = {short: one.trace for short, one in moments.items()} | {"p": moments["a"].trace}
    ranks = {short: one.rank for short, one in moments.items()}
    truth = Truth(mean, trace, ranks, {name: float(values.mean()) for name, values in pool.plain.items()}, n)
    generator = np.random.default_rng(seed)

    def batches() -> Iterator[Batch]:
        for row in generator.integers(0, len(pool.draws.kind), (count, n)):
            units, scales = {}, {}
            for short, name in NAMES.items():
                if coupled and short in COUPLED:
                    method = pool.coupled[COUPLED[short]]
                    units[short], scales[short] = pseudo_values(method, row), scale_without(method, row)
                else:
                    units[short] = pool.units[name][row]
                units[short] = units[short] + (mean[short] - moments[short].mean)
            units["p"] = units["a"] - mean["a"] + mean["p"]
            yield Batch(units, {name: values[row] for name, values in pool.plain.items()}, scales)

    return Cell(truth, batches())


def batch_gradients(method: BatchMethod, rows: NDArray[np.int64]) -> Array:
    """The gradient of each batch: rows [R, n] -> [R, D]."""
    found = [method.parts[row].sum(0) / method.divisor(method.counts[row].sum(0)) for row in rows]
    return np.stack(found)


def pseudo_values(method: BatchMethod, row: NDArray[np.int64]) -> Array:
    """n·ĝ − (n − 1)·ĝ₍₋ⱼ₎, moved so that their mean is ĝ, as the package forms the units of such a method: [n, D]."""
    parts, counts, n = method.parts[row], method.counts[row], len(row)
    whole = parts.sum(0) / method.divisor(counts.sum(0))
    without = (parts.sum(0) - parts) / method.divisor(counts.sum(0) - counts)[:, None]
    values = n * whole - (n - 1) * without
    return values - values.mean(0) + whole


def scale_without(method: BatchMethod, row: NDArray[np.int64]) -> Array:
    """The mean of the others' gradients over what it would be with the normaliser of the whole batch, [n]."""
    counts, n = method.counts[row], len(row)
    return method.divisor(counts.sum(0)) / method.divisor(counts.sum(0) - counts) * (n - 1) / n
