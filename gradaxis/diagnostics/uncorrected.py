"""Each method without its correction for drift: the same slots, but the score function and no trust region."""

from __future__ import annotations

from collections.abc import Iterable

from gradaxis.diagnostics.candidates import Candidate, check_finite
from gradaxis.diagnostics.units import Key
from gradaxis.diagnostics.variants import replace_slots
from gradaxis.errors import GradaxisError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Registry

CORRECTION = ("ratio", "trust_region")
"""The slots that correct for drift."""

UNCORRECTED = "task, without correction"
"""The part of a method's gradient that is its task part with these slots emptied."""


def corrects(method: Method) -> bool:
    """Whether the method has a ratio or a trust region."""
    return any(method.slots[slot] for slot in CORRECTION)


def uncorrected_estimators(
    candidates: Iterable[Candidate], registry: Registry, batch: RolloutBatch
) -> dict[Key, CompiledEstimator]:
    """The estimator of each method's task part without its correction, by key; none where that makes no estimator."""
    found: dict[Key, CompiledEstimator] = {}
    for candidate in candidates:
        method = candidate.task.method
        if not corrects(method):
            continue
        empty = dict.fromkeys(CORRECTION, ())
        bare = replace_slots(method, f"{candidate.method.label} without correction", registry.methods, **empty)
        try:
            estimator = compile(bare)
            check_finite(estimator.coefficients(batch).total, bare.label)
        except GradaxisError:
            continue
        if not _needs_correction(bare):
            found[candidate.method.label, UNCORRECTED] = estimator
    return found


def _needs_correction(method: Method) -> bool:
    """Whether an operator that is left has no meaning without what was emptied."""
    needs = {need for items in method.all_slots().values() for placed in items for need in placed.declaration.requires}
    return any(need.split(".")[0] in CORRECTION for need in needs)
