"""Reward: how much there is, and how much of what tells answers apart is length and form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.measurements import Measurement, judge, not_assessed
from gradaxis.diagnostics.probes.rows import OWN_RULE, fill, plain, start
from gradaxis.diagnostics.statistics import Estimate, mean_interval, share_interval
from gradaxis.estimators.rollouts.reward_variance import reward_variance_shares

PROBE = "reward"
WILSON = "95 %, Wilson's interval at the effective number of answers, prompts as clusters"


def measure(evidence: Evidence) -> list[Measurement]:
    """Mean reward, mean length and the share cut off, and how much of the reward's variance is length and form."""
    batch = evidence.batch
    base = start(evidence, PROBE, "mean_reward", slot="signal", unit="reward")
    if batch.size == 0:
        return [not_assessed(base, "the rollouts are empty")]
    rows = [_mean(base, batch.reward.double().cpu().numpy(), evidence)]
    length = replace(base, metric="mean_length", unit="tokens", slot="", axis="")
    rows.append(_mean(length, batch.length.double().cpu().numpy(), evidence))
    cut = replace(base, metric="truncated_share", unit="share of answers", slot="", axis="", failure="truncation-noise")
    rows.append(_share(cut, batch.truncated.double().cpu().numpy(), evidence))
    return rows + _shares(replace(base, metric="reward_variance_share", unit="share"), evidence)


def _share(row: Measurement, values: np.ndarray, evidence: Evidence) -> Measurement:
    sizes = np.bincount(evidence.units, minlength=evidence.n)
    shares = np.bincount(evidence.units, values, evidence.n) / sizes
    return fill(row, Estimate(float(shares.mean()), share_interval(shares, sizes)), WILSON)


def _mean(row: Measurement, values: np.ndarray, evidence: Evidence) -> Measurement:
    sums = np.bincount(evidence.units, values, evidence.n) / np.bincount(evidence.units, minlength=evidence.n)
    return fill(row, Estimate(float(sums.mean()), mean_interval(sums)), "95 %, Student over prompts")


def _shares(row: Measurement, evidence: Evidence) -> list[Measurement]:
    shares = reward_variance_shares(evidence.batch)
    if shares.together is None:
        return [not_assessed(row, shares.reason)]
    whole = judge(plain(row, shares.together), low_is_good=True, watch=0.5, bad=0.9, source=OWN_RULE)
    advice = "length and form tell most answers apart: check that the reward pays for the answer"
    rows = [replace(whole, part="together", advice=advice if whole.verdict in ("watch", "bad") else "")]
    parts = {"length": shares.length, "truncated": shares.truncated, "form": shares.form, "by chance": shares.chance}
    return rows + [plain(replace(row, part=name), value) for name, value in parts.items() if value is not None]
