"""Statistics on the inner products of unit gradients."""

from gradaxis.diagnostics.statistics.intervals import (
    Interval,
    fieller,
    jackknife_covariance,
    jackknife_interval,
    mean_interval,
    student,
)
from gradaxis.diagnostics.statistics.known import (
    Residual,
    component,
    cosine_with_known,
    efficiency_on_known,
    gain_on_known,
    ratio_of_means,
    split,
)
from gradaxis.diagnostics.statistics.moments import (
    Array,
    inner_of_means,
    leave_out_inner,
    leave_out_trace,
    trace_covariance,
)
from gradaxis.diagnostics.statistics.summaries import (
    Estimate,
    Leave,
    cosine_of_means,
    critical_batch_size,
    efficiency,
    gain_of_means,
    noise,
    ratio_at_equal_gain,
    ratio_of_noise,
    realised_cosine,
    squared_mean,
)

__all__ = [
    "Array", "Estimate", "Interval", "Leave", "Residual", "component", "cosine_of_means", "cosine_with_known",
    "critical_batch_size", "efficiency", "efficiency_on_known", "fieller", "gain_of_means", "gain_on_known",
    "inner_of_means", "jackknife_covariance", "jackknife_interval", "leave_out_inner", "leave_out_trace",
    "mean_interval", "noise", "ratio_at_equal_gain", "ratio_of_means", "ratio_of_noise", "realised_cosine", "split",
    "squared_mean", "student", "trace_covariance",
]  # fmt: skip
