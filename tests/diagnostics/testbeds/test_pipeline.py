"""Draws, inner products and evidence from listings, against explicit gradients on tables."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from gradaxis.diagnostics.complete import DIRECTION_ENTROPY, PROMPT
from gradaxis.diagnostics.evidence import EXACT, EXACT_ENTROPY, REFERENCE
from gradaxis.diagnostics.probes import PROBES
from gradaxis.diagnostics.testbeds import (
    draw,
    evidence,
    exact_directions,
    exact_numbers,
    gram_numbers,
    load_testbed,
)
from gradaxis.errors import InputError
from gradaxis.estimators import compile
from gradaxis.estimators.gradients import build_patterns
from gradaxis.estimators.policies import (
    TabularPolicy,
    answer_entropy,
    build_space,
    expected_length,
    expected_reward,
    list_tabular,
)
from gradaxis.estimators.rollouts.checks import check_batch

ROWS = [2, 0, 2, 1]
"""Prompts as drawn: one of them twice."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(prompt, prefix):
    return {4: 0.3, 5: 0.7} if len(prefix) == 1 and prefix[0] != 0 else None


def reward(prompt, answer):
    return float(answer[-1] == prompt % 3) + 0.5 * (len(answer) > 2)


@pytest.fixture(scope="module")
def policies() -> dict[str, TabularPolicy]:
    """On three prompts with an environment and shared first rows."""
    space = build_space(3, 3, 4, end=0, environment=world, row=lambda prompt, prefix: (prefix and prompt, prefix))
    return {name: TabularPolicy.random(space, generator(place)) for place, name in enumerate(("policy", "old", "ref"))}


@pytest.fixture(scope="module")
def listing(policies):
    one, other, reference = policies.values()
    return list_tabular(one, reward, behavior=other, reference=reference, teacher=reference)


@pytest.fixture(scope="module")
def batch(listing):
    return draw(listing, ROWS, groups=2, group_size=3, generator=generator(3))


def test_draws_follow_the_law_that_samples():
    listing = load_testbed("eos", stale=True)
    rows = listing.locate(draw(listing, 2000, groups=1, group_size=20, generator=generator(1)))
    counts = torch.bincount(rows, minlength=listing.size).double()
    assert chisquare(torch.bincount(listing.batch.prompt[rows]).numpy() / 20).pvalue > 1e-3
    for prompt in range(3):
        own = listing.batch.prompt == prompt
        expected = listing.probability[own] * counts[own].sum()
        assert chisquare(counts[own].numpy(), expected.numpy()).pvalue > 1e-3
        other = listing.policy_probability[own] * counts[own].sum()
        assert chisquare(counts[own].numpy(), other.numpy()).pvalue < 1e-6


def test_a_drawn_batch_has_numbers_of_its_own(listing, batch):
    check_batch(batch)
    assert batch.size == 4 * 6
    assert batch.prompt.tolist() == [number for number in range(4) for _ in range(6)]
    assert batch.group.tolist() == [number for number in range(8) for _ in range(3)]
    assert [prompt.tokens for prompt in batch.prompts] == [(number,) for number in ROWS]
    greedy = batch.companions["greedy"]
    assert greedy.prompt.tolist() == [0, 1, 2, 3]
    assert greedy.tokens.tolist() == [listing.batch.companions["greedy"].tokens[number].tolist() for number in ROWS]
    assert batch.provenance["law"] == "iid"
    rows = listing.locate(batch)
    assert listing.batch.prompt[rows].tolist() == [ROWS[number] for number in batch.prompt.tolist()]
    for name, column in batch.columns.items():
        assert torch.equal(column, listing.batch.columns[name][rows])
    again = draw(listing, ROWS, groups=2, group_size=3, generator=generator(3))
    assert torch.equal(again.tokens, batch.tokens)
    assert Counter(batch.turns.sequence.tolist()) == Counter(
        row
        for row, source in enumerate(rows.tolist())
        for _ in range(int((listing.batch.turns.sequence == source).sum()))
    )


def test_nothing_to_draw_is_refused(listing):
    for prompts, groups, size in ((0, 1, 2), ([], 1, 2), (2, 0, 2), (2, 1, 0)):
        with pytest.raises(InputError, match="draw"):
            draw(listing, prompts, groups, size, generator())


def test_what_is_not_listed_is_refused(listing):
    other = draw(load_testbed("fixed-length"), 2, 1, 2, generator())
    with pytest.raises(InputError, match="not listed"):
        listing.locate(other)


