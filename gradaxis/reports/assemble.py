"""The whole report as a document: the verdict, then the sections in the order in which they are read."""

from __future__ import annotations

from gradaxis.reports.cards import method_cards
from gradaxis.reports.document import Document, Section
from gradaxis.reports.findings import derive_findings, missing_findings
from gradaxis.reports.format import clean_text, format_list
from gradaxis.reports.points import name_point
from gradaxis.reports.results import Results
from gradaxis.reports.sections.attribution import attribution_section
from gradaxis.reports.sections.charts import charts_section
from gradaxis.reports.sections.drift import drift_section
from gradaxis.reports.sections.forecast import forecast_section
from gradaxis.reports.sections.glossary import glossary_section
from gradaxis.reports.sections.kl import kl_section
from gradaxis.reports.sections.measured import measured_section
from gradaxis.reports.sections.methods import cards_section, methods_section
from gradaxis.reports.sections.missing import missing_section
from gradaxis.reports.sections.places import places_section
from gradaxis.reports.sections.ranking import ranking_section
from gradaxis.reports.sections.rollouts import rollouts_section
from gradaxis.reports.sections.slots import slots_section


def build_document(results: Results) -> Document:
    """The report of a run, ready to be drawn."""
    policy = results.config.get("policy") or results.config.get("rollouts") or ""
    task = results.config.get("task") or ""
    where = " on ".join(clean_text(part) for part in (policy, task) if part)
    points = format_list([name_point(point) for point in results.points])
    subject = f"{len(results.methods)} methods, {points}"
    version = (results.provenance.get("versions") or {}).get("gradaxis", "")
    return Document(
        title=f"Gradient report: {where}" if where else "Gradient report",
        subtitle=subject,
        verdict=derive_findings(results),
        gaps=missing_findings(results),
        sections=tuple(section for section in _sections(results) if section is not None),
        footer=f"Written by gradaxis {clean_text(version)} from stored measurements only.".replace("  ", " "),
    )


def _sections(results: Results) -> tuple[Section | None, ...]:
    """In the order in which they are read; None for one that has nothing to say on these points."""
    return (
        measured_section(results),
        rollouts_section(results),
        methods_section(results),
        ranking_section(results),
        charts_section(results),
        slots_section(results),
        attribution_section(results),
        forecast_section(results),
        kl_section(results),
        places_section(results),
        drift_section(results),
        missing_section(results),
        cards_section(results, method_cards(results)),
        glossary_section(results),
    )
