"""The contract batch has what makes estimators differ."""

from __future__ import annotations

import torch

from gradaxis.estimators import contract_batch
from gradaxis.estimators.rollouts import check_batch


def test_it_is_valid_and_the_same_every_time() -> None:
    one, other = contract_batch(), contract_batch()
    check_batch(one)
    assert all(one.columns[name].equal(other.columns[name]) for name in one.columns)


def test_groups_are_uneven_silent_in_both_ways_and_graded() -> None:
    batch = contract_batch()
    rewards = [sorted(batch.reward[batch.group == g].tolist()) for g in range(6)]
    assert len({len(group) for group in rewards}) > 2
    assert [1.0] * 3 in rewards
    assert [0.0] * 4 in rewards
    assert len({reward for group in rewards for reward in group}) == 3


def test_responses_are_ragged_truncated_and_hold_observations() -> None:
    batch = contract_batch()
    assert len(set(batch.length.tolist())) >= 5
    assert 0 < int(batch.truncated.sum()) < batch.size
    assert bool((batch.response & ~batch.mask).any())
    assert not bool(batch.response[:, -1].any())


def test_ratios_leave_the_usual_bounds_on_both_sides_for_both_signs() -> None:
    batch = contract_batch()
    ratio = (batch.columns["logp"] - batch.columns["old_logp"]).exp()[batch.mask]
    mean = torch.stack([batch.reward[batch.group == g].mean() for g in batch.group])
    sign = torch.sign(batch.reward - mean).unsqueeze(1).expand(batch.mask.shape)[batch.mask]
    for chosen in (sign > 0, sign < 0):
        assert bool((ratio[chosen] > 1.28).any())
        assert bool((ratio[chosen] < 0.8).any())
        assert bool(((ratio[chosen] > 0.8) & (ratio[chosen] < 1.2)).any())


def test_states_recur_within_a_group_and_some_are_met_once() -> None:
    batch = contract_batch()
    assert batch.turns is not None
    keys = list(zip(batch.group[batch.turns.sequence].tolist(), batch.turns.anchor.tolist(), strict=True))
    counts = {keys.count(key) for key in keys}
    assert 1 in counts
    assert max(counts) >= 3


def test_every_policy_differs_from_every_other() -> None:
    columns = contract_batch().columns
    names = ["logp", "old_logp", "behavior_logp", "ref_logp", "teacher_logp"]
    gaps = [float((columns[a] - columns[b]).abs().mean()) for i, a in enumerate(names) for b in names[:i]]
    assert min(gaps) > 0.05
