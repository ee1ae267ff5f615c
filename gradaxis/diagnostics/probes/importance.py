"""Importance weights: how far the policy has moved from the one that sampled, and which tokens each method clips."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.candidates import Candidate
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, judge, not_assessed
from gradaxis.diagnostics.probes.rows import OWN_RULE, fill, plain, start
from gradaxis.diagnostics.statistics import Array, Estimate, jackknife_interval
from gradaxis.diagnostics.variants import replace_slots
from gradaxis.errors import GradaxisError, MissingInputError
from gradaxis.estimators import compile

PROBE = "importance"
FAILURE = "stale-samples"


def measure(evidence: Evidence) -> list[Measurement]:
    """Effective sample size of sequence and token weights, the log-ratio, and for each method what its trust region
    changes, by the sign of the advantage and the side of the ratio.

    ESS/N = (Σw)² / (N Σw²), in expectation 1 / (1 + χ²) of the policy against the one that sampled.
    """
    base = start(evidence, PROBE, "ess", slot="ratio", failure=FAILURE, unit="share")
    batch = evidence.batch
    anchor = "behavior_logp" if "behavior_logp" in batch.columns else "old_logp"
    try:
        log_ratio = (batch.column("logp") - batch.column(anchor)).double().cpu().numpy()
    except MissingInputError as error:
        return [not_assessed(base, str(error), (error.column,), error.remedy)]
    mask = batch.mask.cpu().numpy()
    log_ratio = np.where(mask, log_ratio, 0.0)
    rows = [_sample_size(base, np.exp(log_ratio.sum(1)), evidence, "sequence weights")]
    rows.append(_sample_size(base, np.exp(log_ratio), evidence, "token weights", mask))
    tokens = log_ratio[mask]
    ratio = replace(base, unit="nats", part="tokens")
    rows.append(plain(replace(ratio, metric="mean_log_ratio"), float(tokens.mean()) if tokens.size else math.nan))
    largest = float(np.abs(tokens).max()) if tokens.size else math.nan
    rows.append(plain(replace(ratio, metric="largest_log_ratio"), largest))
    for candidate in evidence.candidates.values():
        rows += _clipped(evidence, candidate, log_ratio, mask)
    return rows


def _sample_size(
    base: Measurement, weights: Array, evidence: Evidence, part: str, mask: Array | None = None
) -> Measurement:
    counted = np.ones(len(weights)) if mask is None else mask.sum(1)
    kept = weights if mask is None else weights * mask
    sums = [
        np.bincount(evidence.units, values.reshape(len(values), -1).sum(1), evidence.n)
        for values in (kept, kept**2, counted)
    ]

    def share(first: Array, second: Array, count: Array) -> Array:
        return first**2 / (count * second)

    whole = [part.sum() for part in sums]
    if whole[2] == 0:
        return not_assessed(replace(base, part=part), "the rollouts hold no policy token")
    value = float(share(*whole))
    without = share(*(total - part for total, part in zip(whole, sums, strict=True)))
    row = fill(
        replace(base, part=part), Estimate(value, jackknife_interval(value, without)), "95 %, jackknife over prompts"
    )
    if row.verdict == "unresolved" or mask is not None:
        return row
    row = judge(row, low_is_good=False, watch=0.5, bad=0.1, source=OWN_RULE)
    advice = "sequence weights rest on few samples: take fewer steps a batch, or sample anew"
    return replace(row, advice=advice if row.verdict in ("watch", "bad") else "")


def _clipped(evidence: Evidence, candidate: Candidate, log_ratio: Array, mask: NDArray[np.bool_]) -> list[Measurement]:
    """The share of tokens whose weight the method's trust region changes, by sign of A and side of the ratio."""
    method = candidate.method
    base = start(evidence, PROBE, "clip_fraction", method.label, slot="trust_region", failure=FAILURE,
                 unit="share of policy tokens")  # fmt: skip
    if not method.slots["trust_region"]:
        return [replace(base, reason="it has no trust region")]
    try:
        free = replace_slots(method, f"{method.label} without trust region", evidence.registry.methods, trust_region=())
        unclipped = compile(free).coefficients(evidence.batch).omega.detach().double().cpu().numpy()
    except GradaxisError as error:
        return [not_assessed(base, f"its weights without the trust region are not known: {error}")]
    assert candidate.coefficients is not None
    omega = candidate.coefficients.omega.detach().double().cpu().numpy()
    advantage = candidate.coefficients.advantage.detach().double().cpu().numpy()
    changed = mask & ~np.isclose(omega, unclipped, rtol=1e-5, atol=0.0)
    if "sequence" in {placed.parameters.get("unit") for placed in method.slots["ratio"]}:
        log_ratio = np.broadcast_to(log_ratio.sum(1, keepdims=True), log_ratio.shape)
    rows = [plain(base, float(changed.sum() / mask.sum()) if mask.any() else math.nan)]
    for sign, chosen in (("positive", advantage > 0), ("negative", advantage < 0)):
        for side, beyond in (("above", log_ratio > 0), ("below", log_ratio < 0)):
            share = float((changed & chosen & beyond).sum() / mask.sum()) if mask.any() else math.nan
            rows.append(plain(replace(base, part=f"{sign} advantage, {side}"), share))
    return rows
