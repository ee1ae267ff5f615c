"""Mismatch: how far the engine that sampled lies from the same weights as the trainer computes them.

It is no staleness: with the same weights on both sides a correction for old weights sees nothing of it, and it stays
when every batch is fresh.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, judge
from gradaxis.diagnostics.points import ENGINES, kind_of
from gradaxis.diagnostics.probes.drift import drift_rows
from gradaxis.diagnostics.probes.rows import start

PROBE = "mismatch"
LARGEST_ERROR = 1.05
SOURCE = "NeMo-RL's documentation of token_mult_prob_error"


def measure(evidence: Evidence) -> list[Measurement]:
    """`old_logp` beside `behavior_logp`: the same measures as of staleness.

    `mult_prob_error` is to stay near 1, and above 1.05 the engines are to be looked at (NeMo-RL).
    """
    base = start(evidence, PROBE, "", slot="sampling", part="trainer beside the engine that sampled")
    exact = evidence.exact_values.get("drift") if kind_of(evidence.point) == ENGINES else None
    return [_judged(row) for row in drift_rows(evidence, base, "old_logp", "behavior_logp", exact)]


def _judged(row: Measurement) -> Measurement:
    if row.metric != "mult_prob_error" or row.verdict != "not applicable":
        return row
    row = judge(row, low_is_good=True, watch=LARGEST_ERROR, bad=math.inf, source=SOURCE)
    advice = "compare the two engines' precision and kernels, or correct with the sampler's own log-probabilities"
    return replace(row, advice=advice if row.verdict == "watch" else "")
