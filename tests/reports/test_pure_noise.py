"""A report on rewards that have nothing to do with the answers says nothing: in at least 95 % of runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gradaxis.diagnostics.probes import PROBES
from gradaxis.diagnostics.testbeds import draw, evidence, load_testbed
from gradaxis.reports.findings import derive_findings
from gradaxis.reports.results import Results
from gradaxis.taxonomy import load_registry

RUNS, ALLOWED = 60, 6
"""More than 6 of 60 runs speak in 3 % of cases where each does with probability .05."""

FACTS = ("silent groups", "coincidence")
"""Kinds of findings that say what these rollouts are, with no error rate: equal rewards, and parallel gradients."""

METHODS = "grpo,dr-grpo,rloo[shaping.coefficient=0],ppo,gspo,dapo"


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
def test_noise_makes_no_finding(stale: bool) -> None:
    registry = load_registry()
    listing = load_testbed("eos", stale=stale, drift=0.15)
    methods = registry.select(METHODS)
    spoke = []
    for seed in range(RUNS):
        generator = torch.Generator().manual_seed(seed)
        batch = draw(listing, 24, 1, 8, generator)
        noise = torch.rand(batch.rewards.shape, generator=generator, dtype=batch.rewards.dtype)
        noisy = replace(batch, rewards=noise)
        found = evidence(listing, noisy, methods, registry, "stale" if stale else "fresh", exact=False)
        rows = tuple(row for probe in PROBES.values() for row in probe(found))
        findings = derive_findings(Results(rows))
        spoke += [[one for one in findings if one.standing == "finding" and one.kind not in FACTS]]
    loud = [[one.text for one in findings] for findings in spoke if findings]
    assert len(loud) <= ALLOWED, loud[:3]
