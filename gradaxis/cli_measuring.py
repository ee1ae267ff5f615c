"""The commands that measure: `demo`, `probe` and `report`. Heavy libraries are imported when a command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradaxis.errors import InputError

if TYPE_CHECKING:
    from gradaxis.diagnostics import ExperimentConfig
    from gradaxis.diagnostics.experiment import Progress

NOT_ASSESSED = 3
"""The exit code when no method could be assessed."""

ELSEWHERE = ("output", "model", "exact", "testbed", "stale", "hold_sampling")
"""Options of `probe` that its configuration does not hold under their own name."""

MethodsOption = Annotated[
    str, typer.Option(help="Ids, files and overrides in one line: grpo,./mine.yaml,'dapo[trust_region.high=0.3]'.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of problems, samples and projections.", min=0)]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps or auto.")]
PromptsOption = Annotated[int, typer.Option(help="Prompts; they are the unit of independence.", min=1)]
GroupSizeOption = Annotated[int, typer.Option(help="Rollouts that are compared with one another.", min=1)]
GroupsOption = Annotated[int, typer.Option(help="Groups a prompt; more of them narrow every interval.", min=1)]


def add_measuring_commands(app: typer.Typer) -> None:
    """Add the three commands to the application."""
    app.command(epilog="Example: gradaxis demo --output demo")(demo)
    example = "gradaxis probe --model embedded:policy --task arithmetic --methods dr-grpo,cispo --output results"
    app.command(epilog=f"Example: {example}")(probe)
    app.command(epilog="Example: gradaxis report results -o report.md")(report)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the results and the report.")] = Path(
        "demo"
    ),
    methods: MethodsOption = "all",
    prompts: PromptsOption = 24,
    group_size: GroupSizeOption = 8,
    groups: GroupsOption = 4,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Sample, probe and report on the embedded model, fresh and stale: one to two minutes on two cores."""
    from gradaxis.diagnostics import ExperimentConfig

    config = ExperimentConfig.demo(
        methods=methods, prompts=prompts, group_size=group_size, groups=groups, seed=seed, device=device
    )
    _run(config, output)


