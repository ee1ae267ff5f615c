"""Coverage: a row for every method that could not be computed, with the input that would enable it."""

from __future__ import annotations

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import start

PROBE = "coverage"


def measure(evidence: Evidence) -> list[Measurement]:
    """One `not assessed` row an omitted method; none when every method was computed."""
    return [
        not_assessed(start(evidence, PROBE, "assessed", label), omitted.reason, omitted.needs, omitted.remedy)
        for label, omitted in evidence.omitted.items()
    ]
