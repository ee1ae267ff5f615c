"""What changes when the rollouts are not the policy's own."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Finding
from gradaxis.reports.findings.bias import OFF, assessed, judged, more_prompts, name
from gradaxis.reports.format import format_list, format_number, format_share
from gradaxis.reports.metrics import CLIPPED, GAIN, SAMPLE_SIZE, SEQUENCE_WEIGHTS
from gradaxis.reports.points import FRESH, at_point, sentence
from gradaxis.reports.results import Results
from gradaxis.reports.values import certainty_of, write_quantity


def staleness_finding(results: Results) -> Finding | None:
    """The directions at the last point beside the fresh ones. None unless both were measured."""
    others = [point for point in results.points if point != FRESH and assessed(results, point)]
    if not others or not assessed(results, FRESH):
        return None
    point = others[-1]
    before = {row.method: row for row in assessed(results, FRESH) if is_number(row.estimate)}
    after = [row for row in assessed(results, point) if is_number(row.estimate) and row.method in before]
    if not after:
        return Finding(
            kind="staleness",
            text=f"{sentence(at_point(point))}{_sample_size(results, point)} no direction is resolved, so that what "
            "staleness does to the methods is open.",
            standing="no finding",
            certainty=certainty_of(assessed(results, point)),
            points=(FRESH, point),
            remedy=more_prompts(results, point),
        )
    fell = [row for row in after if results.family.fell(before[row.method], row)]
    turned = sorted(fell, key=lambda row: row.estimate or 0.0)
    held = [row for row in judged(results, after) if row.verdict == "ok"]
    parts = [f"{at_point(point)}{_sample_size(results, point)} "]
    if turned:
        moves = format_list([_move(before[row.method], row) for row in turned], limit=3)
        parts[0] += f"the cosine with ∇J falls for {len(turned)} of {len(after)} methods: {moves}."
    else:
        parts[0] += "no method's cosine with ∇J falls by more than its intervals."
    shrunk = _shorter_steps(results, point)
    if shrunk:
        parts.append(shrunk)
    off = [row for row in judged(results, after) if row.verdict in OFF]
    if held:
        parts.append(f"Still along ∇J: {format_list([name(row) for row in held], limit=5)}.")
    elif off:
        parts.append("No method is shown to follow ∇J there.")
    clipped = _most_clipped(results, point)
    if clipped:
        parts.append(clipped)
    return Finding(
        kind="staleness",
        text=sentence(" ".join(parts)),
        standing="finding" if turned or held or shrunk else "no finding",
        certainty=certainty_of(turned or after),
        methods=tuple(row.method for row in turned),
        points=(FRESH, point),
        axis="trajectory",
    )


def clipped_shares(results: Results, point: str) -> dict[str, float]:
    """For each method with a trust region the share of tokens that it changes, whatever the sign and the bound."""
    rows = results.select(CLIPPED, point=point, part="")
    return {row.method: row.estimate for row in rows if row.estimate is not None and is_number(row.estimate)}


def _shorter_steps(results: Results, point: str) -> str:
    """The methods whose gain along ∇J falls by more than the intervals, the most first."""
    fresh = {row.method: row for row in results.select(GAIN, point=FRESH) if is_number(row.estimate)}
    rows = [row for row in results.select(GAIN, point=point) if is_number(row.estimate) and row.method in fresh]
    fell = [row for row in rows if results.family.fell(fresh[row.method], row)]
    fallen = sorted(fell, key=lambda row: row.estimate or 0.0)
    if not fallen:
        return ""
    moves = format_list([_move(fresh[row.method], row) for row in fallen], limit=3)
    return f"The step along ∇J (the gain) gets shorter for {len(fallen)} of {len(rows)}: {moves}."


def _move(before: Measurement, after: Measurement) -> str:
    return f"{name(after)} from {format_number(before.estimate)} to {write_quantity(after)}"


def _sample_size(results: Results, point: str) -> str:
    row = results.find(SAMPLE_SIZE, point=point, part=SEQUENCE_WEIGHTS)
    return f" (ESS/N {write_quantity(row, share=True)})" if row is not None and is_number(row.estimate) else ""


def _most_clipped(results: Results, point: str) -> str:
    shares = clipped_shares(results, point)
    if not shares or max(shares.values()) == 0:
        return ""
    label = max(shares, key=lambda method: shares[method])
    return f"The trust region of {label} acts on the most tokens ({format_share(shares[label])})."
