"""Writes the ledger of claims: each with the command that regenerates it, its scope, and whether it holds.

    python benchmarks/costs.py --output docs/costs.md
    python benchmarks/calibration.py --output docs/calibration.md
    python benchmarks/ledger.py --output docs/claims.md

Times and memory are measured here; claims of equality are the tests that hold them, run here; costs and calibration are
read from their pages, which the first two commands write. What is not claimed stands at the end.
"""

from __future__ import annotations

import argparse
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gradaxis.diagnostics.storage import atomic_path

GIGABYTE = 2**30


@dataclass(frozen=True)
class Claim:
    """One line of the ledger. `standing` is holds, mixed (in part) or refuted."""

    text: str
    command: str
    scope: str
    measured: str
    standing: str

    def line(self) -> str:
        """The claim as a row of the ledger."""
        return f"| {' | '.join((self.text, f'`{self.command}`', self.scope, self.measured, self.standing))} |"


TESTED = (
    ("Every entry equals a surrogate written by hand from the paper's equation, values and gradients",
     "tests/estimators/test_surrogates.py", "float64, to 1e-10; thirteen entries"),
    ("ω ⊙ A + ρ is the gradient that automatic differentiation gives", "tests/contracts", "every entry, to 1e-12"),
    ("The Gram matrix equals looped automatic differentiation",
     "tests/estimators/gradients", "seven architectures, tied and untied, LoRA, parameter subsets; CPU"),
    ("J, entropy, length and pass@k and their gradients are exact on tables, trees and the embedded transformer",
     "tests/estimators/policies", "against a walk in plain Python, finite differences and automatic differentiation"),
    ("The group oracle's mean and covariance equal brute force over all groups",
     "tests/diagnostics/oracle", "every entry, to 1e-12, at most 16 trajectories; joint counts of two prompts"),
    ("On the embedded transformer the intervals of signal, noise and cosine hold the exact values",
     "tests/diagnostics/test_embedded_truth.py", "every entry, fresh and a little stale; 32 prompts"),
    ("A report on rewards that are noise contains no finding", "tests/reports/test_pure_noise.py",
     "at least 95 % of runs"),
)  # fmt: skip
"""Claims that tests hold: text, tests and scope."""

NOT_CLAIMED = (
    "Equality with the code of other libraries: not tested yet.",
    "Results on CUDA: the code paths exist, and no GPU run stands behind this release.",
    "Half precision of the policy itself: untried; the self-test refuses a backend that disagrees with autograd.",
    "Intervals of noise under extreme staleness: where answers that a batch hardly ever holds carry most of the "
    "squared weight, no interval made of that batch can know of them. The rows of probe `importance` say when.",
    "That a forecast of one small step holds over a training run.",
    "Anything about models, tasks or rewards that were not probed.",
)


def run_command(words: Sequence[str]) -> tuple[float, float]:
    """Wall seconds of a gradaxis command and the largest peak memory of any command so far, in GB."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gradaxis", *words], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIGABYTE


def fastest(work: Callable[[], object], repeats: int) -> float:
    """The least of several wall times, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def claim_query() -> Claim:
    seconds = fastest(lambda: run_command(["list"]), repeats=7)
    return Claim("Queries answer in under 0.6 s", "gradaxis list", "the shipped registry", f"{seconds:.2f} s",
                 _standing([seconds < 0.6]))  # fmt: skip


def claim_demo() -> Claim:
    with tempfile.TemporaryDirectory() as folder:
        seconds, memory = run_command(["demo", "--output", folder])
    return Claim("The demo takes under 2 minutes and 3 GB", "gradaxis demo", "two cores, no GPU",
                 f"{seconds:.0f} s, {memory:.1f} GB", _standing([seconds < 120, memory < 3]))  # fmt: skip


def claim_of_tests(text: str, path: str, scope: str) -> Claim:
    """A claim that holds where its tests pass."""
    command = ["pytest", "-q", path]
    found = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    summary = re.sub(r" in [\d.]+s.*", "", found.stdout.strip().splitlines()[-1].strip("= "))
    return Claim(text, " ".join(command), scope, summary, _standing([found.returncode == 0]))


def claims_of_costs(page: Path) -> list[Claim]:
    """The rows of the page of costs that have a limit."""
    command = "python benchmarks/costs.py"
    found = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[4] in ("yes", "no"):
            what, model, measured, limit, holds = cells
            found.append(Claim(f"{what}: at most {limit}" if not limit.endswith("times") else f"{what}: {limit}",
                               command, model, measured, _standing([holds == "yes"])))  # fmt: skip
    return found


def claim_of_calibration(page: Path) -> Claim:
    """The verdict of the calibration page."""
    held, cells = map(int, re.findall(r"\*\*(\d+) of (\d+) cells meet the bar", page.read_text(encoding="utf-8"))[0])
    standing = "holds" if held == cells else "mixed" if held else "refuted"
    return Claim("Every interval covers, gives verdicts where it should, and is not much too wide",
                 "python benchmarks/calibration.py", "8, 32 and 128 prompts; noise over signal 0.1, 1 and 10",
                 f"{held} of {cells} cells meet the bar; docs/calibration.md names the others", standing)  # fmt: skip


def _standing(held: Sequence[bool]) -> str:
    return "holds" if all(held) else "mixed" if any(held) else "refuted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the Markdown file; the other pages lie beside it")
    output: Path = parser.parse_args().output
    claims = [claim_query(), claim_demo(), *claims_of_costs(output.with_name("costs.md"))]
    claims.append(claim_of_calibration(output.with_name("calibration.md")))
    claims += [claim_of_tests(*tested) for tested in TESTED]
    lines = [
        "# Ledger of claims",
        "",
        f"Written by `python benchmarks/ledger.py --output docs/claims.md` on {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}. Times are "
        "wall times of one run.",
        "",
        "| claim | command | scope | measured | standing |",
        "|---|---|---|---|---|",
        *(claim.line() for claim in claims),
        "",
        "## Not claimed",
        "",
        *(f"- {text}" for text in NOT_CLAIMED),
        "",
    ]
    with atomic_path(output) as path:
        path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