def test_inner_products_are_those_of_explicit_gradients(policies, listing, batch):
    policy = policies["policy"]
    noise = {name: torch.randn(4, *batch.tokens.shape, dtype=torch.float64, generator=generator(5)) * batch.mask
             for name in ("logp", "entropy")}  # fmt: skip
    patterns = build_patterns([{name: value[place] for name, value in noise.items()} for place in range(4)])
    assert patterns.size > 2
    live = policy.quantities(batch, grad=True)
    explicit = []
    for row in range(batch.size):
        for pattern in range(patterns.size):
            scalar = torch.zeros(()) + sum((patterns.vectors[row, pattern, place] * live[name][row]).sum()
                         for place, name in enumerate(patterns.quantities))  # fmt: skip
            explicit.append(torch.autograd.grad(scalar, policy.logits, retain_graph=True)[0].flatten())
    truth = torch.stack(explicit)
    directions = {"one": torch.randn(len(listing.inner), dtype=torch.float64, generator=generator(6)),
                  "two": listing.gradient()}  # fmt: skip
    vectors = torch.stack([listing.to_parameters(value) for value in directions.values()])
    numbers = gram_numbers(listing, batch, patterns, directions)
    assert numbers.exact
    assert numbers.names == ("one", "two")
    assert numbers.matrix == pytest.approx((truth @ truth.T).numpy(), abs=1e-11)
    assert numbers.along == pytest.approx((truth @ vectors.T).numpy(), abs=1e-11)
    assert numbers.among == pytest.approx((vectors @ vectors.T).numpy(), abs=1e-11)
    without = gram_numbers(listing, batch, patterns)
    assert without.along.shape == (batch.size * patterns.size, 0)


def test_directions_are_slopes_of_what_they_name(policies, listing, batch):
    policy = policies["policy"]
    directions = exact_directions(listing, batch)
    assert list(directions) == [*(f"{PROMPT}{number}" for number in range(4)), DIRECTION_ENTROPY]
    step = 1e-5 * torch.randn(policy.logits.shape, dtype=torch.float64, generator=generator(7))
    ends = [list_tabular(policy.moved(sign * step), reward) for sign in (1, -1)]

    def slope(value) -> float:
        return (value(ends[0]) - value(ends[1])) / 2

    for number, source in enumerate(ROWS):
        expected = slope(lambda bed, source=source: bed.value(expected_reward)[source].item())
        found = listing.to_parameters(directions[f"{PROMPT}{number}"]) @ step.flatten()
        assert found.item() == pytest.approx(expected, rel=1e-6)
    expected = slope(
        lambda bed: (bed.value(answer_entropy)[ROWS].sum() / bed.value(expected_length)[ROWS].sum()).item()
    )
    found = listing.to_parameters(directions[DIRECTION_ENTROPY]) @ step.flatten()
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_exact_numbers_are_those_of_the_prompts_drawn(listing, batch):
    objective, silent = [], []
    for source in ROWS:
        own = (listing.batch.prompt == source).numpy()
        rewards, mu = listing.batch.reward.numpy()[own], listing.probability.numpy()[own]
        objective.append((listing.policy_probability.numpy()[own] * rewards).sum())
        silent.append(sum(mu[rewards == level].sum() ** 3 for level in np.unique(rewards)))
    found = exact_numbers(listing, batch)
    assert found["objective"] == pytest.approx(np.mean(objective), rel=1e-12)
    assert found["silent groups"] == pytest.approx(np.mean(silent), rel=1e-12)


def test_evidence_has_the_products_of_every_entry(policies, listing, batch, registry):
    methods = [method for method in registry.methods.values() if method.executable]
    found = evidence(listing, batch, methods, registry, "stale", slots=False)
    assert set(found.candidates) == {method.label for method in methods}
    assert not found.omitted
    assert found.target == EXACT
    assert found.has(EXACT_ENTROPY)
    explicit = {method.label: compile(method).gradient(policies["policy"], batch)["logits"] for method in methods}
    truth = listing.to_parameters(sum(listing.gradient(prompt=source) for source in ROWS) / 4)
    for first in explicit:
        along = (explicit[first].flatten() @ truth).item()
        assert found.realised(found.key(first), EXACT) == pytest.approx(along, rel=1e-9, abs=1e-12)
        for second in explicit:
            expected = (explicit[first] * explicit[second]).sum().item()
            assert found.realised(found.key(first), found.key(second)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_evidence_without_exact_directions_is_measured_against_the_reference(listing, batch, registry):
    found = evidence(listing, batch, [registry.method("grpo")], registry, "stale", slots=False, exact=False)
    assert found.target == REFERENCE
    assert not found.has(EXACT_ENTROPY)
    assert found.exact_values == {}


@pytest.mark.parametrize(("name", "stale"), [("environment", True), ("graded", False), ("embedded", True)])
def test_every_probe_runs_on_a_testbed(name, stale, registry):
    listing = load_testbed(name, stale)
    drawn = draw(listing, 8, groups=2, group_size=4, generator=generator(2))
    methods = [registry.method(label) for label in ("grpo", "dapo", "ppo", "gigpo", "rloo")]
    found = evidence(listing, drawn, methods, registry, "stale" if stale else "fresh")
    assert not found.omitted
    rows = {probe: measure(found) for probe, measure in PROBES.items()}
    for probe in ("variance", "bias", "entropy", "agreement", "slots"):
        assert any(row.estimate is not None and math.isfinite(row.estimate) for row in rows[probe]), probe


def test_further_directions_are_kept(listing, batch, registry):
    extra = {"length": listing.gradient(expected_length)}
    found = evidence(listing, batch, [registry.method("grpo")], registry, "stale", slots=False, directions=extra)
    assert found.target == EXACT
