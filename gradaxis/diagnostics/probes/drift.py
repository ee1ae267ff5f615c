"""Rows about how far two laws lie apart on the rollouts; what the probes `staleness` and `mismatch` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.drift_measures import MEASURES, drift_estimates, drift_sums
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import fill, plain
from gradaxis.diagnostics.statistics import Array
from gradaxis.errors import MissingInputError

JACKKNIFE = "95 %, jackknife over prompts"
OVERFLOW = "a ratio is beyond what a number holds, or the rollouts hold no policy token"


def columns_of(evidence: Evidence, new: str, old: str) -> tuple[Array, Array]:
    """Two columns of log-probabilities, float64 [N, T]. Raises MissingInputError where one is missing."""
    first, second = (evidence.batch.column(name).detach().double().cpu().numpy() for name in (new, old))
    return first, second


def drift_rows(
    evidence: Evidence, base: Measurement, new: str, old: str, exact: Mapping[str, float] | None
) -> list[Measurement]:  # fmt: skip
    """Every measure of `drift_measures` with an interval, the largest gap of a token's probability, and exact values.

    Args:
        base: what the rows have in common. new, old: the columns of the policy's and of the sampler's
            log-probabilities. exact: the measures from enumeration, where they are known of these two.
    """
    try:
        first, second = columns_of(evidence, new, old)
    except MissingInputError as error:
        row = replace(base, metric="k3_kl", unit=MEASURES["k3_kl"].unit)
        return [not_assessed(row, str(error), (error.column,), error.remedy)]
    mask = evidence.batch.mask.cpu().numpy()
    estimates = drift_estimates(drift_sums(first, second, mask, evidence.units))
    rows = [
        fill(replace(base, metric=name, unit=MEASURES[name].unit), estimate, JACKKNIFE, OVERFLOW)
        for name, estimate in estimates.items()
    ]
    gaps = np.abs(np.exp(first[mask]) - np.exp(second[mask]))
    largest = replace(base, metric="probs_diff_max", unit=MEASURES["probs_diff_mean"].unit)
    rows.append(plain(largest, float(gaps.max()) if gaps.size else np.nan, OVERFLOW))
    for name, value in (exact or {}).items():
        if name != "k3_kl":  # its mean is that of `kl`
            row = replace(base, metric=f"exact_{name}", unit=MEASURES[name].unit, n=None, exact=True)
            rows.append(replace(row, estimate=value, interval="none: exact by enumeration"))
    return rows
