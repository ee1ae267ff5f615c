"""The backend against plain autograd, on two gradients, before anything is believed."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import GradaxisError
from gradaxis.estimators.gradients.metric import Roots, weigh
from gradaxis.estimators.gradients.patterns import Patterns
from gradaxis.estimators.gradients.rest import parameter_groups, row_gradients
from gradaxis.estimators.gradients.work import GramWork
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.rollouts.batch import RolloutBatch

TOLERANCE = 1e-3
"""Largest difference of an inner product from autograd's, relative to the norms."""

STANDARD_ERRORS = 6.0
"""Largest difference of a projected inner product from autograd's, in standard errors of the projection."""


def self_test(
    policy: HuggingFacePolicy,
    batch: RolloutBatch,
    patterns: Patterns,
    columns: int | None = None,
    generator: torch.Generator | None = None,
    memory: int | None = None,
    roots: Roots | None = None,
) -> float:
    """Compares the backend with autograd on a long and a short sequence, one pattern each.

    Both stand in one padded batch for the backend, and alone and unpadded for autograd. All inner products of the two
    gradients are compared, and the share of every parameter.

    Args:
        policy, batch, patterns: as for `compute_gram`.
        columns: also test a projection to so many columns, within six standard errors.
        generator: of that projection.
        memory: bytes that may be used: parameters are gone through in groups whose gradients fit.
        roots: of the weights of inner products, where they are to be compared in another metric.

    Returns:
        The largest difference relative to the norms (of the exact way); 0.0 where no sequence has a coefficient.

    Raises:
        GradaxisError: a difference is too large, so that no result of this backend could be trusted.
    """
    live = patterns.rank.nonzero()[:, 0].to(batch.device)
    if len(live) == 0:
        return 0.0
    order = live[batch.length[live].argsort()]
    chosen = torch.stack([order[-1], order[0]]) if len(order) > 1 else order
    few = patterns.rows(chosen.to(patterns.rank.device))
    first = Patterns(few.vectors[:, :1], few.quantities, few.rank.clamp(max=1))
    small = batch.rows(chosen)
    coefficients = {name: first.vectors[:, 0, c].to(policy.device) for c, name in enumerate(first.quantities)}
    places, names = torch.arange(len(chosen), device=policy.device), tuple(policy.parameters())
    expected = torch.zeros(len(chosen), len(chosen), dtype=torch.float64, device=policy.device)
    shares: dict[str, Tensor] = {}
    at_once = None if memory is None else max(1, memory // (4 * policy.dtype.itemsize))
    for group in parameter_groups(policy, names, len(chosen), at_once):
        gradients = row_gradients(policy, policy.inputs(small), places, coefficients, group)
        truth = [weigh(gradient, roots) for gradient in gradients]
        expected += torch.stack([torch.stack([_dot(left, right) for right in truth]) for left in truth])
        shares |= {name: torch.stack([_dot({name: row[name]}, {name: row[name]}) for row in truth]) for name in group}
        del truth
    norm = expected.diagonal().sqrt().clamp(min=torch.finfo(torch.float64).tiny)

    work = GramWork(policy, small, first, memory=memory, columns=columns or 1, roots=roots)
    found = work.exact()
    difference = float(((found.matrix - expected) / (norm[:, None] * norm)).abs().max())
    for name in names:
        difference = max(difference, float(((found.energy[name] - shares[name]) / norm.square()).abs().max()))
    if not difference <= TOLERANCE:
        raise GradaxisError(
            f"the gradients of this model disagree with autograd by {difference:.1e} of their norms (allowed: "
            f"{TOLERANCE:.0e}). Use --dtype float32; if that is what you used, report the model's architecture"
        )
    if columns is not None and generator is not None:
        projected = work.projected(generator).matrix
        cosine = expected / (norm[:, None] * norm)
        allowed = STANDARD_ERRORS * ((1 + cosine.square()) / columns).sqrt()
        if bool(((projected / (norm[:, None] * norm) - cosine).abs() > allowed + TOLERANCE).any()):
            raise GradaxisError("the projected gradients disagree with autograd by more than the projection explains")
    return difference


def _dot(left: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
    """⟨left, right⟩ over the parameters of `left`, float64."""
    return torch.stack([(left[name] * right[name]).sum(dtype=torch.float64) for name in left]).sum()
