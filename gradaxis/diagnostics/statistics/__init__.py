"""Statistics on the inner products of unit gradients."""

from gradaxis.diagnostics.statistics.expansions import Expansion, expand_inner, expand_trace
from gradaxis.diagnostics.statistics.families import Simultaneous, benjamini_hochberg, holm, max_t
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
    p_value,
    share_interval,
    solve_fieller,
    student,
    tail,
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
from gradaxis.diagnostics.statistics.pairs import Pairs
from gradaxis.diagnostics.statistics.pivots import ratio_interval, recovered_ratio, skewed_interval
from gradaxis.diagnostics.statistics.spectrum import (
    effective_rank,
    noise_along_mean,
    squares_of_noise,
    units_to_resolve,
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
    inner_product,
    noise,
    ratio_at_equal_gain,
    ratio_of_inner_products,
    ratio_of_noise,
    realised_cosine,
    squared_mean,
)

__all__ = [
    "Array", "Estimate", "Expansion", "Given", "Interval", "Leave", "Pairs", "Residual", "Simultaneous", "Strata",
    "benjamini_hochberg", "component", "cosine_change_given", "cosine_change_of_means", "cosine_given",
    "cosine_of_means", "cosine_with_known", "critical_batch_size", "effective_rank", "efficiency", "efficiency_given",
    "efficiency_on_known", "expand_inner", "expand_trace", "fieller", "freedom", "gain_given", "gain_of_means",
    "gain_on_known", "holm", "inner_of_means", "inner_product", "jackknife_covariance", "jackknife_interval",
    "leave_out_inner", "leave_out_trace", "max_t", "mean_interval", "noise", "noise_along_mean", "p_value",
    "ratio_at_equal_gain", "ratio_interval", "ratio_of_inner_products", "ratio_of_means", "ratio_of_noise",
    "realised_cosine", "realised_cosine_given", "recovered_ratio", "remove_noise", "share_interval", "skewed_interval",
    "solve_fieller", "split", "squared_mean", "squares_of_noise", "stratified_mean", "stratified_ratio", "student",
    "tail", "trace_covariance", "units_to_resolve",
]  # fmt: skip
