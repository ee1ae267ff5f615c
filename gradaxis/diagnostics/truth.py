"""What can be known exactly of a policy whose answers can all be listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradaxis.diagnostics.complete import DIRECTION_ENTROPY, PROMPT
from gradaxis.estimators.policies import (
    HuggingFacePolicy,
    Outcomes,
    exact,
    exact_gradient,
    exact_objective,
    exact_token_entropy,
    silent_group_probability,
)
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch
from gradaxis.estimators.rollouts.items import Task

LARGEST = 3_000
"""Prefixes a prompt up to which a policy is enumerated without being asked twice: seconds on a small machine."""


def is_enumerable(policy: HuggingFacePolicy, task: Task | None, batch: RolloutBatch) -> bool:
    """Whether all answers of the policy can be listed, and the rollouts are such answers."""
    if task is None or batch.provenance.get("task") != task.name:
        return False
    limit = int(batch.provenance.get("max_new_tokens", 0))
    prefixes = sum((policy.vocabulary - 1) ** length for length in range(min(limit, 64)))
    return limit == task.max_new_tokens and prefixes <= LARGEST


def exact_numbers(
    policy: HuggingFacePolicy, sampler: HuggingFacePolicy, task: Task, batch: RolloutBatch, group_size: int
) -> dict[str, Any]:
    """J of the policy; under the policy that sampled the share of silent groups, and the different answers in one."""
    temperature = float(batch.provenance.get("temperature", 1.0))

    def of_group(answers: Outcomes) -> Tensor:
        distinct = (1 - (1 - answers.probability).pow(group_size)).sum(dim=1)
        return torch.stack([silent_group_probability(answers, group_size), distinct], dim=1)

    silent, distinct = exact(sampler, task, batch.prompts, of_group, temperature).mean(dim=0).tolist()
    return {
        "objective": float(exact_objective(policy, task, batch.prompts, temperature)),
        "silent groups": silent,
        "distinct answers": distinct,
    }


def exact_directions(
    policy: HuggingFacePolicy, task: Task, prompts: Sequence[Prompt], temperature: float
) -> dict[str, dict[str, Tensor]]:
    """∇J of every prompt alone, by its number, and the gradient of the entropy a token over all of them.

    The first are the target of bias with no noise within prompts. The second holds what a visit to other contexts
    changes too.
    """
    found = {
        f"{PROMPT}{number}": exact_gradient(policy, task, [prompt], temperature=temperature)
        for number, prompt in enumerate(prompts)
    }
    found[DIRECTION_ENTROPY] = exact_token_entropy(policy, task, prompts, temperature)[1]
    return found
