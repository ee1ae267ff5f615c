"""Whole reports from a results folder: structure, escaping, the same numbers in every format, and bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from syrupy.assertion import SnapshotAssertion

from gradaxis.diagnostics.measurements import Measurement, write_measurements
from gradaxis.diagnostics.probes import PROBES
from gradaxis.diagnostics.testbeds import draw, evidence, load_testbed
from gradaxis.errors import InputError
from gradaxis.reports import metrics, write_report
from gradaxis.reports.assemble import build_document
from gradaxis.reports.document import Figure, Table
from gradaxis.reports.html import render_html
from gradaxis.reports.markdown import render_markdown
from gradaxis.reports.results import Results
from gradaxis.reports.sections import attribution
from gradaxis.reports.sections.measured import command_of
from gradaxis.reports.write import render_report
from gradaxis.taxonomy import load_registry


@pytest.fixture(scope="module")
def source(results: Results) -> str:
    return render_html(build_document(results))


def test_page_structure(source: str, read_page: Callable[[str], Any]) -> None:
    page = read_page(source)
    assert page.unbalanced == []
    assert page.repeated_ids() == []
    assert page.count("table") == page.count("caption") >= 6
    assert page.count("figure") == page.count("figcaption") == 6
    assert page.count("h1") == 1
    assert page.text("h2").startswith("Verdict")
    assert set(page.attributes("aria-labelledby")) <= set(page.attributes("id"))
    assert {attributes.get("scope") for tag, attributes in page.tags if tag == "th"} == {"col", "row"}


def test_page_is_self_contained(source: str, read_page: Callable[[str], Any]) -> None:
    page = read_page(source)
    assert page.count("script") == page.count("link") == page.count("iframe") == page.count("img") == 0
    assert page.attributes("src") == []
    assert {target[:1] for target in page.attributes("href")} == {"#"}
    assert {target[1:] for target in page.attributes("href")} <= set(page.attributes("id"))
    assert not re.search(r"https?://|@import|url\((?!#)", source)


def test_hostile_text_is_shown_and_not_run(source: str, results: Results, read_page: Callable[[str], Any]) -> None:
    page = read_page(source)
    assert "<script>alert('x')</script>" in page.text("h1")
    assert "<b>reason</b>" in page.text("td")
    markdown = render_markdown(build_document(results))
    prose = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    assert "<script>" not in prose
    assert "<b>" not in prose


def test_same_numbers_everywhere(source: str, results: Results, read_page: Callable[[str], Any]) -> None:
    """Every table cell of the document stands in the page and in the Markdown."""
    document = build_document(results)
    page_text, markdown = read_page(source).text(), render_markdown(document).replace("\\", "")
    cells = [
        part
        for section in document.sections
        for block in section.blocks
        if isinstance(block, Table)
        for row in block.rows
        for cell in row[1:]
        for part in (cell.text, cell.note)
        if part and "<" not in part
    ]
    assert len(cells) > 100
    assert [cell for cell in cells if cell not in page_text] == []
    assert [cell for cell in cells if cell not in markdown] == []
    assert [finding.text for finding in document.verdict if finding.text not in page_text] == []


def test_every_figure_says_what_it_shows(results: Results) -> None:
    figures = [b for section in build_document(results).sections for b in section.blocks if isinstance(b, Figure)]
    assert len(figures) == 6
    assert all(panel.alt and any(digit in panel.alt for digit in "0123456789") for f in figures for panel in f.panels)


def test_golden_page(source: str, snapshot: SnapshotAssertion) -> None:
    """Drawings are left out here: their coordinates belong to matplotlib's version."""
    assert re.sub(r"(<svg[^>]*>).*?(</svg>)", r"\1\2", source, flags=re.DOTALL) == snapshot


def test_golden_markdown(results: Results, snapshot: SnapshotAssertion) -> None:
    assert render_markdown(build_document(results)) == snapshot


def test_deterministic(source: str, results: Results) -> None:
    assert render_html(build_document(results)) == source


