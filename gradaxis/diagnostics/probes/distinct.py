"""How many different answers a group holds: what exploration has left to compare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.entropy_tokens import FAILURE, PROBE
from gradaxis.diagnostics.probes.rows import fill, start
from gradaxis.diagnostics.statistics import Estimate, mean_interval
from gradaxis.estimators.peers import number_peers
from gradaxis.estimators.rollouts.batch import RolloutBatch


def distinct_answers(evidence: Evidence) -> list[Measurement]:
    """The mean number of different answers in a group, and what is expected, E[distinct] = Σ_y 1 − (1 − π(y))^G, where
    all answers can be listed. Two answers are one when all their tokens are.
    """
    row = start(evidence, PROBE, "distinct_answers", unit="answers a group", failure=FAILURE)
    if evidence.batch.size == 0:
        return [not_assessed(row, "the rollouts are empty")]
    counts, units = count_distinct(evidence.batch), evidence.units
    first = np.unique(number_peers(evidence.batch.prompt, evidence.batch.group).cpu().numpy(), return_index=True)[1]
    sums = np.bincount(units[first], counts[first], evidence.n) / np.bincount(units[first], minlength=evidence.n)
    rows = [fill(row, Estimate(float(sums.mean()), mean_interval(sums)), "95 %, Student over prompts")]
    expected = evidence.exact_values.get("distinct answers")
    row = replace(row, metric="expected_distinct_answers")
    if expected is None:
        reason = "its exact value needs a policy whose answers can all be listed; the observed mean estimates it"
        return [*rows, replace(row, verdict="not applicable", reason=reason)]
    return [*rows, replace(row, estimate=float(expected), interval="none: exact by enumeration", exact=True)]


def count_distinct(batch: RolloutBatch) -> np.ndarray:
    """The number of different answers in each answer's group [N]."""
    groups: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    lengths = batch.response.sum(dim=1).tolist()
    keys = list(zip(batch.prompt.tolist(), batch.group.tolist(), strict=True))
    for key, tokens, length in zip(keys, batch.tokens.tolist(), lengths, strict=True):
        groups.setdefault(key, set()).add(tuple(tokens[:length]))
    return np.array([len(groups[key]) for key in keys], dtype=float)
