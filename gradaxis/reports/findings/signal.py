"""Which method makes the most of a rollout: noise at equal progress along ∇J, paired on the same rollouts."""

from __future__ import annotations

from collections import Counter

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import OFF, more_prompts, name
from gradaxis.reports.format import clean_text, format_list
from gradaxis.reports.metrics import COSINE, EQUAL_GAIN
from gradaxis.reports.points import at_point, sentence
from gradaxis.reports.results import Results
from gradaxis.reports.values import certainty_of, write_quantity

LEAST = 0.01
"""A noise that differs by less is never headlined, however clear the difference is."""


def signal_finding(results: Results) -> Finding | None:
    """The least noisy method at each point beside the one that most are compared with. None without such rows."""
    rows = [row for row in results.select(EQUAL_GAIN) if row.verdict != "not assessed"]
    if not rows:
        return None
    base = Counter(row.compared_with for row in rows).most_common(1)[0][0]
    rows = [row for row in rows if row.compared_with == base]
    sentences, shown = [], []
    points = [point for point in results.points if any(row.point == point for row in rows)]
    for point in points:
        text, used = _at(results, point, [row for row in rows if row.point == point], clean_text(base))
        sentences.append(text)
        shown += used
    if len(points) > 1 and not shown:
        where = sentence(format_list([at_point(point) for point in points]))
        sentences = [f"{where} alike {_nothing(clean_text(base))}."]
    return Finding(
        kind="signal",
        text=" ".join(sentences),
        standing="finding" if shown else "no finding",
        certainty=certainty_of(shown or rows),
        methods=tuple(dict.fromkeys(row.method for row in shown)),
        points=tuple(dict.fromkeys(row.point for row in rows)),
        remedy="" if shown else more_prompts(results, results.points[0]),
    )


def _at(results: Results, point: str, rows: list[Measurement], base: str) -> tuple[str, list[Measurement]]:
    known = sorted((row for row in rows if is_number(row.estimate)), key=lambda row: row.estimate or 0.0)
    clear = [row for row in known if results.family.clear(row, 1.0)]
    less = [row for row in clear if (row.estimate or 0.0) < 1 - LEAST]
    more = [row for row in clear if (row.estimate or 0.0) > 1 + LEAST]
    parts = []
    if less:
        best = less[0]
        text = f"the best signal per rollout comes from {name(best)}: at equal progress along ∇J it has "
        text += f"{write_quantity(best)} times the noise of {base}, so it needs that many times its prompts"
        cosine = results.find(COSINE, best.method, point)
        if cosine is not None and cosine.verdict in OFF:
            text += ", though its direction is off"
        rivals = [name(row) for row in less[1:] if _overlap(row, best)]
        parts.append(text + (f"; {format_list(rivals, limit=4)} cannot be told from it" if rivals else ""))
    if more:
        worst = more[-1]
        parts.append(f"{name(worst)} is the noisiest ({write_quantity(worst)} times {base})")
    if not parts:
        parts.append(_nothing(base))
    return f"{sentence(at_point(point))} {'; '.join(parts)}.", [*less[:1], *more[-1:]]


def _nothing(base: str) -> str:
    return f"no method's noise at equal progress is clear of that of {base}"


def _overlap(first: Measurement, second: Measurement) -> bool:
    return first.low is not None and second.high is not None and first.low <= second.high
