"""Probes: what each method's gradient does, measured on a policy and its rollouts."""

from gradaxis.diagnostics.config import ExperimentConfig
from gradaxis.diagnostics.experiment import run_experiment
from gradaxis.diagnostics.measurements import VERDICTS, Measurement, read_measurements, write_measurements
from gradaxis.diagnostics.probes import PROBES

__all__ = [
    "PROBES",
    "VERDICTS",
    "ExperimentConfig",
    "Measurement",
    "read_measurements",
    "run_experiment",
    "write_measurements",
]
