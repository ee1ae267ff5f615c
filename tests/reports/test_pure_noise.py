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

RUNS, ALLOWED = 40, 5
"""More than 5 of 40 runs speak in 1.4 % of cases where each does with probability .05."""

FACTS = ("silent groups", "coincidence")
"""Kinds of findings that say what these rollouts are, with no error rate: equal rewards, and parallel gradients."""

METHODS = {
    "fresh": "grpo,dr-grpo,rloo[shaping.coefficient=0],ppo,gspo,dapo",
    "stale": "rloo[shaping.coefficient=0],reinforce-baseline,cispo",
}
"""On stale rollouts those whose expected gradient is zero on such rewards. A clip that reads the sign of the advantage
pushes even then (arXiv 2509.26114), and a report that says so is right.
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", METHODS)
def test_noise_makes_no_finding(point: str) -> None:
    registry = load_registry()
    listing = load_testbed("eos", stale=point == "stale", drift=0.15)
    methods = registry.select(METHODS[point])
    spoke = []
    for seed in range(RUNS):
        generator = torch.Generator().manual_seed(seed)
        batch = draw(listing, 24, 1, 8, generator)
        noise = torch.rand(batch.rewards.shape, generator=generator, dtype=batch.rewards.dtype)
        noisy = replace(batch, rewards=noise)
        found = evidence(listing, noisy, methods, registry, point, exact=False)
        rows = tuple(row for probe in PROBES.values() for row in probe(found))
        findings = derive_findings(Results(rows))
        spoke += [[one for one in findings if one.standing == "finding" and one.kind not in FACTS]]
    loud = [[one.text for one in findings] for findings in spoke if findings]
    assert len(loud) <= ALLOWED, loud[:3]
