"""Silent groups: groups in which every answer earns the same, so that a comparison within the group says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, judge, not_assessed
from gradaxis.diagnostics.probes.rows import OWN_RULE, plain, start

PROBE = "silent-groups"
FAILURE = "silent-groups"
WILSON = "95 %, Wilson's interval over groups"


def measure(evidence: Evidence) -> list[Measurement]:
    """Observed, expected and remaining groups, and for each method the weight that it puts on silent groups.

    Expected is Σ_v q_v^G, for right or wrong p^G + (1 − p)^G, mean over prompts; exact where the policy is enumerable.
    A method with weight zero gets no policy gradient from silent groups: they are wasted samples for it.
    """
    base = start(evidence, PROBE, "silent_groups", slot="selection", failure=FAILURE, unit="share of groups")
    groups, silent = _silent(evidence)
    if len(silent) == 0:
        return [not_assessed(base, "the rollouts hold no group with two answers or more")]
    ends = stats.binomtest(int(silent.sum()), len(silent)).proportion_ci(method="wilson")
    row = replace(base, estimate=float(silent.mean()), low=float(ends.low), high=float(ends.high), interval=WILSON,
                  n=len(silent))  # fmt: skip
    row = judge(row, low_is_good=True, watch=0.3, bad=0.6, source=OWN_RULE)
    advice = "resample or filter these prompts, use larger groups, or grade the reward more finely"
    rows = [replace(row, advice=advice if row.verdict in ("watch", "bad") else "")]
    expected = evidence.exact_values.get("silent groups")
    row = replace(base, metric="expected_silent_groups")
    if expected is None:
        reason = "its exact value needs a policy whose answers can all be listed"
        rows.append(replace(row, verdict="not applicable", reason=reason))
    else:
        rows.append(replace(row, estimate=float(expected), interval="none: exact by enumeration", exact=True))
    rows.append(plain(replace(base, metric="effective_groups", unit="groups"), float((~silent).sum())))
    quiet = np.isin(groups, np.flatnonzero(silent))
    return rows + [_weight(evidence, label, quiet) for label in evidence.candidates]


def _silent(evidence: Evidence) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The group of each sequence, numbered over groups of two or more (−1 elsewhere) [N], and which are silent."""
    batch = evidence.batch
    keys = torch.stack([batch.prompt, batch.group], dim=1).cpu()
    _, number, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    reward = batch.reward.double().cpu().numpy()
    several = np.flatnonzero(counts.numpy() > 1)
    groups = np.full(len(reward), -1)
    silent = np.zeros(len(several), dtype=bool)
    for index, group in enumerate(several):
        rows = np.flatnonzero(number.numpy() == group)
        groups[rows] = index
        silent[index] = np.ptp(reward[rows]) == 0
    return groups, silent


def _weight(evidence: Evidence, label: str, quiet: NDArray[np.bool_]) -> Measurement:
    row = start(evidence, PROBE, "silent_weight", label, slot="selection", failure=FAILURE,
                unit="share of Σ |ω·A|")  # fmt: skip
    coefficients = evidence.candidates[label].coefficients
    assert coefficients is not None
    size = (coefficients.omega * coefficients.advantage).detach().double().abs().sum(1).cpu().numpy()
    if size.sum() == 0:
        return not_assessed(row, "the method puts no weight on any of these rollouts")
    row = plain(row, float(size[quiet].sum() / size.sum()))
    return replace(row, advice="" if row.estimate else "silent groups give this method no policy gradient")
