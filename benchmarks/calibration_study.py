"""What becomes of the intervals of a statistic when a cell's batches are drawn again and again.

Letters: n units in a batch, R batches, D parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.statistics import Estimate, solve_fieller

Array = NDArray[np.float64]

COVER, COVER_GIVEN, FEW, SHOWN, WIDE, LOUD = 0.93, 0.90, 0.05, 0.80, 1.5, 0.3
"""The bar: coverage of all batches; of those with a verdict, where they are more than a FEW; at B/n up to LOUD the
share of batches with a verdict, and the width beside that of an interval with the true covariance."""

NORMAL = 1.959964


class Batch:
    """The units of one batch by name, each [n, D], and their inner products as they are asked for."""

    def __init__(
        self, units: Mapping[str, Array], plain: Mapping[str, Array], scales: Mapping[str, Array] | None = None
    ) -> None:
        self.units, self.plain, self.scales, self._products = units, plain, scales or {}, {}

    def __call__(self, first: str, second: str | None = None) -> Array:
        """[n, n]."""
        key = first, second or first
        if key not in self._products:
            self._products[key] = self.units[key[0]] @ self.units[key[1]].T
        return self._products[key]

    def pair(self, first: str, second: str) -> tuple[Array | None, Array | None]:
        """How leaving a unit out scales the others' gradients, of two methods."""
        return self.scales.get(first), self.scales.get(second)

    @property
    def n(self) -> int:
        return len(self.plain["share"])


@dataclass(frozen=True)
class Truth:
    """What a batch estimates: mean vectors [D], tr Σ and its effective rank by name, and the means of plain values."""

    mean: Mapping[str, Array]
    trace: Mapping[str, float]
    rank: Mapping[str, float]
    plain: Mapping[str, float]
    n: int

    def inner(self, first: str, second: str) -> float:
        return float(self.mean[first] @ self.mean[second])

    def cosine(self, first: str, second: str) -> float:
        return self.inner(first, second) / math.sqrt(self.inner(first, first) * self.inner(second, second))


@dataclass(frozen=True)
class Cell:
    """The batches of one n and one B/n, made one at a time, and what they estimate."""

    truth: Truth
    batches: Iterator[Batch]


@dataclass(frozen=True)
class Statistic:
    """One number that a probe reports, from a batch, with its true value.

    `parts` are what its interval is made of on the scale where it is made: one number (plus and minus), or two (a
    ratio); `back` maps that scale to the number's own. `signed`: the verdict is whether it is clear of zero.
    `shifts`: whether it depends on B/n. `powered`: whether B/n sets how often there is a verdict; for the sign of a
    difference the difference does.
    """

    name: str
    estimate: Callable[[Batch], Estimate]
    truth: Callable[[Truth], float]
    parts: Callable[[Batch], tuple[float, ...]]
    back: Callable[[float], float] = float
    signed: bool = False
    shifts: bool = True
    powered: bool = True


@dataclass(frozen=True)
class Outcome:
    """Coverage of all batches, share of batches with a verdict and coverage among them, and relative width."""

    coupling: str
    statistic: str
    n: int
    noise: float
    cover: float
    shown: float
    cover_given: float
    width: float
    missing: int
    shifts: bool = True
    powered: bool = True

    @property
    def failures(self) -> list[str]:
        """Which parts of the bar it does not meet."""
        found = ["an interval is missing"] if self.missing else []
        found += ["coverage"] if self.cover < COVER else []
        found += ["coverage given a verdict"] if self.shown >= FEW and self.cover_given < COVER_GIVEN else []
        if self.noise <= LOUD:
            found += ["verdicts"] if self.powered and self.shown < SHOWN else []
            found += ["width"] if self.width > WIDE else []
        return found


def study(coupling: str, statistics: Sequence[Statistic], cell: Cell, level: float) -> list[Outcome]:
    """What became of every statistic in the batches of one cell."""
    found: list[list[Estimate]] = [[] for _ in statistics]
    parts: list[list[tuple[float, ...]]] = [[] for _ in statistics]
    for batch in cell.batches:
        for index, statistic in enumerate(statistics):
            found[index].append(statistic.estimate(batch))
            if level <= LOUD:
                parts[index].append(statistic.parts(batch))
    outcomes = []
    for one, estimates, made in zip(statistics, found, parts, strict=True):
        numbers, true = np.array(made) if made else None, one.truth(cell.truth)
        outcome = measure(coupling, one.name, estimates, true, numbers, one.back, cell.truth.n, level, one.signed)
        outcomes.append(replace(outcome, shifts=one.shifts, powered=one.powered))
    return outcomes


def measure(
    coupling: str, name: str, found: Sequence[Estimate], true: float, parts: Array | None,
    back: Callable[[float], float], n: int, level: float, signed: bool = False,
) -> Outcome:  # fmt: skip
    """Coverage, verdicts and width of R estimates. `parts` [R, 1 or 2] and the rest as in `Statistic`."""
    low, high = (np.array([estimate.interval[end] for estimate in found]) for end in (0, 1))
    slack = 1e-9 * abs(true)
    covered = (low - slack <= true) & (true <= high + slack)
    shown = np.array([estimate.resolved for estimate in found])
    if signed:
        shown &= (low > 0) | (high < 0)
    width = math.nan
    if parts is not None:
        width = float(np.median(high - low) / np.median(ideal_widths(parts, back)))
    given = float(covered[shown].mean()) if shown.any() else math.nan
    missing = int(np.sum(np.isnan(low) | np.isnan(high)))
    return Outcome(coupling, name, n, level, float(covered.mean()), float(shown.mean()), given, width, missing)


def ideal_widths(parts: Array, back: Callable[[float], float]) -> Array:
    """Widths of the batches' intervals with the covariance that the R batches show, and the normal quantile: [R]."""
    known = parts[np.isfinite(parts).all(axis=1)]
    if parts.shape[1] == 1:
        half = NORMAL * float(known.std(ddof=1))
        ends = [(value - half, value + half) for (value,) in known]
    else:
        covariance = np.cov(known.T)
        ends = [solve_fieller(top, bottom, covariance, NORMAL)[:2] for top, bottom in known]
    return np.array([back(high) - back(low) for low, high in ends])
