"""Statistics on the inner products of unit gradients."""

from gradaxis.diagnostics.statistics.given import (
    Given,
    cosine_change_given,
    cosine_given,
    efficiency_given,
    gain_given,
    realised_cosine_given,
    remove_noise,
)
from gradaxis.diagnostics.statistics.intervals import (
    Interval,
    fieller,
    jackknife_covariance,
    jackknife_interval,
    mean_interval,
    share_interval,
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
from gradaxis.diagnostics.statistics.strata import Strata, freedom, stratified_mean, stratified_ratio
from gradaxis.diagnostics.statistics.summaries import (
    Estimate,
    Leave,
    cosine_change_of_means,
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
    "Array", "Estimate", "Given", "Interval", "Leave", "Residual", "Strata", "component", "cosine_change_given",
    "cosine_change_of_means", "cosine_given", "cosine_of_means", "cosine_with_known", "critical_batch_size",
    "efficiency", "efficiency_given", "efficiency_on_known", "fieller", "freedom", "gain_given", "gain_of_means",
    "gain_on_known", "inner_of_means", "jackknife_covariance", "jackknife_interval", "leave_out_inner",
    "leave_out_trace", "mean_interval", "noise", "ratio_at_equal_gain", "ratio_of_means", "ratio_of_noise",
    "realised_cosine", "realised_cosine_given", "remove_noise", "share_interval", "split", "squared_mean",
    "stratified_mean", "stratified_ratio", "student", "trace_covariance",
]  # fmt: skip
