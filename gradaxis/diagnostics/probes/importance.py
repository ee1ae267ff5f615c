"""Importance weights: how many samples the weights π/μ leave, how far they spread, and which tokens a method clips."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.drift_measures import MEASURES, drift_estimates, drift_sums, ratio_of_sums
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, judge, not_assessed
from gradaxis.diagnostics.probes.clipping import clipped
from gradaxis.diagnostics.probes.drift import JACKKNIFE, OVERFLOW, columns_of
from gradaxis.diagnostics.probes.rows import OWN_RULE, fill, plain, start
from gradaxis.diagnostics.statistics import Array
from gradaxis.errors import MissingInputError

PROBE = "importance"
FAILURE = "stale-samples"
LEVELS = {"sequence weights": "seq", "token weights": "token", "geometric-mean weights": "geometric"}
"""The weights of a level, as rows call them, and as measures do."""

OUTSIDE = (0.5, 2.0)
BINS = 16
"""Answers of more positions than this are cut into ten runs of positions."""


def measure(evidence: Evidence) -> list[Measurement]:
    """Effective sample size and χ² of sequence, token and geometric-mean weights; outlying ratios, over all tokens and
    by position; and for each method what its trust region changes, by sign of the advantage and the bound that acts.

    ESS/N = (Σw)² / (N Σw²), in expectation 1 / (1 + χ²) of the policy against the one that sampled: exact where both
    can be listed. The law that sampled is `behavior_logp`, or without it `old_logp`.
    """
    base = start(evidence, PROBE, "ess", slot="ratio", failure=FAILURE, unit="share")
    anchor = "behavior_logp" if "behavior_logp" in evidence.batch.columns else "old_logp"
    try:
        new, old = columns_of(evidence, "logp", anchor)
    except MissingInputError as error:
        return [not_assessed(base, str(error), (error.column,), error.remedy)]
    mask = evidence.batch.mask.cpu().numpy()
    log_ratio = np.where(mask, new - old, 0.0)
    rows = [*_sizes(evidence, base, new, old, mask), *_outliers(evidence, base, log_ratio, mask)]
    for candidate in evidence.candidates.values():
        rows += clipped(evidence, candidate, start(
            evidence, PROBE, "clip_fraction", candidate.method.label, slot="trust_region", failure=FAILURE,
            unit="share of policy tokens",
        ))  # fmt: skip
    return rows


def _sizes(evidence: Evidence, base: Measurement, new: Array, old: Array, mask: NDArray[np.bool_]) -> list[Measurement]:
    estimates = drift_estimates(drift_sums(new, old, mask, evidence.units))
    exact = evidence.exact_values.get("drift") or {}
    rows = []
    for part, level in LEVELS.items():
        for metric, name in (("ess", f"ess_{level}"), ("chi2", f"chi2_{level}")):
            row = replace(base, metric=metric, part=part, unit=MEASURES[name].unit)
            rows.append(fill(row, estimates[name], JACKKNIFE, OVERFLOW))
            if name in exact:
                known = replace(row, metric=f"exact_{metric}", n=None, exact=True, estimate=float(exact[name]))
                rows.append(replace(known, interval="none: exact by enumeration"))
    return [_judged(row) if (row.metric, row.part) == ("ess", "sequence weights") else row for row in rows]


def _judged(row: Measurement) -> Measurement:
    if row.verdict != "not applicable":
        return row
    row = judge(row, low_is_good=False, watch=0.5, bad=0.1, source=OWN_RULE)
    advice = "sequence weights rest on few samples: take fewer steps a batch, or sample anew"
    return replace(row, advice=advice if row.verdict in ("watch", "bad") else "")


def _outliers(evidence: Evidence, base: Measurement, log_ratio: Array, mask: NDArray[np.bool_]) -> list[Measurement]:
    """Mean and largest log-ratio, and the share of tokens whose ratio is outside [0.5, 2], over all and by position."""
    base = replace(base, part="tokens")
    tokens, nats = log_ratio[mask], replace(base, unit="nats")
    rows = [
        plain(replace(nats, metric="mean_log_ratio"), float(tokens.mean()) if tokens.size else math.nan),
        plain(replace(nats, metric="largest_log_ratio"), float(np.abs(tokens).max()) if tokens.size else math.nan),
    ]
    outside = mask & ((log_ratio < math.log(OUTSIDE[0])) | (log_ratio > math.log(OUTSIDE[1])))
    for part, first, last in [("tokens", 0, mask.shape[1]), *_runs(mask.shape[1])]:
        here, among = outside[:, first:last], mask[:, first:last]
        if not among.any():
            continue
        top, bottom = (np.bincount(evidence.units, of.sum(1), evidence.n) for of in (here, among))
        row = replace(base, metric="outlier_ratios", part=part, unit="share of policy tokens")
        rows.append(fill(row, ratio_of_sums(top, bottom), JACKKNIFE))
        if part != "tokens":
            largest = float(np.abs(log_ratio[:, first:last][among]).max())
            rows.append(plain(replace(nats, metric="largest_log_ratio", part=part), largest))
    return rows


def _runs(positions: int) -> list[tuple[str, int, int]]:
    """Runs of positions with their names: single ones in short answers, else ten of about one length."""
    if positions <= BINS:
        return [(f"position {place}", place, place + 1) for place in range(positions)]
    ends = [round(positions * tenth / 10) for tenth in range(11)]
    return [(f"positions {first} to {last - 1}", first, last) for first, last in pairwise(ends)]
