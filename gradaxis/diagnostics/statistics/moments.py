"""Moments of unit gradients from their inner products alone.

Letters: n units (prompts with all their rollouts), g_j the gradient of unit j, G = E[g], Σ = Cov[g].
`products` is the matrix H[j, k] = <g_j, g_k> of one method, or H[j, k] = <a_j, b_k> of two methods on the same units,
float64 of shape [n, n], in squared gradient units. The units are independent; the pair (a_j, b_j) is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def inner_of_means(products: Array) -> float:
    """Unbiased <E a, E b>: the mean of the off-diagonal entries, a U-statistic of order two.

        ( Σ_jk H_jk − Σ_j H_jj ) / ( n (n − 1) )

    With a = b this is |G|²; it may be negative where noise hides the mean. NaN for fewer than two units.

    >>> float(inner_of_means(np.array([[1.0, 2.0], [4.0, 9.0]])))
    3.0
    """
    n = len(products)
    return float((products.sum() - np.trace(products)) / (n * (n - 1))) if n > 1 else float("nan")


def trace_covariance(products: Array) -> float:
    """Unbiased tr Cov(a, b), for a = b the trace of Σ.

        ( Σ_j H_jj − Σ_jk H_jk / n ) / ( n − 1 )

    Equal to McCandlish et al.'s estimate from batches of one and of n units (arXiv 1812.06162, appendix A.1).

    >>> float(trace_covariance(np.array([[1.0, 2.0], [2.0, 4.0]])))  # units 1 and 2 on a line: variance 1/2
    0.5
    """
    n = len(products)
    return float((np.trace(products) - products.sum() / n) / (n - 1)) if n > 1 else float("nan")


def leave_out_inner(products: Array) -> Array:
    """`inner_of_means` without unit j, for every j: shape [n]. NaN for fewer than three units."""
    n = len(products)
    diagonal = np.diagonal(products)
    rest = products.sum() - diagonal.sum() - products.sum(1) - products.sum(0) + 2 * diagonal
    return rest / ((n - 1) * (n - 2)) if n > 2 else np.full(n, np.nan)


def leave_out_trace(products: Array) -> Array:
    """`trace_covariance` without unit j, for every j: shape [n]. NaN for fewer than three units."""
    n = len(products)
    diagonal = np.diagonal(products)
    total = products.sum() - products.sum(1) - products.sum(0) + diagonal
    return (diagonal.sum() - diagonal - total / (n - 1)) / (n - 2) if n > 2 else np.full(n, np.nan)
