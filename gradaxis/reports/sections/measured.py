"""What was measured, with what, and the command that does it again."""

from __future__ import annotations

import shlex
from typing import Any

from gradaxis.diagnostics.config import ExperimentConfig
from gradaxis.diagnostics.measurements import Measurement
from gradaxis.reports.document import Block, Code, Items, Paragraph, Section
from gradaxis.reports.format import clean_text, format_list, format_number
from gradaxis.reports.metrics import COSINE
from gradaxis.reports.points import name_point
from gradaxis.reports.results import Results

FLAGS = {"policy": "model", "functionals": "functional"}
REPEATED = ("functionals",)
"""Fields whose flag is given once for each value."""

NOT_ASKED = {"fingerprint"}


def measured_section(results: Results) -> Section:
    """Models, task, sizes, points, exact or estimated, versions, seed, and the command."""
    entries = [
        ("models", _models(results)),
        ("task", clean_text(results.config.get("task") or results.config.get("rollouts") or "")),
        ("rollouts", _sizes(results)),
        ("points", format_list([name_point(point) for point in results.points])),
        ("methods", f"{len(results.methods)}: {format_list([clean_text(label) for label in results.methods])}"),
        ("target of bias", _targets(results)),
        ("gradients", _gradients(results)),
        ("directions", _directions(results)),
        ("sampling", _sampling(results.config)),
        ("seed", clean_text(results.config.get("seed", ""))),
        ("versions", _versions(results.provenance)),
        ("time", _time(results.provenance)),
        ("fingerprint", clean_text(results.config.get("fingerprint", ""))),
    ]
    blocks: list[Block] = [Items(tuple((term, text) for term, text in entries if text))]
    command = command_of(results.config)
    if command:
        blocks += [Paragraph("The same again:"), Code(command)]
    return Section("measured", "What was measured", tuple(blocks))


def command_of(config: dict[str, Any]) -> str:
    """The command line that asks for a stored configuration; empty when none is stored.

    >>> command_of({"policy": "./model", "task": "arithmetic", "prompts": 32})
    'gradaxis probe --model ./model --task arithmetic --prompts 32 --output results'
    """
    asked = {name: value for name, value in config.items() if name not in NOT_ASKED}
    if not asked:
        return ""
    demo = ExperimentConfig.demo().model_dump(mode="json", exclude_unset=True)
    is_demo = all(asked.get(name) == value for name, value in demo.items())
    words = ["gradaxis", "demo" if is_demo else "probe"]
    for name, value in asked.items():
        field = ExperimentConfig.model_fields.get(name)
        if (is_demo and name in demo) or (field is not None and value == _plain(field.default)) or value is None:
            continue
        flag = FLAGS.get(name, name).replace("_", "-")
        for one in value if name in REPEATED else (value,):
            words += _flag(flag, one)
    return shlex.join([*words, *([] if is_demo else ["--output", "results"])])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", ",".join(clean_text(item) for item in value)]
    return [f"--{name}", clean_text(value)]


def _models(results: Results) -> str:
    roles = ("policy", "behavior", "reference", "teacher", "critic")
    named = [(role, results.config.get(role)) for role in roles]
    return "; ".join(f"{role} {clean_text(name)}" for role, name in named if name)


def _sizes(results: Results) -> str:
    if "prompts" not in results.config:
        return ""
    prompts, group, groups = (results.config.get(name, 1) for name in ("prompts", "group_size", "groups"))
    if results.config.get("rollouts"):
        counts = sorted({row.n for row in results.select(COSINE) if row.n is not None})
        return f"{counts[-1]} prompts" if counts else ""
    each = f"{groups} groups of {group}" if groups > 1 else f"{group}"
    return f"{prompts} prompts × {each} rollouts = {prompts * groups * group} sequences at each point"


def _targets(results: Results) -> str:
    found: dict[str, list[str]] = {}
    for row in results.select(COSINE):
        if row.compared_with:
            found.setdefault(clean_text(row.compared_with), []).append(row.point)
    named = {target: format_list(list(dict.fromkeys(points))) for target, points in found.items()}
    return "; ".join(f"{target} ({points})" for target, points in named.items())


def _gradients(results: Results) -> str:
    kinds = {bool(row.exact) for row in _with_gradients(results)}
    if not kinds:
        return "none: no policy was given, so that only coefficients and log-probabilities were read"
    words = {True: "exact over all chosen parameters", False: "projected to fewer columns, hence estimated"}
    how = format_list([words[kind] for kind in sorted(kinds, reverse=True)])
    text = f"inner products of per-prompt gradients, {how}"
    params = results.config.get("params")
    return f"{text}; parameters: {clean_text(params)}" if params else text


def _directions(results: Results) -> str:
    """Whose directions inner products speak of: plain steps, or Adam's."""
    points = (results.provenance.get("points") or {}).values()
    kinds = [product for point in points if (product := (point.get("gram") or {}).get("inner_product"))]
    if not kinds:
        return ""
    if kinds[0].get("kind") != "adam":
        return "those of plain gradient steps (SGD); --optimizer-state weighs them by Adam's second moments"
    return f"weighed by Adam's second moments from {clean_text(kinds[0].get('file', ''))}"


def _with_gradients(results: Results) -> list[Measurement]:
    return [row for row in results.select(probe="variance") if row.exact is not None and row.verdict != "not assessed"]


def _sampling(config: dict[str, Any]) -> str:
    if "temperature" not in config or config.get("rollouts"):
        return ""
    top_k, top_p = config.get("top_k", 0), config.get("top_p", 1.0)
    parts = [f"temperature {format_number(config.get('temperature'))}"]
    parts.append("no top-k" if top_k == 0 else f"top-k {top_k}")
    parts.append("no top-p" if top_p == 1 else f"top-p {format_number(top_p)}")
    return ", ".join(parts)


def _versions(provenance: dict[str, Any]) -> str:
    versions = provenance.get("versions") or {}
    return ", ".join(f"{clean_text(name)} {clean_text(version)}" for name, version in versions.items())


def _time(provenance: dict[str, Any]) -> str:
    seconds = provenance.get("total_seconds")
    machine = provenance.get("machine") or {}
    if seconds is None:
        return ""
    where = f" on {clean_text(machine['device'])}" if "device" in machine else ""
    return f"{format_number(seconds)} s{where}"
