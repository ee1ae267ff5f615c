"""The named testbeds: small, varied, and complete enough for every entry that ships."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from gradaxis.diagnostics.testbeds import TABLES, TESTBEDS, load_testbed
from gradaxis.errors import UsageError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.policies import Listing
from gradaxis.estimators.rollouts.batch import TOKEN_COLUMNS
from gradaxis.estimators.rollouts.checks import check_batch
from gradaxis.taxonomy import load_registry


@pytest.fixture(scope="module")
def estimators() -> list[CompiledEstimator]:
    """Every entry that ships and can be computed."""
    return [compile(method) for method in load_registry().methods.values() if method.executable]


@pytest.fixture(scope="module")
def load() -> Callable[[str, bool], Listing]:
    """A testbed, made once."""
    return cache(load_testbed)


@pytest.fixture(scope="module", params=[(name, stale) for name in TESTBEDS for stale in (False, True)], ids=str)
def bed(request: pytest.FixtureRequest, load: Callable[[str, bool], Listing]) -> tuple[str, bool, Listing]:
    name, stale = request.param
    return name, stale, load(name, stale)


def test_is_small_and_has_every_column(bed):
    name, stale, listing = bed
    batch = listing.batch
    check_batch(batch)
    assert batch.columns.keys() >= TOKEN_COLUMNS.keys()
    assert batch.turns is not None
    assert batch.companions["greedy"].prompt.tolist() == [0, 1, 2]
    if name in TABLES:
        assert int(batch.prompt.bincount().max()) <= 16
    assert listing.stale == stale
    for chance in (listing.probability, listing.policy_probability):
        sums = torch.zeros(3, dtype=torch.float64).index_add_(0, batch.prompt, chance)
        torch.testing.assert_close(sums, torch.ones(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_every_entry_that_ships_runs_and_gives_something(bed, estimators):
    _, _, listing = bed
    assert len(estimators) >= 13
    for estimator in estimators:
        assert estimator.missing(listing.batch) == [], estimator.label
        total = estimator.coefficients(listing.batch).total
        assert all(bool(value.isfinite().all()) for value in total.values()), estimator.label
        weights = listing.coefficients_to_vector(total)
        assert float(weights @ listing.inner @ weights) > 1e-12, estimator.label


def test_stale_and_fresh_share_the_policy(bed, load):
    name, stale, listing = bed
    other = load(name, not stale)
    for column in ("logp", "entropy", "ref_logp", "teacher_logp", "value"):
        torch.testing.assert_close(listing.batch.column(column), other.batch.column(column))
    assert torch.equal(listing.inner, other.inner)
    fresh, drifted = (other, listing) if stale else (listing, other)
    assert torch.equal(fresh.batch.column("old_logp"), fresh.batch.column("logp"))
    # χ² of the policy against the one that samples: neither nothing nor hopeless. The transformer's older checkpoint is
    # further away than the tables' drift, which is ours to choose.
    chi = (drifted.policy_probability**2 / drifted.probability).sum().item() / 3 - 1
    assert 0.01 < chi < (2 if name in TABLES else 10)


@pytest.mark.parametrize(
    ("name", "levels", "lengths"),
    [("fixed-length", 2, {3}), ("eos", 2, {1, 2, 3}), ("shared-rows", 2, {1, 2, 3}), ("graded", 3, {1, 2, 3}),
     ("continuous", 15, {1, 2, 3}), ("environment", 9, {1, 3})],
)  # fmt: skip
def test_rewards_and_lengths(name, levels, lengths):
    batch = load_testbed(name).batch
    for prompt in range(3):
        rewards = batch.reward[batch.prompt == prompt]
        assert len(torch.unique(rewards.round(decimals=9))) == levels if name != "environment" else len(rewards) == 13
    assert set(batch.length.tolist()) == lengths
    assert bool(batch.truncated.any()) == (3 in lengths and len(lengths) == 3)


def test_rewards_differ_between_prompts_that_share_their_rows():
    shared, apart = load_testbed("shared-rows"), load_testbed("eos")
    assert len(shared.inner) * 3 == len(apart.inner)
    rewards = shared.batch.reward.reshape(3, 15)
    assert not torch.equal(rewards[0], rewards[1])
    assert torch.equal(shared.batch.column("logp")[:15], shared.batch.column("logp")[15:30])


def test_environment_has_turns_whose_states_recur():
    batch = load_testbed("environment").batch
    observed = batch.response & ~batch.mask
    assert observed.sum(dim=1).tolist() == [1] * batch.size
    turns = batch.turns
    assert turns is not None
    earned = torch.zeros(batch.size, dtype=torch.float64).index_add_(0, turns.sequence, turns.reward)
    torch.testing.assert_close(earned, batch.reward)
    assert float(turns.reward[turns.start == 0].abs().max()) > 0
    # The state after "2" is reached by both first moves, and its values are the same but for what was earned.
    later = turns.start == 2
    reached = {}
    for row, anchor in zip(turns.sequence[later].tolist(), turns.anchor[later].tolist(), strict=True):
        reached.setdefault(anchor, set()).add(int(batch.tokens[row, 0]))
    assert sorted(len(first) for first in reached.values()) == [1, 1, 1, 2, 2, 2]


def test_another_seed_another_drift_and_more_prompts():
    assert not torch.equal(load_testbed("eos").inner, load_testbed("eos", seed=1).inner)
    far, near = (load_testbed("eos", stale=True, drift=drift).batch for drift in (0.6, 0.3))
    gap = [(bed.column("behavior_logp") - bed.column("logp")).abs().max().item() for bed in (far, near)]
    assert gap[0] > 1.5 * gap[1] > 0
    assert not load_testbed("eos", stale=True, drift=0.0).stale
    assert load_testbed("graded", prompts=7).prompts == 7
    assert load_testbed("shared-rows", prompts=7).inner.shape == load_testbed("shared-rows").inner.shape


def test_an_unknown_testbed_is_refused():
    with pytest.raises(UsageError, match="fixed-length"):
        load_testbed("elsewhere")
