"""Probes: what each method's gradient does, measured on a policy and its rollouts.

Names are loaded when they are first used, so that reading stored measurements brings in no tensor library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "PROBES": "probes",
    "VERDICTS": "measurements",
    "ExperimentConfig": "config",
    "Measurement": "measurements",
    "read_measurements": "measurements",
    "run_experiment": "experiment",
    "write_measurements": "measurements",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"gradaxis.diagnostics.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gradaxis.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
