"""Silent groups: groups in which every answer earns the same, so that a comparison within the group says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, judge, not_assessed
from gradaxis.diagnostics.probes.rows import OWN_RULE, fill, plain, start
from gradaxis.diagnostics.statistics import Estimate, share_interval
from gradaxis.estimators.gates import RIGHT

PROBE = "silent-groups"
FAILURE = "silent-groups"
WILSON = "95 %, Wilson's interval at the effective number of groups, prompts as clusters"
ROUNDING = 1e-6
KINDS = ("all_right_groups", "all_wrong_groups", "constant_groups")


def measure(evidence: Evidence) -> list[Measurement]:
    """The share of silent groups, and which of them are all right (an outcome of 1 or more), all wrong (0 or less) or
    constant in between; expected and remaining groups and answers; and for each method the weight on silent groups.

    Expected is Σ_v q_v^G, for right or wrong p^G + (1 − p)^G, mean over prompts; exact where the policy is enumerable.
    A method with weight zero gets no policy gradient from silent groups: they are wasted samples for it. TRL logs the
    share as `frac_reward_zero_std`, NeMo-RL the split as `baseline_reward/pct_1` and `pct_0`.
    """
    base = start(evidence, PROBE, "silent_groups", slot="selection", failure=FAILURE, unit="share of groups")
    groups, levels, prompts = _groups(evidence)
    silent = ~np.isnan(levels)
    if len(silent) == 0:
        return [not_assessed(base, "the rollouts hold no group with two answers or more")]
    row = judge(_share(base, silent, prompts), low_is_good=True, watch=0.3, bad=0.6, source=OWN_RULE)
    advice = "resample or filter these prompts, use larger groups, or grade the reward more finely"
    rows = [replace(row, advice=advice if row.verdict in ("watch", "bad") else "")]
    right, wrong = levels >= RIGHT - ROUNDING, levels <= ROUNDING
    for metric, chosen in zip(KINDS, (right, wrong, silent & ~right & ~wrong), strict=True):
        rows.append(_share(replace(base, metric=metric), chosen, prompts))
    expected = evidence.exact_values.get("silent groups")
    row = replace(base, metric="expected_silent_groups")
    if expected is None:
        reason = "its exact value needs a policy whose answers can all be listed"
        rows.append(replace(row, verdict="not applicable", reason=reason))
    else:
        rows.append(replace(row, estimate=float(expected), interval="none: exact by enumeration", exact=True))
    rows.append(plain(replace(base, metric="effective_groups", unit="groups"), float((~silent).sum())))
    quiet = np.isin(groups, np.flatnonzero(silent))
    heard = float(((groups >= 0) & ~quiet).sum())
    rows.append(plain(replace(base, metric="effective_samples", unit="answers"), heard))
    return rows + [_weight(evidence, label, quiet) for label in evidence.candidates]


def _groups(evidence: Evidence) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The group of each sequence, numbered over groups of two or more (−1 elsewhere) [N]; what all answers of a group
    earn, NaN where they differ; and the prompt of each group.
    """
    batch = evidence.batch
    keys = torch.stack([batch.prompt, batch.group], dim=1).cpu()
    _, number, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    reward = batch.reward.double().cpu().numpy()
    several = np.flatnonzero(counts.numpy() > 1)
    groups = np.full(len(reward), -1)
    levels, prompts = np.full(len(several), np.nan), np.zeros(len(several), dtype=np.int64)
    for index, group in enumerate(several):
        rows = np.flatnonzero(number.numpy() == group)
        groups[rows], prompts[index] = index, evidence.units[rows[0]]
        if np.ptp(reward[rows]) == 0:
            levels[index] = reward[rows[0]]
    return groups, levels, prompts


def _share(row: Measurement, chosen: NDArray[np.bool_], prompts: NDArray[np.int64]) -> Measurement:
    """The mean over prompts of the share of their groups; groups of one prompt are not independent."""
    numbers, sizes = np.unique(prompts, return_inverse=True)[1], np.unique(prompts, return_counts=True)[1]
    shares = np.bincount(numbers, chosen) / sizes
    return fill(replace(row, n=len(sizes)), Estimate(float(shares.mean()), share_interval(shares, sizes)), WILSON)


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
