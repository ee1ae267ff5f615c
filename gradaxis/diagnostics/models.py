"""The models of an experiment, loaded when a stage needs them and let go afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gradaxis.diagnostics.config import EMBEDDED, EXACT_CRITIC, ExperimentConfig
from gradaxis.errors import UsageError
from gradaxis.estimators.policies import HuggingFacePolicy, embedded_policy
from gradaxis.estimators.policies.exact import exact_values
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.critics import load_critic
from gradaxis.estimators.rollouts.items import Task


def load_model(config: ExperimentConfig, role: str) -> HuggingFacePolicy:
    """The model of a role (`policy`, `behavior`, `reference`, `teacher`). Raises UsageError when none was named."""
    name: str | None = getattr(config, role)
    if name is None:
        raise UsageError(
            f"this needs a model for the role {role}; name it with --{'model' if role == 'policy' else role}"
        )
    if name.startswith(EMBEDDED):
        params = config.params if role == "policy" else "all"
        policy = embedded_policy(name.removeprefix(EMBEDDED), config.dtype, config.device, params)
        policy.memory = config.memory
        return policy
    return HuggingFacePolicy.load(
        name, device=config.device, dtype=config.dtype, params=config.params if role == "policy" else "all",
        gguf_file=config.gguf_file if role == "policy" else None, trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle, memory=config.memory,
    )  # fmt: skip


def load_values(config: ExperimentConfig, policy: HuggingFacePolicy, task: Task | None) -> Any:
    """The critic: a model with a scalar head, or with `exact` the values of `policy` over all its answers."""
    assert config.critic is not None
    if config.critic != EXACT_CRITIC:
        return load_critic(config.critic, config.device, config.dtype)
    if task is None:
        raise UsageError(
            "the exact critic scores every answer, so it needs the task of the rollouts; name it with --task"
        )
    found: Callable[[RolloutBatch], Tensor] = lambda batch: exact_values(  # noqa: E731
        policy, task, batch, float(batch.provenance.get("temperature", 1.0))
    )
    return found
