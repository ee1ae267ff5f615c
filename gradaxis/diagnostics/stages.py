"""The stages of an experiment, each of which leaves a file and is skipped when its file is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gradaxis.diagnostics.complete import complete_evidence, layer_units
from gradaxis.diagnostics.config import EXACT_CRITIC, ExperimentConfig
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.exact_functionals import Exact, ExactKey, exact_functionals
from gradaxis.diagnostics.functionals import Functional
from gradaxis.diagnostics.geometry import asked_by, in_micro_batches_of
from gradaxis.diagnostics.gram_file import names_of, read_facts, read_gram, write_gram
from gradaxis.diagnostics.inner_steps import take_steps
from gradaxis.diagnostics.memory import release_memory
from gradaxis.diagnostics.models import load_model, load_values
from gradaxis.diagnostics.plan import Plan, plan_evidence, without_model
from gradaxis.diagnostics.points import ENGINE, FRESH, INNER, STALE
from gradaxis.diagnostics.provenance import Clock
from gradaxis.diagnostics.samplers import (
    describe_sampler,
    exact_drift,
    load_checkpoint,
    load_sampler,
    order_checkpoints,
    take_over,
    with_sampler,
    without_law,
)
from gradaxis.diagnostics.storage import read_json, write_json
from gradaxis.diagnostics.truth import exact_directions, exact_numbers, is_enumerable
from gradaxis.diagnostics.user_functionals import load_functionals
from gradaxis.errors import UsageError
from gradaxis.estimators import compile
from gradaxis.estimators.gradients import compute_gram
from gradaxis.estimators.policies import SGD, HuggingFacePolicy, read_optimizer_state
from gradaxis.estimators.rollouts import RolloutBatch, read_rollouts, write_rollouts
from gradaxis.estimators.rollouts.items import Task
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.scoring import score_columns
from gradaxis.estimators.rollouts.tasks import load_task
from gradaxis.taxonomy import Method, Registry, load_registry

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
            raise UsageError(
                "no point to measure: keep the fresh one, or give --behavior, --drift, --engine or --inner-step"
            )
        if config.rollouts is not None and (config.drift or config.engine or len(config.behaviors) > 1):
            raise UsageError("rollouts from a file are at one point: leave out --drift, --engine, more --behavior")
        self.asked = asked_by(config)
        self.config, self.folder, self.tell = config, folder, tell
        self._exact: dict[ExactKey, Exact] = {}  # of the policy itself, which most points share

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

    @cached_property
    def functionals(self) -> list[Functional]:
        """The user's own."""
        return load_functionals(self.config.functionals)

    def points(self) -> tuple[str, ...]:
        """The points that will be measured; with rollouts from a file, the one that they are at."""
        if self.config.rollouts is None:
            order_checkpoints(self.config, self.folder, self._from_checkpoint)
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
            slots, attribution, shares = ({"all", name} & set(self.config.probes) != set()
                                          for name in ("slots", "attribution", "variance"))  # fmt: skip
            plan = plan_evidence(point, scored, self.methods, self.registry, slots=slots, gradients=gradients,
                                 own=self.functionals, asked=self.asked, attribution=attribution,
                                 shares=shares)  # fmt: skip
            self.tell(f"{point}: coefficients", 1, 1)
        if not gradients:
            return without_model(plan, "no model: gradients need the policy itself")
        if plan.patterns is None:
            return without_model(plan, "no method could be computed on these rollouts")
        path = self.folder / f"gram-{point}.npz"
        if not path.is_file():
            with clock.time(f"{point}: gradients"):
                self.tell(f"{point}: gradients", 0, 1)
                self._write_gram(path, point, plan, scored)
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
            names = ("exact", "columns", "relative_error", "parameters", "patterns", "backend", "inner_product")
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
            batch = read_rollouts(self.config.rollouts, self.config.device)
            return in_micro_batches_of(batch, self.config.microbatch)
        path = self.folder / f"rollouts-{point}{'-steps' if steps else ''}.parquet"
        take_over(self.config, self.folder, point, path)
        if not path.is_file():
            with clock.time(f"{point}: sampling"):
                sampler = load_sampler(self.config, self.folder, point)
                write_rollouts(self._sample(sampler, point, self.config.seed + steps), path)
                del sampler
                release_memory()
        return in_micro_batches_of(read_rollouts(path, self.config.device), self.config.microbatch)

    def _from_checkpoint(self, path: Path, name: str) -> RolloutBatch:
        """Rollouts of one of several older checkpoints, before it is known which point it will be."""
        if not path.is_file():
            write_rollouts(self._sample(load_checkpoint(self.config, name), STALE, self.config.seed), path)
            release_memory()
        return read_rollouts(path, self.config.device)

    def _sample(self, sampler: HuggingFacePolicy, point: str, seed: int) -> RolloutBatch:
        config, task = self.config, self.task
        assert task is not None
        settings = SamplingSettings(
            group_size=config.group_size, groups=config.groups, temperature=config.temperature, top_k=config.top_k,
            top_p=config.top_p, max_new_tokens=config.max_new_tokens, seed=seed, plain=config.plain,
        )  # fmt: skip
        greedy = any(need.column == "companion:greedy" for method in self.methods for need in method.needs)
        return sample_rollouts(
            sampler, task, task.prompts(config.prompts, config.seed), settings, memory=config.memory,
            greedy=greedy, progress=lambda done, total: self.tell(f"{point}: sampling", done, total),
        )  # fmt: skip

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
            if point.startswith((FRESH, ENGINE)) and "logp" in batch.columns:  # an engine holds the policy's weights
                batch = batch.with_columns({"old_logp": batch.columns["logp"]})
            elif config.rollouts is None or config.behavior is not None:
                batch = score_columns(batch, old=load_sampler(config, self.folder, point))
        release_memory()
        if config.reference is not None:
            reference = load_model(config, "reference")
            identities["ref_logp"] = reference.identity
            batch = score_columns(batch, reference=reference)
            del reference
            release_memory()
        if config.teacher is not None:
            teacher = load_model(config, "teacher")
            identities["teacher_logp"] = teacher.identity
            batch = score_columns(batch, teachers=teacher)
        if config.rollouts is None:
            batch = with_sampler(batch, describe_sampler(config, self.folder, point))
        return replace(batch, provenance={**batch.provenance, "scored_by": identities})

    def _policy_at(self, point: str, clock: Clock) -> HuggingFacePolicy:
        """The policy at which gradients are taken: as it is, or moved by the inner steps."""
        config, policy = self.config, load_model(self.config, "policy")
        if not point.startswith(INNER):
            return policy
        estimator = compile(self.registry.select(config.inner_method)[0])
        batch = self._score(self._sampled(point, clock, steps=True), FRESH, policy)
        return take_steps(policy, estimator, batch, config.inner_step, config.inner_rate, config.micro_batch)

    def _write_gram(self, path: Path, point: str, plan: Plan, scored: RolloutBatch) -> None:
        config, task, patterns = self.config, self.task, plan.patterns
        assert patterns is not None, "a plan without candidates has no gradients"
        policy = self._policy_at(point, Clock(self.folder))
        numbers: dict[str, Any] = {}
        directions = None
        if config.enumerate and task is not None and is_enumerable(policy, task, scored):
            size = int(scored.group.unique(return_counts=True)[1].max())
            sampler = policy if point == FRESH else load_sampler(config, self.folder, point)
            prompts = [scored.prompts[number] for number in scored.prompt.unique().tolist()]
            temperature = float(scored.provenance.get("temperature", 1.0))
            numbers = exact_numbers(policy, sampler, task, scored, size)
            known = point == FRESH or config.rollouts is None or config.behavior is not None
            drift = exact_drift(policy, sampler, task, prompts, temperature) if known else None
            numbers = {**numbers, "drift": drift} if drift is not None else without_law(numbers)
            directions = exact_directions(policy, task, prompts, temperature)
            reference = load_model(config, "reference") if config.reference is not None else None
            earlier = self._exact if not point.startswith(INNER) else None
            exact = exact_functionals(
                policy, task, prompts, plan.evidence.functionals.known, temperature, reference, earlier
            )
            numbers["functionals"] = exact.values
            directions.update(exact.directions)
        state = SGD
        if config.optimizer_state is not None:
            state = read_optimizer_state(config.optimizer_state, policy, config.allow_pickle)
        gram = compute_gram(
            policy, scored, patterns, mode=config.mode, columns=config.columns, directions=directions,
            generator=torch.Generator().manual_seed(config.seed), micro_batch=config.micro_batch,
            units=names_of(layer_units(plan)), metric=state.weights or None,
        )  # fmt: skip
        write_gram(path, gram, patterns, numbers, state.facts)
