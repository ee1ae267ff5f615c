"""Agreement: which methods are the same update on these rollouts, and what would tell them apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import torch

from gradaxis.diagnostics.candidates import Candidate
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.rows import fill, plain, start
from gradaxis.diagnostics.statistics import realised_cosine
from gradaxis.taxonomy import compare

PROBE = "agreement"
COINCIDE = 1 - 1e-6
"""Two gradients with a larger cosine are one direction."""

INERT_WHEN_FRESH = {"ratio", "trust_region", "sampling"}
"""Slots that do nothing while the policy is the one that sampled."""


def measure(evidence: Evidence) -> list[Measurement]:
    """The cosine of every two methods' gradients of this batch, and a row for each pair that coincides.

    Without a model the cosine of the coefficients stands in: where it is 1 the gradients are parallel whatever the
    model; below 1 it says nothing about the gradients.
    """
    rows = []
    for first, second in combinations(evidence.candidates.values(), 2):
        row = _cosine(evidence, first, second)
        rows.append(row)
        if row.estimate is not None and row.estimate > COINCIDE:
            rows.append(_coinciding(row, evidence, first, second))
    return rows


def _cosine(evidence: Evidence, first: Candidate, second: Candidate) -> Measurement:
    labels = first.method.label, second.method.label
    row = start(evidence, PROBE, "method_cosine", labels[0], compared_with=labels[1], unit="cosine")
    keys = [evidence.key(label) for label in labels]
    if evidence.products is None:
        row = replace(row, metric="coefficient_cosine")
        return plain(row, _of_coefficients(first, second), "one of the two has no coefficient on these rollouts")
    products = evidence.of(keys[0]), evidence.of(keys[1]), evidence.of(*keys)
    if not (products[0].any() and products[1].any()):
        return not_assessed(row, "the gradient of one of the two is zero on these rollouts")
    return fill(row, realised_cosine(*products), "exact for this batch; 95 % over prompts by jackknife")


def _of_coefficients(first: Candidate, second: Candidate) -> float:
    assert first.coefficients is not None
    assert second.coefficients is not None
    one, other = first.coefficients.total, second.coefficients.total
    zero = torch.zeros_like(first.coefficients.omega)
    parts = [torch.stack([total.get(name, zero) for name in {**one, **other}]).double() for total in (one, other)]
    norms = parts[0].norm() * parts[1].norm()
    return float((parts[0] * parts[1]).sum() / norms) if float(norms) > 0 else float("nan")


def _coinciding(row: Measurement, evidence: Evidence, first: Candidate, second: Candidate) -> Measurement:
    slots = list(dict.fromkeys(difference.slot for difference in compare(first.method, second.method)))
    asleep = [slot for slot in slots if slot in INERT_WHEN_FRESH]
    if not slots:
        advice = "they are the same in every slot"
    elif evidence.fresh and asleep:
        advice = (
            f"they differ in {', '.join(slots)}; {', '.join(asleep)} act on stale rollouts only: add --behavior or "
        )
        advice += "--inner-step"
    else:
        advice = f"they differ in {', '.join(slots)}, which changes nothing but the scale on these rollouts"
    return replace(row, metric="coincides", advice=advice, reason="their gradients are parallel")
