"""The measured quantities that a report knows: how each is headed, written and defined."""

from __future__ import annotations

from dataclasses import dataclass

from gradaxis.diagnostics.measurements import Measurement, is_number
from gradaxis.reports.document import Cell
from gradaxis.reports.format import MISSING, format_interval, format_number, format_share

GAIN = "gain"
COSINE = "cosine"
ORTHOGONAL_BIAS = "orthogonal_bias"
SNR = "snr"
CRITICAL_BATCH = "critical_batch_size"
NOISE_RATIO = "noise_ratio_at_equal_gain"
ENTROPY_CHANGE = "entropy_change"
CLIP_FRACTION = "clip_fraction"
ESS = "ess"
METHOD_COSINE = "method_cosine"
COINCIDES = "coincides"
ENTROPY = "entropy"
ENTROPY_BY_POSITION = "entropy_by_position"
SILENT_GROUPS = "silent_groups"
SLOT_EFFECT = "slot_effect"
REWARD_SHARE = "reward_variance_share"


@dataclass(frozen=True)
class Metric:
    """A column of the comparison: its heading with the unit, whether it is a share, and what it means."""

    name: str
    heading: str
    definition: str
    share: bool = False


COMPARED: tuple[Metric, ...] = (
    Metric(COSINE, "cosine with ∇J", "cos(E ĝ, ∇J): 1 when the expected gradient points along the target, whatever its length."),
    Metric(ORTHOGONAL_BIAS, "orthogonal bias", "|E ĝ − c ∇J| / |c ∇J|, with c the gain: the part of the expected gradient across the target, relative to the part along it. Free of scale."),
    Metric(GAIN, "gain", "c = ⟨E ĝ, ∇J⟩ / |∇J|²: how long the step along the target is. A learning rate absorbs it, so it is no fault by itself."),
    Metric(SNR, "signal-to-noise", "n |E ĝ|² / tr Σ of a batch of the n prompts measured: signal energy over noise energy."),
    Metric(CRITICAL_BATCH, "critical batch size (prompts)", "tr Σ / |E ĝ|²: the number of prompts at which noise and signal are equal. Smaller is better; half-open where the signal is not clear of zero."),
    Metric(ENTROPY_CHANGE, "entropy change", "First-order change of the policy's entropy for a step along ĝ."),
    Metric(CLIP_FRACTION, "clipped tokens", "Share of policy tokens whose gradient the trust region switches off or caps.", share=True),
    Metric(ESS, "ESS / N", "(Σ w)² / (N Σ w²) of the sequence weights: the share of rollouts that an unbiased correction for staleness leaves.", share=True),
)  # fmt: skip


def write_value(row: Measurement | None, share: bool = False) -> str:
    """The estimate in words of the report: a number, `≥ low` or `≤ high` where only one end is known, else a dash."""
    if row is None:
        return MISSING
    write = format_share if share else format_number
    if is_number(row.estimate):
        return write(row.estimate)
    if row.verdict == "not assessed":
        return MISSING
    if is_number(row.low) and not is_number(row.high):
        return f"≥ {write(row.low)}"
    if is_number(row.high) and not is_number(row.low):
        return f"≤ {write(row.high)}"
    return MISSING


def write_interval(row: Measurement, share: bool = False) -> str:
    """`[low, high]` of the row, empty where there is none or the value is exact."""
    if row.low is None and row.high is None:
        return ""
    if row.low == row.high == row.estimate:
        return ""
    if not share:
        return format_interval(row.low, row.high)
    percent = [None if end is None else 100.0 * end for end in (row.low, row.high)]
    return f"{format_interval(*percent)} %"


def write_quantity(row: Measurement, share: bool = False) -> str:
    """Value, interval and unit for running text: `0.935 [0.910, 0.951]`."""
    unit = "" if share or row.unit in {"", "1", "ratio", "share", "cosine"} else f" {row.unit}"
    interval = write_interval(row, share)
    return f"{write_value(row, share)}{unit}{f' {interval}' if interval else ''}"


def value_cell(row: Measurement | None, share: bool = False) -> Cell:
    """A table cell: value, interval below it, chip for a verdict that says something, `exact` where nothing was sampled."""
    if row is None:
        return Cell(MISSING)
    chip = "" if row.verdict == "not applicable" else row.verdict
    mark = "exact" if is_exact_value(row) else ""
    return Cell(write_value(row, share), note=write_interval(row, share), chip=chip, mark=mark)


def is_exact_value(row: Measurement) -> bool:
    """True when the number has no sampling error: it was enumerated, so that its interval is a point."""
    return row.interval == "exact" or (is_number(row.estimate) and row.low == row.high == row.estimate)