def probe(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the results and the report.")],
    model: Annotated[
        str | None, typer.Option(help="The policy: a folder, a hub id, a GGUF file, or embedded:policy.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="arithmetic, reasoning-gym:NAME[option=value], or a JSON Lines file of prompts.")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="For a file of prompts: file.py:function or module:function. It will be run.")
    ] = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="A rollout file instead of sampling; without --model, what it alone can tell.")
    ] = None,
    exact: Annotated[
        str | None, typer.Option(help="Store an entry's exact bias and variance on a testbed, as a file, and stop.")
    ] = None,
    testbed: Annotated[str, typer.Option(help="For --exact: a table, as in graded[prompts=1,drift=0.2].")] = "eos",
    stale: Annotated[bool, typer.Option("--stale", help="For --exact: another policy samples.")] = False,
    hold_sampling: Annotated[
        bool, typer.Option("--hold-sampling", help="For --exact: rollouts are drawn once, whatever `sampling` says.")
    ] = False,
    methods: MethodsOption = "all",
    probes: Annotated[str, typer.Option(help="all, or names with commas between them.")] = "all",
    functional: Annotated[
        list[str] | None,
        typer.Option(help="file.py:function(data, completion, facts) whose mean is forecast. It will be run."),
    ] = None,
    training_log: Annotated[
        Path | None, typer.Option(help="CSV or JSON Lines with `entropy` and `reward` of earlier checkpoints.")
    ] = None,
    behavior: Annotated[
        list[str] | None,
        typer.Option(help="An older checkpoint that samples: adds a stale point of the update. May be repeated."),
    ] = None,
    drift: Annotated[
        str, typer.Option(help="Sizes of relative noise on the weights of a copy that samples: 0.001,0.003,0.01.")
    ] = "",
    engine: Annotated[
        str, typer.Option(help="Engines that sample with the policy's weights: bfloat16,float16,int8.")
    ] = "",
    inner_step: Annotated[
        int, typer.Option(help="Adds the point after K real steps of --inner-method on a copy.", min=0)
    ] = 0,
    inner_method: Annotated[str, typer.Option(help="The method of those steps.")] = "grpo",
    inner_rate: Annotated[float, typer.Option(help="The learning rate of those steps (Adam).", min=0)] = 1e-5,
    fresh: Annotated[bool, typer.Option("--fresh/--no-fresh", help="Whether fresh rollouts are measured.")] = True,
    reference: Annotated[str | None, typer.Option(help="The reference policy of KL terms.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher of distillation.")] = None,
    critic: Annotated[
        str | None, typer.Option(help="A value model, or `exact` where all answers can be listed.")
    ] = None,
    prompts: PromptsOption = 24,
    group_size: GroupSizeOption = 8,
    groups: GroupsOption = 1,
    max_new_tokens: Annotated[int | None, typer.Option(help="By default the task's.", min=1)] = None,
    temperature: Annotated[float, typer.Option(help="Of sampling and of every log-probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 is off; the model's own setting is never used.", min=0)] = 0,
    top_p: Annotated[float, typer.Option(help="1 is off; the model's own setting is never used.")] = 1.0,
    plain: Annotated[
        bool, typer.Option("--plain", help="Prompts as plain text, for a tokenizer without a chat template.")
    ] = False,
    enumerate: Annotated[
        bool,
        typer.Option("--enumerate/--no-enumerate", help="Whether a small policy is enumerated for exact truth."),
    ] = True,
    prompts_per_step: Annotated[
        int | None, typer.Option(help="Prompts a step of your training run: ranks methods there too.", min=1)
    ] = None,
    minibatch: Annotated[
        int | None, typer.Option(help="Sequences an optimizer step of your run; by default the whole step.", min=1)
    ] = None,
    microbatch: Annotated[
        int | None, typer.Option(help="Sequences a forward pass of your run, for divisors of scope local.", min=1)
    ] = None,
    optimizer_state: Annotated[
        str | None, typer.Option(help="Adam's second moments (safetensors, or a checkpoint): directions are Adam's.")
    ] = None,
    params: Annotated[str, typer.Option(help="The parameters that count: all, lora, or a pattern.")] = "all",
    mode: Annotated[str, typer.Option(help="The Gram matrix: exact, projected, or auto.")] = "auto",
    columns: Annotated[int, typer.Option(help="Columns of the projection.", min=1)] = 8192,
    micro_batch: Annotated[int | None, typer.Option(help="Sequences at once; it shrinks by itself.", min=1)] = None,
    memory: Annotated[
        str | None, typer.Option(help="The most that the process may hold, such as 6GB; what cannot fit is refused.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    gguf_file: Annotated[str | None, typer.Option(help="A GGUF file inside the model's folder or repository.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code that ships with the model run.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read weights from a pickle, which can run code.")
    ] = False,
) -> None:
    """Measure what each method's gradient does on your own model. Started again, it goes on where it stopped."""
    options: dict[str, Any] = dict(locals())
    if exact is not None:
        from gradaxis.diagnostics.oracle import store_exact

        typer.echo(store_exact(exact, output, testbed, stale, group_size, groups, seed, hold_sampling))
        return
    from pydantic import ValidationError

    from gradaxis.diagnostics import ExperimentConfig

    given = {name: value for name, value in options.items() if name not in (*ELSEWHERE, "functional")}
    given["functionals"] = tuple(functional or ())
    given["training_log"] = None if training_log is None else str(training_log)
    given["policy"] = model
    given["behavior"] = ",".join(behavior) if behavior else None
    given["drift"], given["engine"] = (tuple(part.strip() for part in text.split(",") if part.strip())
                                       for text in (drift, engine))  # fmt: skip
    given["rollouts"] = None if rollouts is None else str(rollouts)
    given["probes"] = tuple(name.strip() for name in probes.split(","))
    try:
        config = ExperimentConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-").replace("policy", "model")
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise InputError(flag, repr(first["input"]), expected) from error
    _run(config, output)


def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder of `demo` or `probe`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A name that ends in .html, .md or .json.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a report from stored results; no model is loaded."""
    from gradaxis.reports import write_report

    typer.echo(write_report(results, output))


def _run(config: ExperimentConfig, output: Path) -> None:
    """Run an experiment with a progress bar, write its HTML report, and print the verdict and the report's path."""
    from gradaxis.diagnostics import run_experiment
    from gradaxis.reports import derive_findings, read_results, write_report

    with _progress() as tell:
        run_experiment(config, output, tell)
    path = write_report(output, output / "report.html")
    found = read_results(output)
    for finding in derive_findings(found):
        typer.echo(f"- {finding.text}")
    typer.echo(path)
    if all(row.verdict == "not assessed" for row in found.rows if row.method):
        raise typer.Exit(NOT_ASSESSED)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar a stage on standard error; nothing where that is not a terminal, but for the names of the stages."""
    import sys

    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID, TimeElapsedColumn

    columns = (*Bars.get_default_columns(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if bars.disable:
                    typer.echo(stage, err=True)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell
