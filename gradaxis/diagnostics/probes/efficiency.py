"""Efficiency: how much of the best first-order improvement one update of each method gets, and how methods rank by it.

    eff = cos²(E ĝ, ∇J) · 1 / (1 + c · tr Cov ĝ / |E ĝ|²)

Twice where the user's own training run is told: for these rollouts at equal sampled tokens, and for an update there.
What is measured is the task part, as for bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.efficiency import (
    Moments,
    direction_of,
    efficiency_of,
    moments_given,
    moments_of_means,
    moments_of_pairs,
    moments_on_known,
    roots,
    steadiness_of,
)
from gradaxis.diagnostics.evidence import EXACT, TASK, Evidence
from gradaxis.diagnostics.geometry import AT_GEOMETRY
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import BETWEEN_GROUPS, fill, plain, start, without_products
from gradaxis.diagnostics.probes.target import given_of, residual_of
from gradaxis.diagnostics.ranking import rank_methods
from gradaxis.diagnostics.sampling_cost import (
    Kept,
    draw_cost,
    greedy_cost,
    kept_share,
    refills,
    tokens_a_group,
)
from gradaxis.diagnostics.statistics import Array, Estimate, Interval, Strata
from gradaxis.diagnostics.unit_spread import half_width, two_sided
from gradaxis.diagnostics.units import FEWEST_UNITS
from gradaxis.errors import GradaxisError, MissingInputError

PROBE = "efficiency"
METRICS = ("efficiency", "efficiency_direction", "efficiency_noise", "efficiency_rank")
GEOMETRY = ("geometry_efficiency", "geometry_direction", "geometry_noise", "geometry_rank")
HIDDEN = "noise hides it at this number of {}"
GIVEN = "95 %, Student over prompts, these prompts taken as given"
JACKKNIFE = "95 %, Fieller's interval from a jackknife over prompts"


def measure(evidence: Evidence) -> list[Measurement]:
    """For each method its efficiency with the two factors, its rank, and what it pays in sampled tokens.

    At equal sampled tokens a method that needs c times the tokens of these rollouts gets 1/c of the updates' prompts,
    and so c times the noise; groups that its selection drops stand among the rollouts and are paid for by that.
    """
    if evidence.products is None:
        return without_products(evidence, PROBE, METRICS)
    rows = _at_equal_tokens(evidence)
    return rows + (_at_geometry(evidence) if evidence.geometry is not None else [])


def _at_equal_tokens(evidence: Evidence) -> list[Measurement]:
    bases = {label: _base(evidence, label) for label in evidence.candidates}
    if evidence.target is None:
        needs = ("a policy that can be enumerated, or rollouts sampled from the policy itself",)
        return [not_assessed(replace(base, metric=metric), evidence.no_target, needs)
                for base in bases.values() for metric in METRICS]  # fmt: skip
    keys = {label: evidence.key(label, TASK) for label in evidence.candidates}
    given = evidence.groups is not None and evidence.target == EXACT and evidence.has_groups(*keys.values())
    units, more = ("groups", "--groups") if given else ("prompts", "--prompts")
    rows: list[Measurement] = []
    found: dict[str, Moments] = {}
    for label, base in bases.items():
        if given and evidence.groups is not None:
            base = bases[label] = replace(base, n=len(evidence.groups.strata.of))
        problem = evidence.too_few_groups(label) if given else evidence.too_few_units(label)
        if problem:
            rows += _unresolved(base, METRICS, problem, f"draw more {units} ({more})")
            continue
        if not evidence.of(keys[label]).any():
            reason = "its gradient is zero on these rollouts"
            rows += [not_assessed(replace(base, metric=metric), reason) for metric in METRICS]
            continue
        try:
            cost = draw_cost(evidence.batch) * greedy_cost(
                evidence.candidates[label], evidence.batch, _groups(evidence)
            )
        except MissingInputError as error:
            rows += [not_assessed(replace(base, metric=metric), str(error), (error.column,), error.remedy)
                     for metric in METRICS]  # fmt: skip
            continue
        found[label] = _moments(evidence, label, given).with_noise(cost)
        rows.append(plain(replace(base, metric="sampling_cost", unit="ratio"), cost))
    how = BETWEEN_GROUPS if given else GIVEN if evidence.target == EXACT else JACKKNIFE
    return rows + _rows(found, bases, METRICS, how, HIDDEN.format(units))


def _at_geometry(evidence: Evidence) -> list[Measurement]:
    assert evidence.geometry is not None
    geometry, batch = evidence.geometry.geometry, evidence.batch
    words = f"an update of your run: {geometry.text}"
    if geometry.update > evidence.n:
        words += f"; extrapolated from {evidence.n} prompts by the noise alone"
    bases = {label: replace(_base(evidence, label), part=words) for label in evidence.candidates}
    if evidence.target is None:
        return [not_assessed(replace(base, metric=metric), evidence.no_target)
                for base in bases.values() for metric in GEOMETRY]  # fmt: skip
    target = evidence.of(evidence.target)
    rows: list[Measurement] = []
    found: dict[str, Moments] = {}
    for label, base in bases.items():
        candidate = evidence.candidates[label]
        products = evidence.at_geometry.get(label)
        if products is None:
            reason = evidence.geometry.refused.get(label) or evidence.outside.get((label, AT_GEOMETRY), "not measured")
            rows += [not_assessed(replace(base, metric=metric), reason) for metric in GEOMETRY]
            continue
        step = min(geometry.prompts, evidence.n)
        if candidate.task.couples == "batch" and step < FEWEST_UNITS:
            problem = f"it couples the batch, and its units are trusted from {FEWEST_UNITS} prompts a step on"
            rows += _unresolved(base, GEOMETRY, f"{problem}; here are {step}")
            continue
        if not products.own.any():
            reason = "its gradient is zero on these rollouts"
            rows += [not_assessed(replace(base, metric=metric), reason) for metric in GEOMETRY]
            continue
        try:
            kept = (
                kept_share(candidate, batch, evidence.units) if refills(candidate) else Kept(1.0, np.ones(evidence.n))
            )
            tokens = greedy_cost(candidate, batch) * tokens_a_group(batch) * geometry.update * draw_cost(batch)
        except GradaxisError as error:
            rows += [not_assessed(replace(base, metric=metric), str(error)) for metric in GEOMETRY]
            continue
        # Of a refilled update all prompts are kept ones: it is what 1 / kept times as many drawn ones give.
        factor, without = kept.value / geometry.update, kept.without / geometry.update
        moments = moments_of_pairs(products.own, products.cross, target, products.squares)
        found[label] = moments.with_noise(factor, without)
        row = replace(base, metric="geometry_tokens", unit="tokens")
        rows.append(plain(row, tokens / kept.value if kept.value > 0 else math.inf, "every group is dropped"))
    return rows + _rows(found, bases, GEOMETRY, JACKKNIFE, HIDDEN.format("prompts"))


def _moments(evidence: Evidence, label: str, given: bool) -> Moments:
    assert evidence.target is not None, "ask for the target first"
    key, target = evidence.key(label, TASK), evidence.target
    own, cross = evidence.of(key), evidence.of(key, target)
    if given and evidence.groups is not None:
        return moments_given(given_of(evidence, key), evidence.by_group(key), evidence.groups.strata)
    if target == EXACT:
        return moments_on_known(residual_of(evidence, key), own, cross)
    return moments_of_means(own, cross, evidence.of(target))


def _rows(
    found: Mapping[str, Moments], bases: Mapping[str, Measurement], metrics: tuple[str, ...], how: str, hidden: str
) -> list[Measurement]:
    """Efficiency, its factors and ranks of the methods that could be measured."""
    rows: list[Measurement] = []
    for label, moments in found.items():
        estimates = efficiency_of(moments), direction_of(moments), steadiness_of(moments)
        rows += [fill(replace(bases[label], metric=metric, unit="share"), estimate, how, hidden)
                 for metric, estimate in zip(metrics, estimates, strict=False)]  # fmt: skip
    scores = {label: roots(moments) for label, moments in found.items()}
    sound = {label: score for label, score in scores.items() if np.isfinite(score[0]) and np.isfinite(score[1]).all()}
    rows += [row for label in found if label not in sound for row in _unresolved(bases[label], metrics[3:], hidden)]
    if not sound:
        return rows
    labels = list(sound)
    values, without = np.array([score[0] for score in sound.values()]), np.stack([s[1] for s in sound.values()], axis=1)
    strata = found[labels[0]].strata  # one for all, since all are measured on the same units
    ranking = rank_methods(values, without, strata)
    best = int(np.argmax(values))
    for place, label in enumerate(labels):
        beside = [other for number, other in enumerate(labels) if number != place and not ranking.apart[place, number]]
        rows.append(replace(
            bases[label], metric=metrics[3], unit="rank", estimate=float(ranking.low[place]),
            low=float(ranking.low[place]), high=float(ranking.high[place]), interval=ranking.how,
            compared_with=", ".join(labels[:place] + labels[place + 1 :]),
            reason=f"not told apart from {', '.join(beside)}" if beside else "",
        ))  # fmt: skip
        if place != best:
            ratio = replace(bases[label], metric=metrics[0] + "_ratio", unit="ratio", compared_with=labels[best])
            rows.append(_beside(ratio, sound[label], sound[labels[best]], strata))
    return rows


def _beside(
    row: Measurement, one: tuple[float, Array], best: tuple[float, Array], strata: Strata | None
) -> Measurement:
    """The method's efficiency over that of the method with the largest estimate, paired, on the logarithm."""
    how = "95 %, jackknife of its logarithm, paired; of one row alone: the ranks count all pairs"
    logs = [(value, left) for value, left in (one, best) if value > 0 and np.all(left > 0)]
    if len(logs) < 2:
        return fill(row, Estimate(math.nan, Interval(0.0, math.inf, False)), how, "one of the two is not clear of zero")
    (value, left), (other, other_left) = logs
    log, log_left = 2 * math.log(value / other), 2 * np.log(left / other_left)
    half = half_width(log, log_left, strata)
    estimate = Estimate(math.exp(log), Interval(math.exp(log - half), math.exp(log + half)))
    return replace(fill(row, estimate, how), p_value=two_sided(log, log_left, strata))


def _base(evidence: Evidence, label: str) -> Measurement:
    declared = evidence.candidates[label].declared
    measured = f"the gradient without {', '.join(declared)}" if declared else "the whole gradient"
    return start(evidence, PROBE, "", label, compared_with=evidence.target_name, part=measured)


def _groups(evidence: Evidence) -> int:
    """Groups a prompt, of the prompts with the fewest."""
    return int(evidence.groups.strata.counts.min()) if evidence.groups is not None else 1


def _unresolved(base: Measurement, metrics: tuple[str, ...], reason: str, advice: str = "") -> list[Measurement]:
    row = replace(base, verdict="unresolved", reason=reason, advice=advice or "use more prompts (--prompts)")
    return [replace(row, metric=metric) for metric in metrics]
