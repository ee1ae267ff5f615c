"""Inner products with the target of bias, with the noise that method and reference share taken out."""

from __future__ import annotations

import numpy as np

from gradaxis.diagnostics.evidence import EXACT, REFERENCE, Evidence
from gradaxis.diagnostics.statistics import Array
from gradaxis.diagnostics.units import Key


def adjusted(evidence: Evidence, key: Key) -> tuple[Array, Array]:
    """Products [n, n] of a method's adjusted units with themselves and with the target's units.

    Where each prompt's exact gradient t_j and the unbiased reference r_j are both known, e_j = r_j − t_j is noise with
    mean zero on the same rollouts, and a_j = g_j − c·e_j has the mean of g_j with less noise (a control variate; c is
    the least-squares coefficient of g_j − t_j on e_j). Elsewhere a_j = g_j.
    """
    assert evidence.target is not None, "ask for the target first"
    if evidence.target != EXACT or not evidence.has(REFERENCE):
        return evidence.of(key), evidence.of(key, evidence.target)
    parts = (key, REFERENCE, EXACT)
    blocks = np.array([[evidence.of(first, second) for second in parts] for first in parts])  # [3, 3, n, n]
    noise, own = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.0, -1.0])
    diagonal = np.trace(blocks, axis1=2, axis2=3)
    variance = float(noise @ diagonal @ noise)
    share = float(own @ diagonal @ noise) / variance if variance > 0 else 0.0
    combined = np.array([1.0, 0.0, 0.0]) - share * noise
    mean = np.einsum("a,abjk,b->jk", combined, blocks, combined)
    cross = np.einsum("a,ajk->jk", combined, blocks[:, 2])
    return mean, cross
