"""The stages of an experiment, each of which leaves a file and is skipped when its file is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gradaxis.diagnostics.build import complete_evidence, plan_evidence, without_model
from gradaxis.diagnostics.config import EXACT_CRITIC, ExperimentConfig
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.gram_file import read_facts, read_gram, write_gram
from gradaxis.diagnostics.inner_steps import take_steps
from gradaxis.diagnostics.memory import release_memory
from gradaxis.diagnostics.models import load_model, load_values
from gradaxis.diagnostics.provenance import Clock
from gradaxis.diagnostics.storage import read_json, write_json
from gradaxis.diagnostics.truth import exact_directions, exact_numbers, is_enumerable
from gradaxis.errors import UsageError
from gradaxis.estimators import compile
from gradaxis.estimators.gradients import Patterns, compute_gram
from gradaxis.estimators.policies import HuggingFacePolicy
from gradaxis.estimators.rollouts import RolloutBatch, read_rollouts, write_rollouts
from gradaxis.estimators.rollouts.items import Task
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.scoring import score_columns
from gradaxis.estimators.rollouts.tasks import load_task
from gradaxis.taxonomy import Method, Registry, load_registry

FRESH, STALE = "fresh", "stale"
SAME = 1e-3
"""Log-probabilities of one policy from two engines may differ so much, in nats."""


class Stages:
    """Everything between a configuration and the evidence of a point.

    Raises UsageError when the configuration lacks what sampling or measuring needs.
    """

    def __init__(self, config: ExperimentConfig, folder: Path, tell: Callable[[str, int, int], None]) -> None:
        if config.policy is None and config.rollouts is None:
            raise UsageError("nothing to measure: name a model (--model), or a file of rollouts (--rollouts)")
        if config.policy is None and config.critic == EXACT_CRITIC:
            raise UsageError("the exact critic needs the policy; name it with --model")
        if config.rollouts is None and config.task is None:
            raise UsageError("no task to sample from: name one with --task, or give rollouts with --rollouts")
        if config.rollouts is None and not config.points:
            raise UsageError("no point to measure: keep the fresh one, or give --behavior or --inner-step")
        self.config, self.folder, self.tell = config, folder, tell

    @cached_property
    def registry(self) -> Registry:
        return load_registry()

    @cached_property
    def methods(self) -> list[Method]:
        """The methods asked for. Those that this version cannot compute stay among them, and become rows."""
        return self.registry.select(self.config.methods)

    @cached_property
    def task(self) -> Task | None:
        return load_task(self.config.task, reward=self.config.reward) if self.config.task else None

    def points(self) -> tuple[str, ...]:
        """The points that will be measured; with rollouts from a file, the one that they are at."""
        if self.config.rollouts is None:
            return self.config.points
        path = self.folder / "point.json"
        if not path.is_file():
            write_json(path, {"point": self._point_of_file()})
        return (read_json(path)["point"],)

    def evidence(self, point: str, clock: Clock) -> Evidence:
        """The evidence of one point, from the files that are there and the stages that are not."""
        scored = self._scored(point, clock)
        with clock.time(f"{point}: coefficients"):
            self.tell(f"{point}: coefficients", 0, 1)
            gradients = self.config.policy is not None
            slots = bool({"all", "slots"} & set(self.config.probes))
            plan = plan_evidence(point, scored, self.methods, self.registry, slots=slots, gradients=gradients)
            self.tell(f"{point}: coefficients", 1, 1)
        if not gradients:
            return without_model(plan, "no model: gradients need the policy itself")
        if plan.patterns is None:
            return without_model(plan, "no method could be computed on these rollouts")
        path = self.folder / f"gram-{point}.npz"
        if not path.is_file():
            with clock.time(f"{point}: gradients"):
                self.tell(f"{point}: gradients", 0, 1)
                self._write_gram(path, point, plan.patterns, scored)
                release_memory()
                self.tell(f"{point}: gradients", 1, 1)
        numbers, patterns, facts = read_gram(path)
        plan = replace(plan, patterns=patterns, evidence=replace(plan.evidence, exact_values=facts["numbers"]))
        with clock.time(f"{point}: inner products"):
            return complete_evidence(plan, numbers)

    def origins(self, point: str) -> dict[str, Any]:
        """What provenance keeps of a finished point: its sampling settings, its models, and its Gram matrix."""
        found: dict[str, Any] = {"rollouts": dict(read_rollouts(self.folder / f"scored-{point}.parquet").provenance)}
        path = self.folder / f"gram-{point}.npz"
        if path.is_file():
            facts = read_facts(path)
            names = ("exact", "columns", "relative_error", "parameters", "patterns")
            found["gram"] = {name: facts[name] for name in names}
        return found

    def _point_of_file(self) -> str:
        """Fresh where the policy's log-probabilities are those that were sampled with, else stale."""
        assert self.config.rollouts is not None
        batch = read_rollouts(self.config.rollouts)
        if self.config.policy is not None:
            batch = score_columns(batch, policy=load_model(self.config, "policy"))
        sampled = batch.columns.get("behavior_logp", batch.columns.get("old_logp"))
        if sampled is None or "logp" not in batch.columns:
            return STALE
        gap = (batch.columns["logp"] - sampled)[batch.mask].abs()
        return FRESH if gap.numel() == 0 or float(gap.max()) < SAME else STALE

    def _scored(self, point: str, clock: Clock) -> RolloutBatch:
        path = self.folder / f"scored-{point}.parquet"
        if not path.is_file():
            batch = self._sampled(point, clock)
            with clock.time(f"{point}: scoring"):
                self.tell(f"{point}: scoring", 0, 1)
                policy = self._policy_at(point, clock) if self.config.policy is not None else None
                write_rollouts(self._score(batch, point, policy), path)
                del policy
                release_memory()
                self.tell(f"{point}: scoring", 1, 1)
        return read_rollouts(path, self.config.device)

    def _sampled(self, point: str, clock: Clock, steps: bool = False) -> RolloutBatch:
        """The rollouts of a point; with `steps` those that inner steps are taken on, of another seed."""
        if self.config.rollouts is not None:
            return read_rollouts(self.config.rollouts, self.config.device)
        path = self.folder / f"rollouts-{point}{'-steps' if steps else ''}.parquet"
        if not path.is_file():
            with clock.time(f"{point}: sampling"):
                write_rollouts(self._sample(point, self.config.seed + steps), path)
                release_memory()
        return read_rollouts(path, self.config.device)

    def _sample(self, point: str, seed: int) -> RolloutBatch:
        config, task = self.config, self.task
        assert task is not None
        settings = SamplingSettings(
            group_size=config.group_size, groups=config.groups, temperature=config.temperature, top_k=config.top_k,
            top_p=config.top_p, max_new_tokens=config.max_new_tokens, seed=seed, plain=config.plain,
        )  # fmt: skip
        greedy = any(need.column == "companion:greedy" for method in self.methods for need in method.needs)
        return sample_rollouts(
            load_model(config, self._sampler(point)), task, task.prompts(config.prompts, config.seed), settings,
            greedy=greedy, progress=lambda done, total: self.tell(f"{point}: sampling", done, total),
        )  # fmt: skip

    def _sampler(self, point: str) -> str:
        """The role of the model that sampled the rollouts of a point."""
        return "behavior" if point == STALE and self.config.behavior is not None else "policy"

    def _score(self, batch: RolloutBatch, point: str, policy: HuggingFacePolicy | None) -> RolloutBatch:
        """Every column that the models named supply, one model in memory at a time beside the policy.

        What they do not supply stays missing.
        """
        config, identities = self.config, {}
        if policy is not None:
            identities["logp"] = policy.identity
            batch = score_columns(batch, policy=policy)
            if config.critic is not None:
                identities["value"] = config.critic
                batch = score_columns(batch, critic=load_values(config, policy, self.task))
        if "old_logp" not in batch.columns:
            if point == FRESH and "logp" in batch.columns:
                batch = batch.with_columns({"old_logp": batch.columns["logp"]})
            elif config.rollouts is None or config.behavior is not None:
                batch = score_columns(batch, old=load_model(config, self._sampler(point)))
        if config.reference is not None:
            reference = load_model(config, "reference")
            identities["ref_logp"] = reference.identity
            batch = score_columns(batch, reference=reference)
        if config.teacher is not None:
            teacher = load_model(config, "teacher")
            identities["teacher_logp"] = teacher.identity
            batch = score_columns(batch, teachers=teacher)
        return replace(batch, provenance={**batch.provenance, "scored_by": identities})

    def _policy_at(self, point: str, clock: Clock) -> HuggingFacePolicy:
        """The policy at which gradients are taken: as it is, or moved by the inner steps."""
        config, policy = self.config, load_model(self.config, "policy")
        if not point.startswith("inner-step"):
            return policy
        estimator = compile(self.registry.select(config.inner_method)[0])
        batch = self._score(self._sampled(point, clock, steps=True), FRESH, policy)
        return take_steps(policy, estimator, batch, config.inner_step, config.inner_rate, config.micro_batch)

    def _write_gram(self, path: Path, point: str, patterns: Patterns, scored: RolloutBatch) -> None:
        config, task = self.config, self.task
        policy = self._policy_at(point, Clock(self.folder))
        numbers: dict[str, Any] = {}
        directions = None
        if config.enumerate and task is not None and is_enumerable(policy, task, scored):
            size = int(scored.group.unique(return_counts=True)[1].max())
            sampler = policy if point == FRESH else load_model(config, self._sampler(point))
            numbers = exact_numbers(policy, sampler, task, scored, size)
            prompts = [scored.prompts[number] for number in scored.prompt.unique().tolist()]
            temperature = float(scored.provenance.get("temperature", 1.0))
            directions = exact_directions(policy, task, prompts, temperature)
        gram = compute_gram(
            policy, scored, patterns, mode=config.mode, columns=config.columns, directions=directions,
            generator=torch.Generator().manual_seed(config.seed), micro_batch=config.micro_batch,
        )  # fmt: skip
        write_gram(path, gram, patterns, numbers)
