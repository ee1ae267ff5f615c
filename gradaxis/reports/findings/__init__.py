"""The verdict: a few sentences derived from rows, as data. Each says how certain it is; none goes beyond its rows."""

from __future__ import annotations

from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import bias_finding
from gradaxis.reports.findings.coincidence import coincidence_finding
from gradaxis.reports.findings.entropy import entropy_finding
from gradaxis.reports.findings.missing import missing_findings
from gradaxis.reports.findings.ranking import ranking_finding
from gradaxis.reports.findings.signal import signal_finding
from gradaxis.reports.findings.silent import silent_finding
from gradaxis.reports.findings.slots import slot_finding
from gradaxis.reports.findings.staleness import staleness_finding
from gradaxis.reports.results import Results

MOST = 6
"""A verdict is read whole or not at all."""


def derive_findings(results: Results) -> tuple[Finding, ...]:
    """At most `MOST`, in the order of what they mean for a user, what was found before what was not.

    A question without rows is no finding; it stands among `missing_findings`.
    """
    found = (
        bias_finding(results),
        slot_finding(results),
        ranking_finding(results) or signal_finding(results),
        staleness_finding(results),
        silent_finding(results),
        coincidence_finding(results),
        entropy_finding(results),
    )
    known = [finding for finding in found if finding is not None]
    return tuple(sorted(known[:MOST], key=lambda finding: finding.standing != "finding"))


__all__ = ["derive_findings", "missing_findings"]
