"""How the difference between a method and its base divides among the two sides, and among the single choices."""

from __future__ import annotations

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Block, Cell, Paragraph, Section, Table
from gradaxis.reports.format import clean_text
from gradaxis.reports.html import slug
from gradaxis.reports.points import at_point
from gradaxis.reports.results import Results
from gradaxis.reports.values import excludes, value_cell

VALUES = (
    ("orthogonal_bias_squared", "orthogonal bias²"),
    ("log_gain", "log gain"),
    ("log_noise", "log tr Σ"),
)
"""What is divided, by the ending of its metrics, and its heading."""

SHOWN = 24
LEVELS = (("trajectory", 0), ("trajectory", 1), ("reward", 0), ("reward", 1))
INTRO = (
    "Each choice is undone and redone among all the others on the same rollouts. The effect of a side is given where "
    "the other side is as in the base and where it is as in the method; where the two differ the sides interact. A "
    "Shapley value is the mean change over all orders in which the choices can be made, and the values of a method add "
    "up to its whole difference. Choices that have no meaning without one another move together. Above 0 a choice adds "
    "bias, gain or noise. Sampling is held as these rollouts have it."
)


def attribution_section(results: Results) -> Section:
    """For every point and value the sides, then the Shapley values, the largest first."""
    blocks: list[Block] = []
    for point in results.points:
        for metric, heading in VALUES:
            blocks += [table for table in (_sides(results, point, metric, heading),) if table is not None]
        blocks += [table for table in (_choices(results, point),) if table is not None]
    if not blocks:
        return Section(
            "attribution", "Which side, which choice", (Paragraph("Nothing was divided; see “Not assessed”."),)
        )
    return Section("attribution", "Which side, which choice", (Paragraph(INTRO), *blocks))


def _sides(results: Results, point: str, metric: str, heading: str) -> Table | None:
    rows = results.select(f"side_effect_{metric}", point=point)
    pairs = list(dict.fromkeys((row.method, row.compared_with) for row in rows if is_number(row.estimate)))
    body = []
    for method, base in pairs:
        cells = []
        for axis, level in LEVELS:
            other = "reward" if axis == "trajectory" else "trajectory"
            part = f"with the {other} side of {(base, method)[level]}"
            cells.append(value_cell(_find(rows, method, base, axis, part)))
        interaction = results.find(f"side_interaction_{metric}", method, point, compared_with=base)
        whole = results.find(f"difference_in_{metric}", method, point, compared_with=base)
        body.append((Cell(clean_text(method)), Cell(clean_text(base)), *cells, value_cell(interaction),
                     value_cell(whole)))  # fmt: skip
    if not body:
        return None
    header = (
        "method", "beside", "trajectory side, reward as in the base", "trajectory side, reward as in the method",
        "reward side, trajectory as in the base", "reward side, trajectory as in the method", "interaction",
        "whole difference",
    )  # fmt: skip
    caption = f"What each side does to the {heading} {at_point(point)}"
    return Table(f"sides-{slug(metric)}-{slug(point)}", caption, header, tuple(body))


def _find(rows: list[Measurement], method: str, base: str, axis: str, part: str) -> Measurement | None:
    wanted = (method, base, axis, part)
    return next((row for row in rows if (row.method, row.compared_with, row.axis, row.part) == wanted), None)


def _choices(results: Results, point: str) -> Table | None:
    """The Shapley values of every choice; those of the bias that are clear of zero first."""
    found: dict[tuple[str, str, str], dict[str, Measurement]] = {}
    for metric, _ in VALUES:
        for row in results.select(f"shapley_{metric}", point=point):
            if row.slot or row.part:
                found.setdefault((row.method, row.compared_with, row.slot or row.part), {})[metric] = row
    shown = [(key, rows) for key, rows in found.items() if any(is_number(row.estimate) for row in rows.values())]
    shown.sort(key=lambda item: tuple(-_size(item[1].get(metric)) for metric, _ in VALUES))
    if not shown:
        return None
    body = []
    for (method, base, choice), rows in shown[:SHOWN]:
        axis = next(iter(rows.values())).axis or "both"
        values = [value_cell(rows.get(metric)) for metric, _ in VALUES]
        body.append((Cell(clean_text(method)), Cell(clean_text(base)), Cell(clean_text(choice)), Cell(axis), *values))
    rest = len(shown) - len(body)
    note = f"{rest} weaker rows are left out here; the JSON report holds all." if rest else ""
    header = ("method", "beside", "choice", "side", *(heading for _, heading in VALUES))
    return Table(
        f"choices-{slug(point)}", f"Shapley values of the choices {at_point(point)}", header, tuple(body), note
    )


def _size(row: Measurement | None) -> float:
    """The size of a value; 0 where it is not clear of zero."""
    return abs(row.estimate or 0.0) if row is not None and excludes(row, 0.0) else 0.0
