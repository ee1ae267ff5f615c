"""What sampled the rollouts of each point: the policy, an older checkpoint, a perturbed copy, or another engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradaxis.diagnostics.config import ExperimentConfig
from gradaxis.diagnostics.drift_measures import drift_sums, drift_values
from gradaxis.diagnostics.models import load_model
from gradaxis.diagnostics.points import CHECKPOINTS, ENGINE, ENGINES, PERTURBED, STALE, SYNTHETIC, kind_of
from gradaxis.diagnostics.storage import read_json, write_json
from gradaxis.estimators.policies import HuggingFacePolicy, engine_policy, list_answers, perturbed_policy
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.scoring import score_columns

HALF = (torch.bfloat16, torch.float16)
ORDER = "checkpoints.json"
"""Which older checkpoint each stale point is, once their drift has been measured."""


def load_sampler(config: ExperimentConfig, folder: Path, point: str) -> HuggingFacePolicy:
    """The policy that samples at a point. Raises as `load_model`."""
    if kind_of(point) == CHECKPOINTS and config.behaviors:
        return load_checkpoint(config, checkpoint_of(config, folder, point)["model"])
    policy = load_model(config, "policy")
    if point.startswith(PERTURBED):
        size = float(point.removeprefix(PERTURBED))
        return perturbed_policy(policy, size, torch.Generator().manual_seed(config.seed))
    return engine_policy(policy, point.removeprefix(ENGINE)) if point.startswith(ENGINE) else policy


def load_checkpoint(config: ExperimentConfig, name: str) -> HuggingFacePolicy:
    """One of several older checkpoints."""
    return load_model(config.model_copy(update={"behavior": name}), "behavior")


def describe_sampler(config: ExperimentConfig, folder: Path, point: str) -> dict[str, Any]:
    """How the point was made, for provenance."""
    kind = kind_of(point)
    if kind == CHECKPOINTS:
        return {"kind": "older checkpoint", **({} if point == STALE else checkpoint_of(config, folder, point))}
    if kind == SYNTHETIC:
        size = float(point.removeprefix(PERTURBED))
        return {"kind": "perturbed weights", "synthetic": True, "noise": size, "seed": config.seed}
    if kind == ENGINES:
        return {"kind": "sampling engine", "synthetic": True, "engine": point.removeprefix(ENGINE)}
    return {"kind": "policy"}


def checkpoint_of(config: ExperimentConfig, folder: Path, point: str) -> Mapping[str, Any]:
    """The older checkpoint that a stale point is: its `model`, and where there are several their order's facts."""
    return {"model": config.behaviors[0]} if point == STALE else read_json(folder / ORDER)[point]


def order_checkpoints(config: ExperimentConfig, folder: Path, sampled: Callable[[Path, str], RolloutBatch]) -> None:
    """Number several older checkpoints by how far the policy has moved from them, the nearest first, and store that.

    The measure is KL(μ‖π) a token (k3) on the rollouts that will be measured, which are sampled here, one file a
    checkpoint.

    Args:
        sampled: rollouts from a checkpoint by name, from their file where it is there.
    """
    if len(config.behaviors) < 2 or (folder / ORDER).is_file():
        return
    files = {name: f"rollouts-checkpoint-{number + 1}.parquet" for number, name in enumerate(config.behaviors)}
    batches = {name: sampled(folder / file, name) for name, file in files.items()}
    policy = load_model(config, "policy")
    drift = {name: _drift(policy, batch) for name, batch in batches.items()}
    order = sorted(config.behaviors, key=drift.__getitem__)
    write_json(folder / ORDER, {
        f"{STALE}-{place + 1}": {"model": name, "k3_kl": drift[name], "file": files[name]}
        for place, name in enumerate(order)
    })  # fmt: skip


def take_over(config: ExperimentConfig, folder: Path, point: str, path: Path) -> None:
    """Give the rollouts of a numbered checkpoint the name of their point, where they have not got it yet."""
    if kind_of(point) == CHECKPOINTS and point != STALE and not path.is_file():
        file = folder / checkpoint_of(config, folder, point)["file"]
        if file.is_file():
            file.replace(path)


def with_sampler(batch: RolloutBatch, description: Mapping[str, Any]) -> RolloutBatch:
    """The batch with the description of its point in its provenance."""
    return replace(batch, provenance={**batch.provenance, "sampler": dict(description)})


def exact_drift(
    policy: HuggingFacePolicy, sampler: HuggingFacePolicy, task: Any, prompts: Sequence[Any], temperature: float = 1.0
) -> dict[str, float] | None:
    """Every measure of drift exactly, over all answers of the sampler to these prompts.

    None where the sampler computes in half precision: how such an engine rounds depends on what else is in the pass,
    and listing its answers would be listing those of another engine.
    """
    if sampler is policy:
        same = np.zeros((1, 1))
        return drift_values(drift_sums(same, same, same == 0))
    if sampler.dtype in HALF:
        return None
    totals: dict[str, Any] = {}
    pairs = zip(*(list_answers(one, task, prompts, temperature=temperature) for one in (policy, sampler)), strict=True)
    for ours, theirs in pairs:
        new, old = (answers.logp.double().flatten(0, 1).cpu().numpy() for answers in (ours, theirs))
        mask = np.tile(ours.tree.mask.cpu().numpy(), (len(ours.prompts), 1))
        chance = theirs.probability.double().flatten().cpu().numpy()
        sums = drift_sums(new, old, mask, weight=chance)
        totals = {name: totals.get(name, 0.0) + part for name, part in sums.items()}
    return drift_values(totals)


def without_law(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers from enumeration without those about the law that sampled, where that cannot be listed."""
    return {name: value for name, value in numbers.items() if name != "silent groups"}


def _drift(policy: HuggingFacePolicy, batch: RolloutBatch) -> float:
    scored = score_columns(batch, policy=policy)
    new, old = (scored.column(name).double().cpu().numpy() for name in ("logp", "behavior_logp"))
    return drift_values(drift_sums(new, old, scored.mask.cpu().numpy()))["k3_kl"]
