"""Building rows: what all measurements of one evidence have in common, and numbers with their intervals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.statistics import Estimate
from gradaxis.taxonomy import SLOTS

OWN_RULE = "rule of this project"
"""The source of a threshold that no paper gives."""


def start(evidence: Evidence, probe: str, metric: str, method: str = "", slot: str = "", **fields: Any) -> Measurement:
    """A row without a number: its probe, metric and method, the point, and how many prompts stand behind it."""
    exact = evidence.products.exact if evidence.products is not None else None
    axis = SLOTS[slot].axis if slot in SLOTS else ""
    return Measurement(**{"probe": probe, "metric": metric, "method": method, "point": evidence.point, "slot": slot,
                          "axis": axis, "n": evidence.n, "exact": exact, **fields})  # fmt: skip


BETWEEN_GROUPS = "95 %, between the groups of a prompt, these prompts as given"
"""How an interval was made whose units are groups and whose strata are prompts; `n` is then the number of groups."""


def fill(row: Measurement, estimate: Estimate, interval: str, reason: str = "") -> Measurement:
    """The row with a number and its interval; `unresolved` where the interval's gate leaves no number.

    NaN without any interval to show is `not assessed`: it is absence of evidence, not a small effect.
    """
    low, high, bounded = estimate.interval
    if not math.isfinite(estimate.value) and (bounded or math.isnan(low) or math.isnan(high)):
        return not_assessed(row, reason or "no finite estimate: the input is empty or not a number")
    if not math.isfinite(estimate.value):
        return replace(row, low=low, high=high, interval=interval, verdict="unresolved",
                       reason=reason or "noise hides it at this number of prompts")  # fmt: skip
    row = replace(row, estimate=estimate.value, low=low, high=high, interval=interval)
    return row if bounded else replace(row, verdict="unresolved", reason=reason or "too few prompts for an interval")


def plain(row: Measurement, value: float, reason: str = "") -> Measurement:
    """The row with a number that is a count or an exact value and has no interval."""
    if not math.isfinite(value):
        return not_assessed(row, reason or "no finite value: the input is empty or not a number")
    return replace(row, estimate=float(value), interval="none: a plain fact of these rollouts")


def without_products(evidence: Evidence, probe: str, metrics: tuple[str, ...], **fields: Any) -> list[Measurement]:
    """`not assessed` rows of a probe that needs inner products of gradients, when there are none."""
    reason = evidence.no_products or "no inner products of gradients"
    return [
        not_assessed(start(evidence, probe, metric, label, **fields), reason, ("model",), "give the policy (--model)")
        for label in evidence.candidates
        for metric in metrics
    ]
