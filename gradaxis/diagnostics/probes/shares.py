"""Where a method's noise and signal sit: between prompts or within them, in which positions, in which layers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.evidence import WHOLE, Evidence
from gradaxis.diagnostics.lattice import Measured
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import fill, plain, start
from gradaxis.diagnostics.statistics import (
    Array,
    Estimate,
    Expansion,
    Interval,
    Pairs,
    ratio_interval,
    skewed_interval,
)
from gradaxis.diagnostics.statistics.expansions import from_leave_out

PROBE = "variance"
FAILURE = "gradient-variance"
WITHIN, BETWEEN, WITHIN_SHARE = "noise_within_prompts", "noise_between_prompts", "noise_share_within_prompts"
JACKKNIFE = "95 %, jackknife over prompts"
FIELLER = "95 %, Fieller's interval from a jackknife over prompts"
PLACE = re.compile(r"^(?P<layer>.*?\.?\d+)\.|^(?P<module>.*)\.[^.]+$")


def measure(evidence: Evidence, label: str) -> list[Measurement]:
    """The parts of tr Σ of one method that come from within prompts and from between them, and the shares of tr Σ and
    of |G|² by position and by layer.
    """
    base = start(evidence, PROBE, "", label, failure=FAILURE)
    measured = evidence.measured
    if measured is None:
        reason = "the parts of the noise were not asked for"
        return [not_assessed(replace(base, metric=metric), reason) for metric in (WITHIN, "noise_share_by_position")]
    whole = measured.whole.get(label)
    if whole is not None and not min(whole.trace_covariance(), *whole.leave_out_trace()) > 0:
        reason = "every unit gradient is the same, or zero, but for one at most"
        return [not_assessed(replace(base, metric=metric), reason) for metric in (WITHIN, "noise_share_by_position")]
    return [*_by_prompt(measured, base), *_by_position(measured, base), *_by_layer(evidence, base)]


def _by_prompt(measured: Measured, base: Measurement) -> Iterator[Measurement]:
    """Law of total variance: Cov(g) = E Cov(g | prompt) + Cov E(g | prompt), both without bias from two groups on.

    Within: the mean over prompts of s_p² / m_p, the variance of the mean of a prompt's m_p groups. Between: the rest of
    tr Σ, which may come out negative where there is little.
    """
    square = replace(base, unit="squared gradient")
    names = (WITHIN, BETWEEN, WITHIN_SHARE)
    if base.method not in measured.within or base.method not in measured.whole:
        reason = measured.lacking.get((base.method, "within"), "every prompt needs two groups or more")
        for name in names:
            yield not_assessed(replace(square, metric=name), reason, ("groups",), "draw more groups (--groups)")
        return
    within, whole = measured.within[base.method], measured.whole[base.method]
    n = len(within)
    parts = np.array([float(within.mean()), *((within.sum() - within) / (n - 1))])
    total = np.array([whole.trace_covariance(), *whole.leave_out_trace()])
    rows = (square, square, replace(square, unit="share of tr Σ"))
    for name, row, values in zip(names, rows, (parts, total - parts, parts / total), strict=True):
        estimate = Estimate(float(values[0]), skewed_interval(from_leave_out(float(values[0]), values[1:])))
        yield fill(replace(row, metric=name), estimate, JACKKNIFE)


def _by_position(measured: Measured, base: Measurement) -> Iterator[Measurement]:
    """tr Cov(g_b, g) / tr Σ and <G_b, G> / |G|² for the part g_b of the gradient at a range of positions."""
    row = replace(base, metric="noise_share_by_position", unit="share of tr Σ")
    signal = replace(base, metric="signal_share_by_position", unit="share of |G|²")
    found = measured.positions.get(base.method)
    if not found:
        reason = measured.lacking.get((base.method, "positions"), "its gradient is not measured here")
        yield from (not_assessed(one, reason, ("patterns by position",)) for one in (row, signal))
        return
    whole = measured.whole[base.method]
    for name, part in found.items():
        yield fill(replace(row, part=name), _noise_share(part, whole), FIELLER, "tr Σ is not clear of zero")
    for name, part in found.items():
        yield fill(replace(signal, part=name), _signal_share(part, whole), FIELLER, "|G|² is not clear of zero")


def _noise_share(part: Pairs, whole: Pairs) -> Estimate:
    parts = (from_leave_out(one.trace_covariance(), one.leave_out_trace()) for one in (part, whole))
    return _ratio(*parts)


def _signal_share(part: Pairs, whole: Pairs) -> Estimate:
    parts = (from_leave_out(one.inner_of_means(), one.leave_out_inner()) for one in (part, whole))
    return _ratio(*parts)


def _ratio(part: Expansion, whole: Expansion) -> Estimate:
    interval = ratio_interval(part, whole)
    if not interval.bounded or whole.value <= 0:
        return Estimate(math.nan, Interval(-math.inf, math.inf, False))
    return Estimate(part.value / whole.value, interval)


def _by_layer(evidence: Evidence, base: Measurement) -> Iterator[Measurement]:
    """The share of each layer in the noise of these unit gradients, and in |G|².

    Only two sums a parameter are kept, so that these are facts about this batch, without an interval.
    """
    row = replace(base, metric="noise_share_by_layer", unit="share of tr Σ")
    signal = replace(base, metric="signal_share_by_layer", unit="share of |G|²")
    key, n = (base.method, WHOLE), evidence.n
    if not any(key in sums for sums in evidence.by_parameter.values()):
        reason = evidence.no_layers or "sums by parameter were not stored with these inner products"
        yield from (not_assessed(one, reason, ("model",)) for one in (row, signal))
        return
    layers = sums_by_layer({name: sums[key] for name, sums in evidence.by_parameter.items() if key in sums})
    each, total = np.array(list(layers.values())).T
    parts: dict[str, Array] = {row.metric: each - total / n, signal.metric: (total - each) / (n - 1)}
    for one in (row, signal):
        values = parts[one.metric]
        for name, value in zip(layers, values, strict=True):
            share = float(value / values.sum()) if values.sum() > 0 else math.nan
            yield plain(replace(one, part=name), share, "the whole is not above zero on these rollouts")


def sums_by_layer(by_parameter: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Sums of parameters added up by layer: by what stands before the first number of a name and the number itself,
    or by the module where there is none.
    """
    found: dict[str, tuple[float, float]] = {}
    for parameter, (each, total) in by_parameter.items():
        match = PLACE.match(parameter)
        name = (match["layer"] or match["module"]) if match else parameter
        old = found.get(name, (0.0, 0.0))
        found[name] = old[0] + each, old[1] + total
    return found
