"""Staleness: how far the policy has moved from the weights that sampled, both computed by one engine."""

from __future__ import annotations

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement
from gradaxis.diagnostics.points import ENGINES, kind_of
from gradaxis.diagnostics.probes.drift import drift_rows
from gradaxis.diagnostics.probes.rows import start

PROBE = "staleness"
FAILURE = "stale-samples"


def measure(evidence: Evidence) -> list[Measurement]:
    """`logp` beside `old_logp`: divergences, effective sample sizes, probabilities, perplexities; exact where listed.

    What another engine adds is no part of it: see the probe `mismatch`.
    """
    base = start(evidence, PROBE, "", slot="sampling", failure=FAILURE, part="policy beside its older weights")
    exact = None if kind_of(evidence.point) == ENGINES else evidence.exact_values.get("drift")
    return drift_rows(evidence, base, "logp", "old_logp", exact)
