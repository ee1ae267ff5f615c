"""How far the policy lies from the one that sampled, from their log-probabilities on the rollouts.

Letters: N sequences, T response positions, n units (prompts). π is the policy, μ the law that sampled, and with
d = log π − log μ the weights are r = e^d of a token, w = e^{Σ d} of a sequence and s = e^{Σ d / L}, their geometric
mean. Names and meanings are those of verl's `rollout_corr/*` where it has them; it clamps |d| and |Σ d|
at 20, which is not done here: a ratio that overflows leaves no number.

Every measure is a function of sums over sequences. With the rows weighed by their probability under μ, where all
answers can be listed, the same functions give exact values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.statistics import Array, Estimate, Interval, jackknife_interval

Sums = Mapping[str, Any]


class Measure(NamedTuple):
    """A measure: its unit, the function of sums that it is, and whether its interval is made on the logarithm."""

    unit: str
    of: Callable[[Sums], Any]
    on_logarithm: bool = False


def _effective(first: str, second: str, count: str) -> Callable[[Sums], Any]:
    return lambda s: s[first] ** 2 / (s[count] * s[second])


MEASURES: Mapping[str, Measure] = {
    "kl": Measure("nats a token", lambda s: (0.0 - s["d"]) / s["tokens"]),
    "k3_kl": Measure("nats a token", lambda s: s["k3"] / s["tokens"], True),
    "kl_seq": Measure("nats a sequence", lambda s: (0.0 - s["d"]) / s["sequences"]),
    "chi2_token": Measure("chi squared", lambda s: s["r2"] / s["tokens"] - 1),
    "chi2_seq": Measure("chi squared", lambda s: s["w2"] / s["sequences"] - 1),
    "chi2_geometric": Measure("relative variance", lambda s: s["sequences"] * s["s2"] / s["s"] ** 2 - 1),
    "ess_token": Measure("share", _effective("r", "r2", "tokens"), True),
    "ess_seq": Measure("share", _effective("w", "w2", "sequences"), True),
    "ess_geometric": Measure("share", _effective("s", "s2", "sequences"), True),
    "probs_diff_mean": Measure("probability", lambda s: s["gap"] / s["tokens"]),
    "log_ppl_diff": Measure("nats a token", lambda s: s["ppl"] / s["sequences"]),
    "ppl_ratio": Measure("ratio", lambda s: s["ppl_ratio"] / s["sequences"], True),
    "mult_prob_error": Measure("ratio", lambda s: s["error"] / s["tokens"], True),
}
"""`kl` and `k3_kl` estimate KL(μ‖π) a token, Σ KL / Σ L; the first may come out negative, the second never. `kl_seq` is
KL(μ‖π) of whole answers. `chi2` is χ²(π‖μ) = E_μ[w²] − 1; a geometric mean is no importance weight, E_μ[s] ≠ 1, and its
entry is Var(s) / E[s]². `ess` is (Σ w)² / (N Σ w²), in expectation 1 / (1 + χ²). `probs_diff_mean` is the mean of
|π − μ| over the tokens sampled. `log_ppl_diff` and `ppl_ratio` compare perplexities answer by answer, the policy's over
the sampler's. `mult_prob_error` is the mean of e^{|d|} over tokens, as NeMo-RL logs it."""

LEVELS = {"token": ("r", "tokens"), "seq": ("w", "sequences"), "geometric": ("s", "sequences")}
"""The weight behind `ess` and `chi2` at each level, and what counts it."""

UNSEEN = 3.0
"""An event that N draws have not shown has a probability below 3/N (at 95 %)."""

OPEN = 0.02
"""Where unseen answers as heavy as the heaviest seen could change the second moment of the weights by more than this
share, the rollouts say nothing of how large it is."""


def drift_sums(
    new: Array, old: Array, mask: NDArray[np.bool_], units: NDArray[Any] | None = None, weight: Array | None = None
) -> dict[str, Array]:
    """The sums that all measures are made of, one entry a unit, [n].

    Args:
        new, old: log π and log μ of the tokens sampled, nats, [N, T].
        mask: true at policy tokens, [N, T].
        units: the number of each sequence's unit [N]; by default all are one.
        weight: of each sequence [N]; by default one.
    """
    units = np.zeros(len(mask), dtype=int) if units is None else units
    d = np.where(mask, new - old, 0.0)
    length = mask.sum(1)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = d.sum(1) / np.maximum(length, 1)
        parts = {
            "tokens": mask, "sequences": length > 0, "d": d, "k3": np.expm1(d) - d,
            "r": np.where(mask, np.exp(d), 0.0), "r2": np.where(mask, np.exp(2 * d), 0.0),
            "w": np.exp(d.sum(1)) * (length > 0), "w2": np.exp(2 * d.sum(1)) * (length > 0),
            "s": np.exp(mean) * (length > 0), "s2": np.exp(2 * mean) * (length > 0),
            "gap": np.where(mask, np.abs(np.exp(new) - np.exp(old)), 0.0),
            "ppl": -mean, "ppl_ratio": np.exp(-mean) * (length > 0), "error": np.where(mask, np.exp(np.abs(d)), 0.0),
        }  # fmt: skip
        rows = {name: part.reshape(len(mask), -1).sum(1) * (1.0 if weight is None else weight)
                for name, part in parts.items()}  # fmt: skip
    sums = {name: np.bincount(units, row).astype(float) for name, row in rows.items()}
    for name, _ in LEVELS.values():
        sums[f"largest {name}"] = np.full(len(sums[name]), parts[name].max(initial=0.0))
    return sums


