"""How far the policy is from its reference: estimators of the KL, on whole answers and on tokens, with their spread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.functionals import FORWARD_KL, KL, Source
from gradaxis.diagnostics.kl_choices import k_estimates
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.first_order import mean_of
from gradaxis.diagnostics.probes.rows import fill, start
from gradaxis.diagnostics.statistics import Array, Estimate, Interval, jackknife_interval
from gradaxis.errors import MissingInputError

PROBE = "kl"
JACKKNIFE = "95 %, jackknife over prompts"
MEANS = {
    "k1": "KL(policy ‖ reference)",
    "k2": "biased: half the mean square of the log-ratio",
    "k3": "KL(policy ‖ reference)",
    "forward": "KL(reference ‖ policy)",
}
"""What each estimator has as its mean on the policy's own answers."""


def estimates(evidence: Evidence, difference: Tensor) -> list[Measurement]:
    """Mean and spread over answers of each estimator, of the whole answer and as a sum over tokens, and mean a token.

    Summed over tokens, k3 has the same mean as k1 (the chain rule of the KL), and `forward` the forward KL at contexts
    that the policy meets, which is not that of the answer. Stale answers carry the full product ratio.

    Args:
        difference: log π − log π_ref [N, T], nats, zero off the mask.
    """
    rows = _exact(evidence)
    base = start(evidence, PROBE, "kl_estimate", unit="nats an answer")
    try:
        ratio = Source.of_rollouts(evidence.batch, evidence.fresh).ratio
    except MissingInputError as error:
        return [*rows, not_assessed(base, str(error), (error.column,), error.remedy)]
    length = evidence.batch.length.double()
    whole = k_estimates(difference.sum(dim=1))
    tokens = {name: torch.where(evidence.batch.mask, part, 0.0) for name, part in k_estimates(difference).items()}
    for kind, parts in (("of the answer", whole), ("sum over tokens", {n: p.sum(dim=1) for n, p in tokens.items()})):
        for name, values in parts.items():
            if (name, kind) == ("k1", "sum over tokens"):
                continue  # it is k1 of the answer
            means = MEANS[name] + (" at the contexts met" if name == "forward" and kind == "sum over tokens" else "")
            row = replace(base, part=f"{name}, {kind}", reason=f"its mean: {means}")
            rows += _mean_and_spread(evidence, row, (ratio * values).cpu().numpy())
    for name, part in tokens.items():
        row = replace(base, metric="kl_estimate_per_token", unit="nats a token", part=name)
        rows.append(_per_token(evidence, row, (ratio * part.sum(dim=1)).cpu().numpy(), (ratio * length).cpu().numpy()))
    return rows


def _exact(evidence: Evidence) -> list[Measurement]:
    """Both divergences where all answers can be listed."""
    known = evidence.exact_values.get("functionals", {})
    row = replace(start(evidence, PROBE, "kl_value", unit="nats an answer"), interval="none: exact by enumeration")
    parts = (("reverse, KL(policy ‖ reference)", KL), ("forward, KL(reference ‖ policy)", FORWARD_KL))
    return [replace(row, part=part, estimate=float(known[name]), exact=True) for part, name in parts if name in known]


def _mean_and_spread(evidence: Evidence, row: Measurement, values: Array) -> list[Measurement]:
    """The mean over answers, and the standard deviation of one answer's estimate, both with a jackknife."""
    mean = mean_of(evidence, values)
    square = mean_of(evidence, values**2)
    spread = replace(row, metric="kl_standard_deviation")
    with np.errstate(invalid="ignore"):
        rest = np.sqrt(np.maximum(square.without - mean.without**2, 0.0))
    deviation = float(np.sqrt(max(square.value - mean.value**2, 0.0)))
    low, high, bounded = jackknife_interval(deviation, rest)
    found = Estimate(deviation, Interval(max(low, 0.0), high, bounded))
    return [
        _with_reason(row, Estimate(mean.value, jackknife_interval(mean.value, mean.without))),
        _with_reason(spread, found),
    ]


def _per_token(evidence: Evidence, row: Measurement, top: Array, bottom: Array) -> Measurement:
    """Σ estimate / Σ tokens over all answers."""
    above, below = mean_of(evidence, top), mean_of(evidence, bottom)
    if below.value == 0:
        return not_assessed(row, "the rollouts hold no policy token")
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = above.without / below.without
    value = above.value / below.value
    return _with_reason(row, Estimate(value, jackknife_interval(value, rest)))


def _with_reason(row: Measurement, estimate: Estimate) -> Measurement:
    """The row with its number; what the row says of itself stays beside any reason for `unresolved`."""
    found = fill(row, estimate, JACKKNIFE)
    if not row.reason or found.reason == row.reason:
        return found
    return replace(found, reason=f"{found.reason}; {row.reason}")
