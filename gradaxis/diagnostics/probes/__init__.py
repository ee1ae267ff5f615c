"""Probes: each reads one evidence and returns rows. A new probe is a module with `measure`, and a line here."""

from collections.abc import Callable, Mapping

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement
from gradaxis.diagnostics.probes import (
    agreement,
    bias,
    coverage,
    entropy,
    importance,
    reward,
    silent_groups,
    slots,
    variance,
)

Probe = Callable[[Evidence], list[Measurement]]

PROBES: Mapping[str, Probe] = {
    "coverage": coverage.measure,
    "reward": reward.measure,
    "silent-groups": silent_groups.measure,
    "importance": importance.measure,
    "variance": variance.measure,
    "bias": bias.measure,
    "entropy": entropy.measure,
    "agreement": agreement.measure,
    "slots": slots.measure,
}
"""Probe name -> its function, in the order of a report."""

__all__ = ["PROBES", "Probe"]