def drift_values(sums: Sums) -> dict[str, float]:
    """Every measure of all units together, without an interval. NaN without tokens."""
    whole = {name: np.sum(part) for name, part in sums.items()}
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {name: float(measure.of(whole)) for name, measure in MEASURES.items()}


def drift_estimates(sums: Sums) -> dict[str, Estimate]:
    """Every measure with a jackknife interval over the units, which for second moments of weights counts what the
    rollouts may not have shown: see `_allow_for_unseen`.
    """
    values = drift_values(sums)
    rest = {name: part.sum() - part for name, part in sums.items()}
    found = {}
    for name, measure in MEASURES.items():
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            without = measure.of(rest)
        found[name] = jackknife(values[name], without, measure.on_logarithm)
    for level in LEVELS:
        _allow_for_unseen(found, sums, level)
    return found


def _allow_for_unseen(found: dict[str, Estimate], sums: Sums, level: str) -> None:
    """Moves the ends of `ess` and `chi2` at a level by what answers that were not drawn could add.

    Few answers rule a second moment, and one that μ rarely gives is missing from most rollouts, whose own spread knows
    nothing of it. At 95 % its probability is below 3/N; were it as heavy as the heaviest seen, it would add
    3/N times the influence of that weight, which is added. Where that is more than `OPEN` the end is open: ESS may be
    anything down to 0. No sample bounds an answer heavier still, so that at strong drift intervals cover less often.
    """
    name, counted = LEVELS[level]
    count, first, second = (float(sums[part].sum()) for part in (counted, name, f"{name}2"))
    ess, chi2 = found[f"ess_{level}"], found[f"chi2_{level}"]
    if not (ess.value > 0 and np.isfinite(second)):
        return
    mean, square = first / count, second / count
    ratio, largest = square / mean**2, float(sums[f"largest {name}"].max())
    more = UNSEEN / count * max((largest / mean) ** 2 - ratio - 2 * ratio * (largest / mean - 1), 0.0)
    fine = more <= OPEN * ratio
    low = 1 / (1 / ess.interval.low + more) if fine and ess.interval.low > 0 else 0.0
    high = min(ess.interval.high, 1.0)
    found[f"ess_{level}"] = Estimate(ess.value, Interval(low, high, ess.interval.bounded))
    top = chi2.interval.high + UNSEEN / count * max(largest**2 - square, 0.0)
    ends = (1 / high - 1, 1 / low - 1 if low > 0 else np.inf) if level == "geometric" else (chi2.interval.low, top)
    found[f"chi2_{level}"] = Estimate(
        chi2.value, Interval(ends[0], float(ends[1]) if fine else np.inf, chi2.interval.bounded)
    )


def jackknife(value: float, without: Array, on_logarithm: bool = False) -> Estimate:
    """A statistic with its interval from leave-one-out values [n], made on the logarithm for one that is positive.

    Nothing is known where the statistic is not a number, or overflows.
    """
    if not np.isfinite(value):
        return Estimate(value, Interval(np.nan, np.nan, False))
    if on_logarithm and value > 0 and np.all(without > 0):
        low, high, bounded = jackknife_interval(np.log(value), np.log(without))
        return Estimate(value, Interval(float(np.exp(low)), float(np.exp(high)), bounded))
    return Estimate(value, jackknife_interval(value, without))


def ratio_of_sums(top: NDArray[Any], bottom: NDArray[Any], on_logarithm: bool = False) -> Estimate:
    """Σ a / Σ b of paired unit sums [n] with a jackknife interval. NaN where Σ b is zero.

    A share that is zero in every unit has the interval [0, 0] of what was seen.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.divide(top.sum(), bottom.sum()))
        without = (top.sum() - top) / (bottom.sum() - bottom)
    return jackknife(value, without, on_logarithm)
