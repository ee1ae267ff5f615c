"""Measures what the README claims about time and memory, and writes the ledger of claims.

    python benchmarks/ledger.py --output docs/claims.md

Each claim stands with the command that regenerates it, its scope, and what was measured in this one run.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gradaxis.diagnostics.storage import atomic_path
from gradaxis.estimators import compile
from gradaxis.estimators.gradients import build_patterns, compute_gram
from gradaxis.estimators.policies import embedded_policy
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.scoring import score_columns
from gradaxis.estimators.rollouts.tasks import load_task

GIGABYTE = 2**30


@dataclass(frozen=True)
class Claim:
    """One line of the ledger. `limit` is what the README or the issue tracker promises, in words."""

    text: str
    command: str
    measured: str
    limit: str
    holds: bool


def line_of(claim: Claim) -> str:
    """The claim as a row of the ledger."""
    cells = (claim.text, f"`{claim.command}`", claim.measured, claim.limit, "yes" if claim.holds else "no")
    return f"| {' | '.join(cells)} |"


def run_command(words: list[str]) -> tuple[float, float]:
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
    return Claim("Queries answer fast", "gradaxis list", f"{seconds:.2f} s", "under 0.6 s", seconds < 0.6)


def claim_demo() -> Claim:
    with tempfile.TemporaryDirectory() as folder:
        seconds, memory = run_command(["demo", "--output", folder])
    measured = f"{seconds:.0f} s, {memory:.1f} GB"
    holds = seconds < 120 and memory < 3
    return Claim("The demo is quick", "gradaxis demo", measured, "under 2 minutes and 3 GB on two cores", holds)


def claim_gram() -> Claim:
    """The Gram matrix of one pattern a sequence, beside one forward and backward pass of the same batch."""
    policy, task = embedded_policy("policy"), load_task("arithmetic")
    batch = sample_rollouts(policy, task, task.prompts(24, 0), SamplingSettings())
    batch = score_columns(batch, policy=policy)
    total = compile("rloo[shaping.coefficient=0]").coefficients(_on_policy(batch)).total
    patterns = build_patterns([total])

    def plain() -> None:
        logp = policy.quantities(batch, ("logp",), grad=True)["logp"]
        torch.autograd.grad((logp * total["logp"]).sum(), list(policy.parameters().values()))

    def one_by_one() -> None:
        for row in range(batch.size):
            single = batch.rows([row])
            logp = policy.quantities(single, ("logp",), grad=True)["logp"]
            torch.autograd.grad((logp * total["logp"][row]).sum(), list(policy.parameters().values()))

    unit = fastest(plain, repeats=5)
    gram = fastest(lambda: compute_gram(policy, batch, patterns, mode="exact", test=False), repeats=5)
    loop = fastest(one_by_one, repeats=1)
    measured = f"{gram / unit:.1f} passes; a loop over sequences takes {loop / unit:.1f} without any inner product"
    text = f"The exact Gram matrix of {batch.size} sequences of the embedded model costs a few passes"
    return Claim(text, "python benchmarks/ledger.py", measured, "fewer passes than the loop", gram < loop)


def _on_policy(batch: RolloutBatch) -> RolloutBatch:
    logp = batch.column("logp")
    return batch.with_columns({"old_logp": logp, "ref_logp": logp})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the Markdown file of the ledger")
    output = parser.parse_args().output
    claims = [claim_query(), claim_gram(), claim_demo()]
    lines = [
        "# Ledger of claims",
        "",
        f"Written by `python benchmarks/ledger.py` on {platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}. Times are wall times of one run.",
        "",
        "| claim | command | measured | limit | holds |",
        "|---|---|---|---|---|",
        *map(line_of, claims),
        "",
    ]
    with atomic_path(output) as path:
        path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
