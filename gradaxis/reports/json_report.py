"""The report as JSON with a stable schema: findings, and every row behind them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from gradaxis.diagnostics.measurements import to_json
from gradaxis.reports.cards import changed_slots, method_cards, side_text
from gradaxis.reports.findings import derive_findings, missing_findings
from gradaxis.reports.results import Results
from gradaxis.reports.sections.glossary import standing
from gradaxis.reports.sections.measured import command_of

SCHEMA = "gradaxis-report/1"


def report_data(results: Results) -> dict[str, Any]:
    """Plain data. Keys are only ever added within one schema version; an open interval end is "inf" or "-inf"."""
    cards = method_cards(results)
    return {
        "schema": SCHEMA,
        "verdict": [asdict(finding) for finding in derive_findings(results)],
        "not_assessed": [asdict(finding) for finding in missing_findings(results)],
        "points": list(results.points),
        "methods": [
            {
                "label": label,
                "id": cards.get(label, {}).get("id"),
                "name": cards.get(label, {}).get("name"),
                "extends": cards.get(label, {}).get("extends"),
                "side": side_text(cards.get(label, {})),
                "side_vs_grpo": side_text(cards.get(label, {}), "grpo"),
                "side_vs_reinforce": side_text(cards.get(label, {}), "reinforce"),
                "slots": changed_slots(cards.get(label, {})),
            }
            for label in results.methods
        ],
        "standing": dict(standing(results)),
        "command": command_of(results.config),
        "config": results.config,
        "provenance": results.provenance,
        "measurements": [to_json(asdict(row)) for row in results.rows],
    }


def render_json(results: Results) -> str:
    """The report as indented JSON text."""
    return json.dumps(report_data(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
