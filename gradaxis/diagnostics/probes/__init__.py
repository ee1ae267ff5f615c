"""Probes: each reads one evidence and returns rows. A new probe is a module with `measure`, and a line here."""

from collections.abc import Callable, Mapping

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement
from gradaxis.diagnostics.probes import (
    agreement,
    attribution,
    bias,
    correction,
    coverage,
    efficiency,
    entropy,
    forecast,
    importance,
    kl,
    mismatch,
    reward,
    signal,
    silent_groups,
    slots,
    staleness,
    variance,
)

Probe = Callable[[Evidence], list[Measurement]]

PROBES: Mapping[str, Probe] = {
    "coverage": coverage.measure,
    "reward": reward.measure,
    "silent-groups": silent_groups.measure,
    "signal": signal.measure,
    "importance": importance.measure,
    "staleness": staleness.measure,
    "mismatch": mismatch.measure,
    "variance": variance.measure,
    "bias": bias.measure,
    "efficiency": efficiency.measure,
    "correction": correction.measure,
    "entropy": entropy.measure,
    "forecast": forecast.measure,
    "kl": kl.measure,
    "agreement": agreement.measure,
    "slots": slots.measure,
    "attribution": attribution.measure,
}
"""Probe name -> its function, in the order of a report."""

__all__ = ["PROBES", "Probe"]
