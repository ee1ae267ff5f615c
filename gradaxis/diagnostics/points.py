"""The points of an update that are measured, by name: what sampled the rollouts of each.

    fresh            the policy itself
    stale, stale-k   an older checkpoint; several are numbered by how far the policy has moved from them, as measured
    perturbed-s      a copy of the policy with relative Gaussian noise s on its weights: drift that is made, not met
    engine-d         the policy's weights in another precision: no drift at all, but another engine
    inner-step-k     the policy before its k steps

Fresh and inner steps have no place on a curve over drift; the others have that of what was measured.
"""

from __future__ import annotations

FRESH, STALE = "fresh", "stale"
PERTURBED, ENGINE, INNER = "perturbed-", "engine-", "inner-step-"

CHECKPOINTS, SYNTHETIC, ENGINES = "older checkpoints", "perturbed weights", "sampling engines"
"""The kinds of points that make a curve: staleness that was met, staleness that was made, and mismatch."""


def kind_of(point: str) -> str:
    """The kind of curve that a point lies on; empty for one that lies on none.

    >>> [kind_of(point) for point in ("stale-2", "perturbed-0.01", "engine-int8", "fresh")]
    ['older checkpoints', 'perturbed weights', 'sampling engines', '']
    """
    if point == STALE or point.startswith(f"{STALE}-"):
        return CHECKPOINTS
    if point.startswith(PERTURBED):
        return SYNTHETIC
    return ENGINES if point.startswith(ENGINE) else ""
