"""The same data as headings, text and tables, for people. What draws them is somebody else's business."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradaxis.taxonomy.axes import SLOTS
from gradaxis.taxonomy.rows import Row, axis_slots


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 or 2."""

    text: str
    level: int = 1


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Grid:
    """A table of texts."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Verbatim:
    """Lines that are printed as they are."""

    text: str


Block = Heading | Paragraph | Grid | Verbatim


def value_text(value: Any) -> str:
    """A parameter's value as an entry writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def operator_text(row: Row) -> str:
    """`clip_ratio(low=0.2, high=0.28)` and what gates it."""
    inside = [f"{name}={value_text(value)}" for name, value in row["parameters"].items()]
    inside += [f"{key}={value_text(row[key])}" for key in ("over", "stage", "where") if row[key] is not None]
    label = row["operator"] if row["label"] == row["operator"] else f"{row['label']}: {row['operator']}"
    return f"{label}({', '.join(inside)})"


def list_page(rows: Sequence[Row]) -> list[Block]:
    """The table of `list`."""
    cells = tuple(
        (row["id"], row["family"], str(row["year"]), row["extends"] or "", side_text(row), " ".join(row["slots"]),
         " ".join(row["addresses"]), row["status"], "yes" if row["executable"] else "not yet")
        for row in rows
    )  # fmt: skip
    columns = ("id", "family", "year", "extends", "side", "slots that differ", "addresses", "status", "runs")
    return [Grid(columns, cells)]


def side_text(row: Row) -> str:
    """The side and what it compares with: `reward, relative to ppo; parameters only`."""
    reference = f", relative to {row['extends']}" if row["extends"] else ""
    return f"{row['side']}{reference}{'; parameters only' if row['parameters_only'] else ''}"


def show_page(row: Row) -> list[Block]:
    """One method in full."""
    paper = row["paper"] or {}
    source = ", ".join(filter(None, [paper.get("title"), f"arXiv {row['arxiv']}" if row["arxiv"] else None,
                                     f"equation {paper['equation']}" if paper.get("equation") else None]))  # fmt: skip
    blocks: list[Block] = [Heading(f"{row['name']} ({row['label']})"), Paragraph(row["summary"])]
    facts = [
        ("family", row["family"]), ("status", row["status"]), ("paper", source),
        ("lineage", " < ".join([row["id"], *row["lineage"]])), ("aliases", ", ".join(row["aliases"])),
        ("side", side_text(row)),
        ("side vs grpo", _relative(row, "grpo")), ("side vs reinforce", _relative(row, "reinforce")),
        ("claimed side", _claimed(row)), ("addresses", ", ".join(row["addresses"])),
        ("teacher enters at", ", ".join(row["teacher_entries"])),
        ("needs", ", ".join(dict.fromkeys(need["column"] for need in row["needs"]))),
        ("link", "" if row["link"] == "linear" else row["link"]),
        ("coincides with", ", ".join(row["coincides_with"])), ("runs", row["not_executable"] or "yes"),
    ]  # fmt: skip
    blocks.append(Grid(("what", "value"), tuple((name, text) for name, text in facts if text)))
    blocks += [Heading("Slots", 2), _slots_grid(axis_slots(row))]
    for name, slots in row["streams"].items():
        held = [("reward", slot, items) for slot, items in slots.items() if items]
        blocks += [Heading(f"Stream {name}", 2), _slots_grid(held)]
    if row["removed"]:
        cells = tuple((r["slot"], r["operator"], r["by"], r["why"] or "") for r in row["removed"])
        blocks += [Heading("Dropped", 2), Grid(("slot", "operator", "by", "why"), cells)]
    if row["couplings"]:
        cells = tuple((c["slot"], c["operator"], ", ".join(c["reads"])) for c in row["couplings"])
        blocks += [Heading("Couplings between the axes", 2), Grid(("slot", "operator", "reads"), cells)]
    if row["sources"]:
        blocks += [Heading("Sources of values", 2), Grid(("value", "source"), tuple(row["sources"].items()))]
    notes = [*row["notes"], *(f"outside: {o['what']}{' (' + o['effect'] + ')' if o['effect'] else ''}"
                              for o in row["outside"])]  # fmt: skip
    if notes:
        blocks += [Heading("Notes", 2), *(Paragraph(f"- {note}") for note in notes)]
    return blocks


def _relative(row: Row, key: str) -> str:
    side = row["relative"].get(key)
    return f"{side['side']}{'; parameters only' if side['parameters_only'] else ''}" if side else ""


def _claimed(row: Row) -> str:
    claimed = row["claimed_side"]
    if not claimed:
        return ""
    return f"{claimed['side']}, relative to {claimed['relative_to']} ({claimed['source']})"


def _slots_grid(slots: Sequence[tuple[str, str, list[Row]]]) -> Grid:
    cells = []
    for axis, slot, items in slots:
        if not items:
            cells.append((axis, slot, f"empty: {SLOTS[slot].empty}", "", ""))
        for item in items:
            cells.append((axis, slot, operator_text(item), item["inherited_from"] or "own", item["why"] or ""))
    return Grid(("axis", "slot", "operator", "from", "why"), tuple(cells))


