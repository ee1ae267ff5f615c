"""Running an experiment stage by stage into a results folder, so that it resumes after a kill and repeats nothing.

    config.json                 what was asked, with its fingerprint
    methods.json                what the registry said of every method
    checkpoints.json            with several older checkpoints, which point each is: its drift is measured first
    rollouts-<point>.parquet    sampled answers
    scored-<point>.parquet      the same with every column that the models supply
    gram-<point>.npz            inner products of gradients, their patterns, and numbers from enumeration
    seconds.json, point.json    time by stage; with rollouts from a file, the point that they are at
    rows-<point>.json           measurements of one point
    measurements.parquet, .json all of them
    provenance.json             versions, models, seconds by stage

A file is whole or absent. Stages are pure functions of the configuration and the files before them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from gradaxis.diagnostics.config import ExperimentConfig
from gradaxis.diagnostics.curves import end_of_corrections
from gradaxis.diagnostics.entropy_fit import fit_rows
from gradaxis.diagnostics.measurements import Measurement, from_record, to_json, write_measurements
from gradaxis.diagnostics.memory import tighten_heap
from gradaxis.diagnostics.probes import PROBES, Probe
from gradaxis.diagnostics.provenance import Clock, describe_method, write_provenance
from gradaxis.diagnostics.stages import Stages
from gradaxis.diagnostics.storage import read_json, write_json
from gradaxis.diagnostics.threads import fitting_threads
from gradaxis.errors import InputError, UsageError

WORK = ("rollouts-*", "scored-*", "gram-*", "rows-*", "point.json")
"""Files that hold finished work."""

Progress = Callable[[str, int, int], None]
"""Called with a stage, what is done of it, and its total."""


def run_experiment(config: ExperimentConfig, output: str | Path, progress: Progress | None = None) -> Path:
    """Run, or go on with, an experiment.

    Args:
        config: what to do. output: the results folder. progress: told how far each stage is.

    Returns the results folder.

    Raises:
        InputError: the folder holds another experiment's results, or an input is not what it should be.
        UsageError: a method, probe, model or task that does not exist, or none where one is needed.
    """
    folder = Path(output)
    probes = choose_probes(config)
    tell = progress or (lambda stage, done, total: None)
    stages = Stages(config, folder, tell)
    if config.memory is not None:
        tighten_heap()
    cards = {method.label: describe_method(method) for method in stages.methods}
    _claim(folder, config)
    write_json(folder / "methods.json", cards)
    rows: list[Measurement] = []
    with fitting_threads(config), Clock(folder) as clock:
        points = stages.points()
        for number, point in enumerate(points):
            path = folder / f"rows-{point}.json"
            if not path.is_file():
                evidence = stages.evidence(point, clock)
                found: list[Measurement] = []
                for done, (name, measure) in enumerate(probes.items()):
                    tell(f"{point}: probes", done, len(probes))
                    with clock.time(f"{point}: probe {name}"):
                        found += measure(evidence)
                write_json(path, [to_json(asdict(row)) for row in found])
            rows += [from_record(record) for record in read_json(path)]
            tell("points", number + 1, len(points))
        if "entropy" in probes:
            rows += fit_rows(rows, config.training_log)
        write_measurements([*rows, *end_of_corrections(rows)], folder)
    write_provenance(folder, config, clock, {point: stages.origins(point) for point in points})
    return folder


def choose_probes(config: ExperimentConfig) -> dict[str, Probe]:
    """The probes asked for, in the order of a report. Raises UsageError for a name that is not one."""
    unknown = [name for name in config.probes if name not in PROBES and name != "all"]
    if unknown:
        raise UsageError(f"unknown probe {unknown[0]!r}; the probes are all, {', '.join(PROBES)}")
    chosen = set(PROBES) if "all" in config.probes else {*config.probes, "coverage"}
    return {name: measure for name, measure in PROBES.items() if name in chosen}


def _claim(folder: Path, config: ExperimentConfig) -> None:
    """Write the configuration, or compare it with the one that is there."""
    path = folder / "config.json"
    record = {**config.model_dump(mode="json"), "fingerprint": config.fingerprint}
    if not path.is_file():
        write_json(path, record)
        return
    stored = read_json(path)
    if stored.get("fingerprint") == config.fingerprint:
        return
    if not any(True for pattern in WORK for _ in folder.glob(pattern)):
        write_json(path, record)  # a run that failed before it had done anything
        return
    differing = sorted(name for name in record if stored.get(name) != record[name] and name != "fingerprint")
    got = ", ".join(f"{name} {stored.get(name)!r}" for name in differing[:4]) or "another configuration"
    expected = ", ".join(f"{name} {record[name]!r}" for name in differing[:4])
    raise InputError(f"{folder}", f"results with {got}", expected or "the same configuration",
                     "Name another --output, or remove this folder")  # fmt: skip
