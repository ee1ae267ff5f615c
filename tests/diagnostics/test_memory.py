"""Limits of memory: how they are written, and that a whole probe keeps to one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradaxis.diagnostics import ExperimentConfig
from gradaxis.diagnostics.sizes import parse_memory
from gradaxis.diagnostics.storage import read_json

PEAK = (
    "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
    "print(done.stderr[-2000:], file=sys.stderr); "
    "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
)
"""Runs a command in a process of its own, whose only child it is, and prints its exit code and largest memory."""


def run(limit: str, output: Path) -> tuple[int, int, str]:
    text = (
        "-m gradaxis probe --model embedded:policy --task arithmetic --methods dr-grpo,dapo --prompts 8 --no-enumerate"
    )
    words = [sys.executable, *text.split(), "--memory", limit, "--output", str(output)]
    found = subprocess.run([sys.executable, "-c", PEAK, *words], check=True, capture_output=True, text=True)
    code, peak = map(int, found.stdout.split())
    return code, peak, found.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [("6GB", 6 * 10**9), ("512 MiB", 512 * 2**20), ("1.5gb", 1_500_000_000), ("1000000", 10**6), (7, 7), (None, None)],
)
def test_amounts(text: str | int | None, expected: int | None) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["six", "6 bananas", "-1GB", "0", "GB", ""])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 6GB"):
        parse_memory(text)
    with pytest.raises(ValueError, match="such as 6GB"):
        ExperimentConfig(policy="embedded:policy", task="arithmetic", memory=text)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from Linux")
def test_a_probe_keeps_to_its_limit(tmp_path: Path) -> None:
    code, peak, errors = run("1.2GB", tmp_path / "results")
    assert code == 0, errors
    assert peak <= 1.2e9
    backend = read_json(tmp_path / "results" / "provenance.json")["points"]["fresh"]["gram"]["backend"]
    assert backend["mode"] == "exact"
    assert backend["exact"]["bytes"] <= backend["memory"] < 1.2e9
    assert backend["why"]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from Linux")
def test_a_limit_below_the_model_itself_is_refused(tmp_path: Path) -> None:
    code, _, errors = run("100MB", tmp_path / "results")
    assert code == 1
    assert "memory: got 0.10 GB" in errors
    assert "sampling one answer" in errors
