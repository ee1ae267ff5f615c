"""Which tokens a method's trust region acts on: a part of the probe `importance`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradaxis.diagnostics.candidates import Candidate
from gradaxis.diagnostics.drift_measures import ratio_of_sums
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.drift import JACKKNIFE, columns_of
from gradaxis.diagnostics.probes.rows import fill
from gradaxis.diagnostics.statistics import Array
from gradaxis.diagnostics.variants import replace_slots
from gradaxis.errors import GradaxisError
from gradaxis.estimators import compile
from gradaxis.taxonomy import Method


def clipped(evidence: Evidence, candidate: Candidate, base: Measurement) -> list[Measurement]:
    """The share of tokens whose weight the trust region changes: in all, and by sign of A and the bound that acts.

    `above` is the upper bound, on ratios over one, and `below` the lower one (TRL's `clip_ratio/high_mean` and
    `low_mean`, verl's `pg_clipfrac`). The ratio is the method's own, against the anchor that it names.
    """
    method = candidate.method
    if not method.slots["trust_region"]:
        return [replace(base, reason="it has no trust region")]
    try:
        free = replace_slots(method, f"{method.label} without trust region", evidence.registry.methods, trust_region=())
        unclipped = compile(free).coefficients(evidence.batch).omega.detach().double().cpu().numpy()
        log_ratio = _log_ratio(evidence, method)
    except GradaxisError as error:
        return [not_assessed(base, f"its weights without the trust region are not known: {error}")]
    assert candidate.coefficients is not None
    omega, advantage = (part.detach().double().cpu().numpy()
                        for part in (candidate.coefficients.omega, candidate.coefficients.advantage))  # fmt: skip
    mask = evidence.batch.mask.cpu().numpy()
    changed = mask & ~np.isclose(omega, unclipped, rtol=1e-5, atol=0.0)
    tokens = np.bincount(evidence.units, mask.sum(1), evidence.n)

    def share(where: NDArray[np.bool_], part: str) -> Measurement:
        amount = np.bincount(evidence.units, where.sum(1), evidence.n)
        return fill(replace(base, part=part), ratio_of_sums(amount, tokens), JACKKNIFE)

    return [
        share(changed, ""),
        *(share(changed & chosen & beyond, f"{sign} advantage, {side}")
          for sign, chosen in (("positive", advantage > 0), ("negative", advantage < 0))
          for side, beyond in (("above", log_ratio > 0), ("below", log_ratio < 0))),
    ]  # fmt: skip


def _log_ratio(evidence: Evidence, method: Method) -> Array:
    """The logarithm of the method's ratio up to a positive factor [N, T]; where a sequence shares one, its sum."""
    log_ratio = np.zeros(evidence.batch.mask.shape)
    for placed in method.slots["ratio"]:
        anchor = next(name for name in placed.needs if name.endswith("_logp"))
        new, old = columns_of(evidence, "logp", anchor)
        log_ratio = np.where(evidence.batch.mask.cpu().numpy(), new - old, 0.0)
        if placed.parameters.get("unit") == "sequence":
            log_ratio = np.broadcast_to(log_ratio.sum(1, keepdims=True), log_ratio.shape)
    return log_ratio
