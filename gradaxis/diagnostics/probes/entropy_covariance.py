"""The covariance law of entropy: in a tabular softmax dH = −Cov(log π, dz) (arXiv 2505.22617, theorem 1).

A policy-gradient step moves logits by the advantage, so tokens with a positive (log π − mean)(A − mean) lower the
entropy. That paper finds a few tokens with most of it, and acts on these.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.entropy_tokens import FAILURE, JACKKNIFE, PROBE, top_share
from gradaxis.diagnostics.probes.rows import fill, start
from gradaxis.diagnostics.statistics import Array, Estimate, Interval, jackknife_interval
from gradaxis.errors import MissingInputError

SHARES = (0.002, 0.02, 0.2)
"""The shares of tokens that table 1 of arXiv 2505.22617 looks at."""


def covariances(evidence: Evidence) -> list[Measurement]:
    """For each method the mean over policy tokens of c = (log π − mean)(A − mean), and how much of the positive part
    of c its largest 0.2, 2 and 20 % of tokens carry.
    """
    rows = []
    for label, candidate in evidence.candidates.items():
        row = start(evidence, PROBE, "logp_advantage_covariance", label, unit="nats times advantage",
                    failure=FAILURE)  # fmt: skip
        try:
            logp = evidence.batch.column("logp").double().cpu().numpy()
        except MissingInputError as error:
            rows.append(not_assessed(row, str(error), (error.column,), error.remedy))
            continue
        assert candidate.coefficients is not None
        advantage = candidate.coefficients.advantage.detach().double().cpu().numpy()
        mask = evidence.batch.mask.cpu().numpy()
        if not mask.any():
            rows.append(not_assessed(row, "the rollouts hold no policy token"))
            continue
        units = np.broadcast_to(evidence.units[:, None], mask.shape)[mask]
        rows += _of_method(row, logp[mask], advantage[mask], units, evidence.n)
    return rows


def _of_method(row: Measurement, logp: Array, advantage: Array, units: NDArray[np.int64], n: int) -> list[Measurement]:
    rows = [fill(row, covariance(logp, advantage, units, n), JACKKNIFE)]
    base = replace(row, metric="covariance_top_share", unit="share of the positive covariance")
    positive = np.maximum((logp - logp.mean()) * (advantage - advantage.mean()), 0.0)
    for share in SHARES:
        part = replace(base, part=f"top {100 * share:g} % of tokens")
        if share * len(logp) < 1:
            rows.append(not_assessed(part, f"fewer than {1 / share:.0f} tokens", (), "use more rollouts"))
        else:
            reason = "no token has a positive covariance"
            rows.append(fill(part, top_share(positive, units, n, share), JACKKNIFE, reason))
    return rows


def covariance(first: Array, second: Array, units: NDArray[np.int64], n: int) -> Estimate:
    """The covariance over tokens with a jackknife over prompts. Args: values of tokens [K], their prompts [K], n."""

    def sums(values: Array) -> Array:
        return np.bincount(units, values, n).astype(float)

    def found(count: Array, x: Array, y: Array, both: Array) -> Array:
        return both / count - x * y / count**2

    parts = sums(np.ones_like(first)), sums(first), sums(second), sums(first * second)
    value = float(found(*(part.sum() for part in parts)))
    rest = [part.sum() - part for part in parts]
    if np.any(rest[0] == 0):
        return Estimate(value, Interval(-math.inf, math.inf, False))
    return Estimate(value, jackknife_interval(value, found(*rest)))
