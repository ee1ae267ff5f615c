"""What the words mean, what is exact and what is estimated, and what the error rate covers."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import is_number
from gradaxis.reports.document import Items, Section
from gradaxis.reports.metrics import DEFINITIONS
from gradaxis.reports.results import Results
from gradaxis.reports.values import is_exact


def glossary_section(results: Results) -> Section:
    """Definitions, and the standing of the numbers."""
    entries = (*standing(results), *DEFINITIONS)
    return Section("definitions", "Definitions, and how far the numbers carry", (Items(entries),))


def standing(results: Results) -> tuple[tuple[str, str], ...]:
    """What is exact, what is estimated, what verdicts mean, and the family over which the error rate holds."""
    intervals = [row for row in results.rows if is_number(row.estimate) and row.interval.startswith("95 %")]
    judged = [row for row in results.rows if row.threshold is not None]
    exact = [row for row in results.rows if is_exact(row)]
    sources = sorted({row.threshold_source for row in judged if row.threshold_source})
    text = f"{len(intervals)} values here carry an interval that covers the truth 95 % of the time, each on its own. "
    text += f"The verdict counts them together. {results.family.text} The unit of independence is the prompt; methods "
    text += "are compared on the same rollouts."
    verdicts = "ok, watch, bad: the whole interval lies on one side of a threshold. unresolved: it does not decide. "
    verdicts += "not assessed: an input is missing, and nothing is claimed. A quantity without a threshold has no mark."
    enumerated = f"{len(exact)} values are known by enumeration, without sampling error; they are marked exact. "
    enumerated += "Inner products called exact (under “What was measured”) are so for the rollouts at hand; means over "
    enumerated += "other rollouts are still estimated."
    found = [("exact and estimated", enumerated), ("error rate", text), ("verdicts", verdicts)]
    if sources:
        found.append(("thresholds", f"{'; '.join(sources)}."))
    return tuple(found)
