"""What the demo promises of its rollouts, by plain automatic differentiation of every method on them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from gradaxis.diagnostics import ExperimentConfig
from gradaxis.diagnostics.provenance import Clock
from gradaxis.diagnostics.stages import Stages
from gradaxis.estimators import compile
from gradaxis.estimators.policies import embedded_policy

PARALLEL = 1 - 1e-6
COINCIDE = {
    # Every ratio is 1 on fresh rollouts. grpo and gspo differ in the ratio and its bounds only; cispo and dapo in their
    # bounds, in a penalty on lengths that no answer reaches, and in the silent groups, which have no gradient anyway.
    "fresh": {("cispo", "dapo"), ("grpo", "gspo")},
    "stale": set(),
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Stages:
    return Stages(ExperimentConfig.demo(), tmp_path_factory.mktemp("demo"), lambda stage, done, total: None)


@pytest.mark.parametrize("point", ["fresh", "stale"])
def test_which_methods_have_parallel_gradients(stages, registry, point) -> None:
    policy = embedded_policy("policy", dtype="float64")
    batch = stages._scored(point, Clock(Path(stages.folder))).to(dtype=torch.float64)
    batch = batch.with_columns(policy.quantities(batch, ("logp",)))
    if point == "fresh":
        batch = batch.with_columns({"old_logp": batch.column("logp")})
    flat = {}
    for method in registry.select("all"):
        gradient = compile(method).gradient(policy, batch)
        flat[method.id] = torch.cat([piece.flatten() for piece in gradient.values()])
    assert len(flat) == 13
    found = {
        pair
        for pair in combinations(sorted(flat), 2)
        if torch.cosine_similarity(flat[pair[0]], flat[pair[1]], dim=0) >= PARALLEL
    }
    assert found == COINCIDE[point]