def test_json_schema(results: Results) -> None:
    data = json.loads(render_report(results, ".json"))
    assert list(data) == [
        "schema", "verdict", "not_assessed", "points", "methods", "standing", "command", "config", "provenance",
        "measurements",
    ]  # fmt: skip
    assert data["schema"] == "gradaxis-report/1"
    assert set(data["verdict"][0]) == {
        "kind", "text", "standing", "certainty", "methods", "points", "axis", "slot", "remedy", "advice",
    }  # fmt: skip
    assert set(data["measurements"][0]) == {field.name for field in fields(Measurement)}
    assert len(data["measurements"]) == len(results.rows)
    assert data["methods"][0] == {
        "label": "rloo", "id": "rloo", "name": "RLOO", "extends": "reinforce", "side": "reward, relative to reinforce",
        "side_vs_grpo": "", "side_vs_reinforce": "", "slots": ["baseline"],
    }  # fmt: skip
    assert "inf" in {row["high"] for row in data["measurements"]}


@pytest.mark.parametrize("suffix", [".html", ".md", ".json", ".HTML"])
def test_write_report(folder: Path, tmp_path: Path, suffix: str) -> None:
    target = write_report(folder, tmp_path / "deeper" / f"report{suffix}")
    assert target.stat().st_size > 1000
    assert [path.name for path in target.parent.iterdir()] == [target.name]  # no half-written file is left


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.html, \.md, \.json"):
        write_report(folder, tmp_path / "report.pdf")
    with pytest.raises(InputError, match="a results folder"):
        write_report(tmp_path / "absent", tmp_path / "report.html")
    with pytest.raises(InputError, match="measurements"):
        write_report(tmp_path, tmp_path / "report.html")
    write_measurements([], tmp_path)
    with pytest.raises(InputError, match="at least one row"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_rows_alone_make_a_report(tmp_path: Path, read_page: Callable[[str], Any]) -> None:
    """Without configuration, provenance or cards; the registry supplies the side of a method that it knows."""
    row = Measurement("coverage", "assessed", "rloo", verdict="not assessed", reason="no rows")
    write_measurements([row], tmp_path)
    page = read_page(write_report(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.unbalanced == []
    assert "rloo: no rows" in page.text("li")
    assert "relative to reinforce" in page.text("td")


def test_demo_command_is_short() -> None:
    from gradaxis.diagnostics.config import ExperimentConfig

    assert command_of(ExperimentConfig.demo().model_dump(mode="json")) == "gradaxis demo"
    assert command_of(ExperimentConfig.demo(seed=5).model_dump(mode="json")) == "gradaxis demo --seed 5"
    own = {"policy": "my model", "task": "arithmetic", "methods": "grpo,dapo[trust_region.high=0.3]"}
    expected = "gradaxis probe --model 'my model' --task arithmetic --methods 'grpo,dapo[trust_region.high=0.3]'"
    assert command_of(ExperimentConfig.model_validate(own).model_dump(mode="json")) == f"{expected} --output results"


def test_metrics_are_those_that_probes_write() -> None:
    registry, found = load_registry(), set()
    for point in ("fresh", "stale"):
        listing = load_testbed("eos", stale=point == "stale")
        batch = draw(listing, 4, 2, 4, torch.Generator().manual_seed(0))
        measured = evidence(listing, batch, registry.select("grpo,gspo,rloo,ppo"), registry, point,
                            attribution=True)  # fmt: skip
        found |= {row.metric for probe in PROBES.values() for row in probe(measured)}
    names = {
        *(metric.name for metric in (*metrics.COMPARED, *metrics.OF_ROLLOUTS)), "method_cosine", metrics.EQUAL_GAIN,
        metrics.TO_RESOLVE, metrics.ENTROPY_BY_POSITION, metrics.COINCIDING, metrics.SLOT_DIRECTION,
        metrics.SLOT_NOISE, metrics.SLOT_BIAS, metrics.RANK, metrics.EFFICIENCY_RATIO, metrics.FORECAST,
        metrics.FORECAST_PER_REWARD, metrics.FUNCTIONAL, metrics.KL_GAIN, metrics.KL_COSINE, metrics.KL_SIZE,
        *metrics.KL_ESTIMATES, metrics.NOISE_WITHIN, metrics.EFFECTIVE_RANK, *(name for name, _ in metrics.PLACES),
        *(f"{kind}_{name}" for kind in ("side_effect", "difference_in", "shapley") for name, _ in attribution.VALUES),
    }  # fmt: skip
    assert names - found <= {"kl_value", "exact_ess", "noise_share_by_layer"}  # of a model, or by its enumeration