def diff_page(row: Row) -> list[Block]:
    """The operators in which two methods differ."""
    numbers = "; parameters only" if row["parameters_only"] else ""
    blocks: list[Block] = [
        Heading(f"{row['a']} -> {row['b']}"),
        Paragraph(f"side of {row['b']}: {row['side']}, relative to {row['a']}{numbers}"),
    ]
    cells = []
    for d in row["differences"]:
        before = operator_text(d["a"]) if d["a"] else ""
        after = operator_text(d["b"]) if d["b"] else ""
        if d["change"] == "changed":
            before = ", ".join(f"{name}={value_text(pair[0])}" for name, pair in d["parameters"].items())
            after = ", ".join(f"{name}={value_text(pair[1])}" for name, pair in d["parameters"].items())
        cells.append((d["axis"], d["slot"], d["operator"], d["change"], before, after))
    if row["link"]:
        cells.append(("both", "link", "", "changed", *row["link"]))
    same = Paragraph("No slot differs.")
    blocks.append(Grid(("axis", "slot", "operator", "change", row["a"], row["b"]), tuple(cells)) if cells else same)
    return blocks


def failures_page(rows: Sequence[Row]) -> list[Block]:
    """The table of `failures` or `compounds`."""
    compound = any("demonstration" in row for row in rows)
    cells = []
    for row in rows:
        shown = (row["id"], row["axis"], " ".join(row["slots"]), " ".join(row["addressed_by"]), row["summary"])
        measured = "measured" if row.get("demonstration") else "not measured"
        cells.append((*shown, measured) if compound else shown)
    columns = ("id", "axis", "slots", "addressed by", "summary")
    return [Grid((*columns, "demonstration") if compound else columns, tuple(cells))]


def failure_page(row: Row) -> list[Block]:
    """One failure or compound in full."""
    blocks: list[Block] = [Heading(f"{row['name']} ({row['id']})"), Paragraph(row["summary"])]
    blocks += [Paragraph(row["mechanism"])] if row["mechanism"] else []
    facts = [
        ("axis", row["axis"]), ("slots", ", ".join(row["slots"])), ("made of", ", ".join(row.get("failures", []))),
        ("addressed by", ", ".join(row["addressed_by"])), ("measured by", ", ".join(row["probes"])),
    ]  # fmt: skip
    if "demonstration" in row:
        facts.append(("demonstration", value_text(row["demonstration"]) if row["demonstration"] else "not measured"))
    blocks.append(Grid(("what", "value"), tuple((name, text) for name, text in facts if text)))
    for title, lines in (("Symptoms", row["symptoms"]), ("Notes", row["notes"])):
        if lines:
            blocks += [Heading(title, 2), *(Paragraph(f"- {line}") for line in lines)]
    if row["evidence"]:
        papers = [(e["finding"], f"arXiv {e['paper']['arxiv']}" if e["paper"] else "") for e in row["evidence"]]
        blocks += [Heading("Evidence", 2), Grid(("finding", "source"), tuple(papers))]
    return blocks


def operators_page(rows: Sequence[Row]) -> list[Block]:
    """The table of `operators`, by axis and slot."""
    cells = tuple(
        (row["name"], f"{row['axis']}.{row['slot']}", " ".join(row["parameters"]), row["assumes"] or "",
         " ".join([*row["used_by"], *row["presets"]]))
        for row in rows
    )  # fmt: skip
    return [Grid(("name", "slot", "parameters", "assumes", "used by"), cells)]


def operator_page(row: Row) -> list[Block]:
    """One operator in full."""
    blocks: list[Block] = [Heading(f"{row['name']} ({row['axis']}.{row['slot']})"), Paragraph(row["summary"])]
    blocks += [Verbatim(row["equation"])] if row["equation"] else []
    facts = [
        ("assumes", row["assumes"] or ""), ("reduces to", row["reduces_to"] or ""), ("traps", row["traps"] or ""),
        ("reads", ", ".join(row["reads"])), ("of other samples", ", ".join(row["of_others"])),
        ("needs", ", ".join(row["needs"])),
        ("requires", ", ".join(row["requires"])), ("couples", value_text(row["couples"])),
        ("over", ", ".join(row["over"]["choices"]) if row["over"] else ""), ("stage", ", ".join(row["stages"])),
        ("law", row["law"] or ""), ("paper", row["source"] or (row["paper"]["title"] if row["paper"] else "")),
        ("used by", ", ".join(row["used_by"])), ("presets", ", ".join(row["presets"])),
        ("not yet", row["not_yet"] or ""),
    ]  # fmt: skip
    blocks.append(Grid(("what", "value"), tuple((name, text) for name, text in facts if text)))
    if row["parameters"]:
        cells = tuple((name, _kind(p), "must be given" if p["required"] else value_text(p["default"]), p["meaning"])
                      for name, p in row["parameters"].items())  # fmt: skip
        blocks += [Heading("Parameters", 2), Grid(("name", "type", "default", "meaning"), cells)]
    if row["notes"]:
        blocks += [Heading("Notes", 2), *(Paragraph(f"- {note}") for note in row["notes"])]
    return blocks


def _kind(parameter: Row) -> str:
    return " | ".join(parameter["choices"]) if parameter["choices"] else parameter["type"]


def validation_page(row: Row) -> list[Block]:
    """What `validate` found, every problem with its place."""
    found, files = len(row["problems"]), len(row["files"])
    blocks: list[Block] = [Verbatim(problem["shown"]) for problem in row["problems"]]
    blocks += [Paragraph(f"{note['id']} is valid, but {note['reason']}") for note in row["not_yet"]]
    counted = f"{files} file{'s' if files != 1 else ''}"
    return [*blocks, Paragraph(f"{counted}, {found or 'no'} problem{'s' if found != 1 else ''}")]


def new_page(row: Row) -> list[Block]:
    """What `new` wrote, and what to do next."""
    return [Paragraph(f"wrote {row['path']}: edit it, then run `gradaxis validate {row['path']}`")]
