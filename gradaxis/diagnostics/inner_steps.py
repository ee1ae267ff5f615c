"""Reaching the k-th step of an update: real optimiser steps of one stated method, on a copy of the policy."""

from __future__ import annotations

import copy

import torch

from gradaxis.errors import MissingInputError
from gradaxis.estimators import CompiledEstimator
from gradaxis.estimators.policies import HuggingFacePolicy
from gradaxis.estimators.rollouts.batch import RolloutBatch


def take_steps(
    policy: HuggingFacePolicy, estimator: CompiledEstimator, batch: RolloutBatch, steps: int, rate: float,
    micro_batch: int | None = None,
) -> HuggingFacePolicy:  # fmt: skip
    """The policy after `steps` Adam steps that ascend the estimator's L on the batch; the one given stays as it is.

    Args:
        policy: at the start of the update. estimator: the one method whose steps are taken, whatever is measured later.
        batch: rollouts with all that the method needs. They must not be those that are measured afterwards: a policy
            that has been fitted to rollouts is not independent of them, and no reference on them would be unbiased.
        steps, rate: of Adam.

    Raises:
        MissingInputError: the batch lacks what the method needs.
    """
    missing: list[MissingInputError] = estimator.missing(batch)
    if missing:
        raise missing[0]
    moved = HuggingFacePolicy(
        copy.deepcopy(policy.model), policy.tokenizer, policy.params, f"{policy.name}+{steps} steps", policy.memory
    )
    optimiser = torch.optim.Adam(moved.parameters().values(), lr=rate)
    for _ in range(steps):
        gradient = estimator.gradient(moved, batch, micro_batch)
        for name, parameter in moved.parameters().items():
            parameter.grad = -gradient[name]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return moved
