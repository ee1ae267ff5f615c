"""Reward against entropy over checkpoints: R = −a e^H + b (arXiv 2505.22617, equation 1), with the ceiling b − a.

The law says that reward is bought with entropy, and where it ends when none is left.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.measurements import Measurement, is_number, not_assessed
from gradaxis.diagnostics.statistics import Array, Estimate, Interval, student
from gradaxis.errors import InputError

FEWEST = 3
"""Checkpoints that a line with an interval needs."""

COLUMNS = ("entropy", "reward")


class Fit(NamedTuple):
    """`slope` a in reward units, `level` b, `ceiling` b − a, and R², of n checkpoints."""

    slope: Estimate
    level: Estimate
    ceiling: Estimate
    explained: float
    n: int


def fit_reward_to_entropy(entropy: Array, reward: Array) -> Fit:
    """Least squares of reward on −e^H over checkpoints, with Student's intervals on n − 2 degrees of freedom.

    Checkpoints of one run follow one another, so residuals may be dependent and the intervals then too narrow.

    Args:
        entropy: H of each checkpoint, nats a token [n]. reward: R, mean reward on its own rollouts [n].

    Raises:
        InputError: fewer than three checkpoints, or all of one entropy.

    >>> fit = fit_reward_to_entropy(np.log([1.0, 2.0, 3.0]), np.array([0.8, 0.6, 0.4]))  # R = 1 − 0.2 e^H
    >>> [round(part.value, 6) for part in fit[:3]]
    [0.2, 1.0, 0.8]
    """
    n = len(entropy)
    if n < FEWEST or len(reward) != n:
        raise InputError("checkpoints", f"{n} entropies and {len(reward)} rewards", f"{FEWEST} or more pairs")
    design = np.stack([-np.exp(entropy), np.ones(n)], axis=1)
    if np.linalg.matrix_rank(design - design.mean(axis=0)) == 0:
        raise InputError("checkpoints", "one entropy", "checkpoints whose entropies differ")
    coefficients = np.linalg.lstsq(design, reward, rcond=None)[0]
    rest = reward - design @ coefficients
    covariance = float(rest @ rest) / (n - 2) * np.linalg.inv(design.T @ design)

    def estimate(weights: Sequence[float]) -> Estimate:
        vector = np.array(weights)
        value, half = float(vector @ coefficients), student(n - 1) * math.sqrt(float(vector @ covariance @ vector))
        return Estimate(value, Interval(value - half, value + half))

    spread = float(((reward - reward.mean()) ** 2).sum())
    explained = 1 - float(rest @ rest) / spread if spread > 0 else math.nan
    return Fit(estimate([1, 0]), estimate([0, 1]), estimate([-1, 1]), explained, n)


def read_training_log(path: str | Path) -> list[tuple[float, float]]:
    """(entropy, reward) of each row of a CSV or JSON Lines file with columns of these names; rows that lack one are
    passed over.

    Raises:
        InputError: no such file, no such columns, or a number that is not one.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError("training log", f"no file {place}", "a CSV or JSON Lines file")
    with place.open(encoding="utf-8", newline="") as file:
        try:
            rows = [json.loads(line) for line in file if line.strip()] if place.suffix == ".jsonl" else [
                *csv.DictReader(file)]  # fmt: skip
        except json.JSONDecodeError as error:
            raise InputError(str(place), f"a line that is not JSON: {error}", "one JSON object a line") from error
    known = sorted({name for row in rows for name in row})
    if not set(COLUMNS) <= set(known):
        raise InputError(str(place), f"the columns {', '.join(known) or 'none'}", " and ".join(COLUMNS),
                         "Entropy in nats a token, mean reward beside it")  # fmt: skip
    found = []
    for number, row in enumerate(rows):
        texts = [row.get(name) for name in COLUMNS]
        if any(text in (None, "") for text in texts):
            continue
        try:
            pair = float(texts[0]), float(texts[1])  # type: ignore[arg-type]
        except (TypeError, ValueError):
            pair = (math.nan, math.nan)
        if not all(map(math.isfinite, pair)):
            raise InputError(f"{place}, row {number + 1}", repr(texts), "finite numbers")
        found.append(pair)
    return found


def fit_rows(rows: Sequence[Measurement], log: str | None) -> list[Measurement]:
    """Rows of the fit over the checkpoints of a training log and the policy itself, where rollouts were fresh.

    Args:
        rows: all measurements of an experiment. log: the path of the training log, or None.
    """
    pairs = read_training_log(log) if log else []
    fresh = {row.metric: row.estimate for row in rows if row.point == "fresh"}
    entropy, reward = fresh.get("entropy"), fresh.get("mean_reward")
    if entropy is not None and reward is not None and is_number(entropy) and is_number(reward):
        pairs.append((entropy, reward))
    point = rows[0].point if rows else "fresh"
    base = Measurement("entropy", "entropy_fit_ceiling", point=point, unit="reward", n=len(pairs),
                       failure="entropy-collapse", part="R = −a e^H + b over checkpoints")  # fmt: skip
    remedy = f"give the entropy and reward of {FEWEST} checkpoints or more (--training-log FILE)"
    if len(pairs) < FEWEST:
        reason = f"checkpoints known: {len(pairs)}; a fit needs {FEWEST}"
        return [not_assessed(base, reason, ("training log",), remedy)]
    try:
        fit = fit_reward_to_entropy(*np.array(pairs).T)
    except InputError as error:
        return [not_assessed(base, str(error), ("training log",), remedy)]
    how = "95 %, Student over checkpoints, taken as independent"
    found = [
        _row(base, metric, estimate, how)
        for metric, estimate in (("entropy_fit_ceiling", fit.ceiling), ("entropy_fit_slope", fit.slope),
                                 ("entropy_fit_level", fit.level))
    ]  # fmt: skip
    explained = Estimate(fit.explained, Interval(-math.inf, math.inf))
    return [*found, _row(base, "entropy_fit_explained", explained, "none: a plain fact of these checkpoints")]


def _row(base: Measurement, metric: str, estimate: Estimate, how: str) -> Measurement:
    if not math.isfinite(estimate.value):
        return not_assessed(replace(base, metric=metric), "the rewards of the checkpoints do not differ")
    low, high = (end if math.isfinite(end) else None for end in estimate.interval[:2])
    unit = "share" if metric.endswith("explained") else base.unit
    return replace(base, metric=metric, estimate=estimate.value, low=low, high=high, interval=how, unit=unit)
