"""Bias and noise as curves over drift, and where each method's correction for it stops helping.

Read from the rows of all points that a run measured: a point's place on a curve is its drift as measured on its own
rollouts (KL(μ‖π) a token, exact where all answers can be listed), never what was asked for. Staleness that was met
(older checkpoints), staleness that was made (perturbed weights) and mismatch (sampling engines) are three curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gradaxis.diagnostics.measurements import Measurement, is_number, not_assessed
from gradaxis.diagnostics.points import CHECKPOINTS, ENGINES, FRESH, SYNTHETIC, kind_of
from gradaxis.diagnostics.statistics import holm

PROBE = "curves"
UNIT = "nats a token"
CURVES = ("cosine", "orthogonal_bias", "gain", "efficiency", "noise", "critical_batch_size")
EFFECT, COSINE = "correction_effect", "cosine"
LOWEST = 0.9
"""The cosine with ∇J below which a method no longer points along it: where probe `bias` calls it bad."""

FEWEST = 3
LEVEL = 0.05
REMEDIES = {
    CHECKPOINTS: "name three or more older checkpoints (--behavior, repeated), or make drift (--drift 0.003,0.01,0.03)",
    SYNTHETIC: "give three or more sizes of noise (--drift 0.003,0.01,0.03)",
    ENGINES: "give all engines (--engine bfloat16,float16,int8)",
}
INTERPOLATED = "between measured points; the estimate is linear in the logarithm of drift between them"


@dataclass(frozen=True)
class Curve:
    """One quantity of one method over drift: rows by growing drift, and the drift of each, in nats a token."""

    kind: str
    method: str
    metric: str
    drift: tuple[float, ...]
    rows: tuple[Measurement, ...]


class Bracket(NamedTuple):
    """Where something ends: not before `low` and not after `high`; `estimate` NaN where the rows do not decide it."""

    low: float
    high: float
    estimate: float = math.nan


def drift_by_point(rows: Iterable[Measurement]) -> dict[str, float]:
    """The measured drift of each point that lies on a curve, in nats a token; exact where that is known.

    Mismatch for engines and staleness for the others. A point without a finite drift above zero has none.
    """
    found: dict[str, float] = {}
    for row in rows:
        probe = "mismatch" if kind_of(row.point) == ENGINES else "staleness"
        if row.probe != probe or not kind_of(row.point) or row.metric not in ("k3_kl", "exact_kl"):
            continue
        if is_number(row.estimate) and row.estimate and row.estimate > 0:
            found[row.point] = row.estimate if row.metric == "exact_kl" else found.get(row.point, row.estimate)
    return found


def curves_of(rows: Sequence[Measurement], metrics: Iterable[str] = CURVES) -> list[Curve]:
    """The curves that the rows make, for every kind of point, method and metric with two measured points or more."""
    drift, wanted = drift_by_point(rows), set(metrics)
    grouped: dict[tuple[str, str, str], list[tuple[float, Measurement]]] = {}
    for row in rows:
        if row.metric in wanted and row.point in drift and row.method:
            key = (kind_of(row.point), row.method, row.metric)
            grouped.setdefault(key, []).append((drift[row.point], row))
    found = []
    for key, pairs in grouped.items():
        pairs.sort(key=lambda pair: pair[0])
        if len(pairs) > 1:
            found.append(Curve(*key, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)))
    return found


def end_of_corrections(rows: Sequence[Measurement]) -> list[Measurement]:
    """For every method and kind of curve, up to which drift its correction helps and its direction holds.

    `correction_helps_until`: the drift at which the method is no longer more efficient than the same method without
    ratio and trust region, by the paired rows of the probe `correction`. A point counts as shown when its p-value,
    adjusted over the curve (Holm), is below .05. `direction_holds_until`: the drift at which its cosine with ∇J falls
    below .9, by intervals; nothing for a method whose cosine is below it without any drift. `correction_stops_helping`:
    whichever comes first. These rows belong to no point. With fewer than three points of a kind one row at the last of
    them says how to get more; without any there is none.
    """
    drift = drift_by_point(rows)
    fresh = {row.method: row for row in rows if row.metric == COSINE and row.point == FRESH}
    kinds = dict.fromkeys(kind_of(row.point) for row in rows if kind_of(row.point))
    found: list[Measurement] = []
    for kind in kinds:
        points = [point for point in drift if kind_of(point) == kind]
        base = Measurement(PROBE, "correction_stops_helping", point="", unit=UNIT, part=kind, n=len(points),
                           axis="trajectory", slot="ratio", failure="stale-samples")  # fmt: skip
        if len(points) < FEWEST:
            reason = f"a curve needs {FEWEST} points with drift, and these are {len(points)}"
            last = [row.point for row in rows if kind_of(row.point) == kind][-1]
            found.append(not_assessed(replace(base, point=last), reason, (), REMEDIES[kind]))
            continue
        curves = {(curve.method, curve.metric): curve for curve in curves_of(rows, (EFFECT, COSINE))
                  if curve.kind == kind}  # fmt: skip
        for method in dict.fromkeys(method for method, _ in curves):
            effect, cosine = (curves.get((method, metric)) for metric in (EFFECT, COSINE))
            found += _ends(replace(base, method=method), effect, cosine, fresh.get(method))
    return found


def _ends(
    base: Measurement, effect: Curve | None, cosine: Curve | None, fresh: Measurement | None
) -> list[Measurement]:  # fmt: skip
    """The rows of one method on one kind of curve; `fresh` is its cosine without drift, where that was measured."""
    found, brackets = [], []
    if effect is not None and len(effect.rows) >= FEWEST:
        inert = all(row.verdict == "not applicable" and row.reason for row in effect.rows)
        row = replace(base, metric="correction_helps_until", compared_with="no correction")
        if inert:
            found.append(replace(row, reason=effect.rows[0].reason))
        else:
            states, values = _states_of_effect(effect), [_logarithm(row.estimate) for row in effect.rows]
            brackets.append(bracket(effect.drift, states, values))
            found.append(_row(row, brackets[-1], effect, "its correction is shown to help"))
    if cosine is not None and len(cosine.rows) >= FEWEST:
        row = replace(base, metric="direction_holds_until", compared_with=f"cosine with ∇J of {LOWEST:g}")
        if fresh is not None and _state(fresh, LOWEST) < 0:
            found.append(replace(row, reason="its cosine is lower without any drift: drift is not what turns it"))
        else:
            states = [_state(row, LOWEST) for row in cosine.rows]
            values = [math.nan if row.estimate is None else row.estimate - LOWEST for row in cosine.rows]
            brackets.append(bracket(cosine.drift, states, values))
            found.append(_row(row, brackets[-1], cosine, f"its cosine is shown to be above {LOWEST:g}"))
    if len(brackets) == 2 and cosine is not None:
        text = "its correction is shown to help along ∇J"
        found.insert(0, _row(base, earlier(*brackets), cosine, text))
    return found


def bracket(drift: Sequence[float], states: Sequence[int], values: Sequence[float]) -> Bracket:
    """Where a curve that starts out well ends.

    Args:
        drift: growing. states: +1 where a point is shown to hold, −1 where it is shown not to, 0 undecided.
        values: what changes sign at the end; NaN where unknown.

    The end lies after the last point before the first −1 that is shown to hold, and at that −1 at the latest; 0 and
    infinity where there is none. The estimate is the last crossing of zero between the two, linear in the logarithm of
    drift; none unless both are there.

    >>> bracket([0.01, 0.1, 1.0], [1, 0, -1], [2.0, 1.0, -1.0])
    Bracket(low=0.01, high=1.0, estimate=0.31622776601683794)
    """
    first = next((place for place, state in enumerate(states) if state < 0), None)
    before = [place for place, state in enumerate(states[:first]) if state > 0]
    low = drift[before[-1]] if before else 0.0
    if first is None or not before:
        return Bracket(low, math.inf if first is None else drift[first])
    known = [place for place in range(before[-1], first + 1) if math.isfinite(values[place])]
    for left, right in zip(reversed(known[:-1]), reversed(known[1:]), strict=True):
        if values[left] > 0 >= values[right]:
            share = values[left] / (values[left] - values[right])
            ends = math.log(drift[left]), math.log(drift[right])
            return Bracket(low, drift[first], math.exp(ends[0] + share * (ends[1] - ends[0])))
    return Bracket(low, drift[first])


def earlier(one: Bracket, other: Bracket) -> Bracket:
    """Where the first of two ends: both ends are the smaller ones, and the estimate, where it can be told."""
    low, high = min(one.low, other.low), min(one.high, other.high)
    known = [end for end in (one, other) if math.isfinite(end.estimate)]
    unknown = [end for end in (one, other) if not math.isfinite(end.estimate)]
    first = min((end.estimate for end in known), default=math.nan)
    return Bracket(low, high, first if all(first <= end.low for end in unknown) else math.nan)


def _states_of_effect(effect: Curve) -> list[int]:
    p = holm(np.array([1.0 if row.p_value is None else row.p_value for row in effect.rows]))
    return [
        int(np.sign(_logarithm(row.estimate))) if adjusted < LEVEL and is_number(row.estimate) else 0
        for row, adjusted in zip(effect.rows, p, strict=True)
    ]


def _state(row: Measurement, threshold: float) -> int:
    if not is_number(row.estimate) or row.low is None or row.high is None:
        return 0
    return int(row.low >= threshold) - int(row.high < threshold)


def _logarithm(ratio: float | None) -> float:
    return math.log(ratio) if ratio is not None and ratio > 0 else math.nan


def _row(base: Measurement, end: Bracket, curve: Curve, shown: str) -> Measurement:
    """A bracket as a row: an estimate where both ends are measured, else what is known and why there is no more."""
    row = replace(base, low=end.low, high=end.high, interval=INTERPOLATED)
    if math.isfinite(end.estimate):
        return replace(row, estimate=end.estimate)
    largest = curve.drift[-1]
    if math.isinf(end.high) and end.low == largest:
        reason = f"{shown} at the largest drift measured, {largest:.3g}"
        return replace(row, reason=reason, advice="measure larger drifts to find where it ends")
    if math.isinf(end.high):
        reason = "the intervals decide at no larger drift" if end.low else "the intervals decide at no drift"
        return replace(row, verdict="unresolved", reason=reason, advice="use more prompts or groups, or larger drifts")
    reason = f"at {end.high:.3g} it is shown to have ended, and at no smaller drift that {shown}"
    return replace(row, verdict="unresolved", reason=reason, advice="measure smaller drifts, or use more prompts")
