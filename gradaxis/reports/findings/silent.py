"""How many groups say nothing, to whom, and whether length and form carry the reward."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import is_number
from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import OFF, name
from gradaxis.reports.format import format_list, format_share
from gradaxis.reports.metrics import EXPECTED_SILENT, REWARD_VARIANCE, SILENT, SILENT_WEIGHT
from gradaxis.reports.points import at_point, sentence
from gradaxis.reports.results import Results
from gradaxis.reports.values import certainty_of, write_quantity


def silent_finding(results: Results) -> Finding | None:
    """The share of silent groups at the first point that has one, with the methods that get nothing from them."""
    row = next((row for row in results.select(SILENT) if is_number(row.estimate)), None)
    if row is None:
        return None
    expected = results.find(EXPECTED_SILENT, point=row.point)
    known = f" (expected {format_share(expected.estimate)})" if expected and is_number(expected.estimate) else ""
    weights = [w for w in results.select(SILENT_WEIGHT, point=row.point) if is_number(w.estimate)]
    deaf = [name(weight) for weight in weights if weight.estimate == 0]
    text = f"{at_point(row.point)} {write_quantity(row, share=True)} of the groups are silent{known}: "
    text += "every answer earns the same."
    if deaf:
        text += f" They give no policy gradient to {format_list(deaf, limit=5)}."
    explained = results.find(REWARD_VARIANCE, point=row.point, part="together")
    advice = row.advice
    if explained is not None and explained.verdict in OFF:
        text += f" Length and form explain {format_share(explained.estimate)} of the reward variance."
        advice = advice or explained.advice
    return Finding(
        kind="silent groups",
        text=sentence(text),
        standing="finding",
        certainty=certainty_of([row]),
        methods=tuple(weight.method for weight in weights if weight.estimate == 0),
        points=(row.point,),
        axis="reward",
        slot="selection",
        advice=f"{sentence(advice)}." if advice else "",
    )
