"""Spread of a statistic, or of a difference of two, from its values without each unit, also where units have strata.

Letters: n units. Where units have strata, values "without" a unit are made so that their jackknife covariance is the
stratified one, and only the degrees of freedom differ.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from gradaxis.diagnostics.statistics import Array, Strata, jackknife_covariance, student


def effective_units(value: float, without: Array, strata: Strata | None) -> float:
    """Degrees of freedom and one: n, or with strata Satterthwaite's (1946), since few of them may have all the spread.

    ( Σ_p a_p )² / Σ_p a_p² / (m_p − 1),   a_p the part of the variance of stratum p with m_p units
    """
    if strata is None:
        return len(without)
    parts = np.bincount(strata.of, (without - value) ** 2)
    if not parts.sum() > 0:
        return float((strata.counts - 1).sum()) + 1
    return float(parts.sum() ** 2 / (parts**2 / (strata.counts - 1)).sum()) + 1


def standard_error(without: Array) -> float:
    """The jackknife's."""
    return math.sqrt(float(jackknife_covariance(without[:, None])[0, 0]))


def half_width(value: float, without: Array, strata: Strata | None) -> float:
    """Half of Student's 95 % interval."""
    return student(effective_units(value, without, strata)) * standard_error(without)


def two_sided(value: float, without: Array, strata: Strata | None) -> float:
    """The p-value of a statistic that is 0 under the null; 1 where it is not finite."""
    error = standard_error(without)
    if not (math.isfinite(value) and math.isfinite(error)):
        return 1.0
    if error == 0:
        return 0.0 if value else 1.0
    return float(2 * stats.t.sf(abs(value) / error, effective_units(value, without, strata) - 1))
