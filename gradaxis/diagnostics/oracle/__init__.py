"""Ground truth: the exact mean and covariance of compiled group estimators, read off their own coefficients."""

from gradaxis.diagnostics.oracle.counts import MOST_COUNTS
from gradaxis.diagnostics.oracle.document import exact_document
from gradaxis.diagnostics.oracle.keys import number_types
from gradaxis.diagnostics.oracle.moments import Moments, count_vectors_needed, group_moments, of_a_random_prompt
from gradaxis.diagnostics.oracle.storing import store_exact

__all__ = [
    "MOST_COUNTS",
    "Moments",
    "count_vectors_needed",
    "exact_document",
    "group_moments",
    "number_types",
    "of_a_random_prompt",
    "store_exact",
]
