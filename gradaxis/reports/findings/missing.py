"""What was not assessed, as findings of their own: a gap is never silence."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement
from gradaxis.reports.document import NO_REMEDY, Finding
from gradaxis.reports.format import clean_text, format_list
from gradaxis.reports.metrics import ASSESSED, in_words
from gradaxis.reports.results import Results
from gradaxis.reports.values import remedy_of, subject_of


def missing_findings(results: Results) -> tuple[Finding, ...]:
    """One entry for every distinct reason and remedy among the rows `not assessed`; whole methods and
    gaps with a remedy come first.
    """
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for row in results.select(verdict="not assessed"):
        groups.setdefault((clean_text(row.reason), remedy_of(row)), []).append(row)
    found = []
    for (reason, remedy), rows in groups.items():
        methods = list(dict.fromkeys(row.method for row in rows))
        metrics = list(dict.fromkeys(in_words(row.metric) for row in rows))
        subject = format_list(list(dict.fromkeys(subject_of(row) for row in rows)), limit=5)
        whole = metrics == [ASSESSED]
        found.append(
            Finding(
                kind="method" if whole else "quantity",
                text=f"{'' if whole else f'{format_list(metrics, limit=3)} of '}{subject}: {reason}",
                standing="not assessed",
                certainty="Nothing is claimed, good or bad.",
                methods=tuple(label for label in methods if label),
                points=tuple(dict.fromkeys(row.point for row in rows)),
                remedy=remedy or NO_REMEDY,
            )
        )
    return tuple(sorted(found, key=lambda gap: (gap.kind != "method", gap.remedy == NO_REMEDY)))
