"""Layouts, levels and peer sets against naive loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradaxis.errors import NotYetError
from gradaxis.estimators import contract_batch
from gradaxis.estimators.layout import mark_last, next_on_mask, place_at_end, sum_backwards
from gradaxis.estimators.levels import collect, find_peers, lay_out, number_turns, widen
from gradaxis.estimators.peers import are_constant, number_peers
from gradaxis.estimators.rollouts import RolloutBatch

flags = st.integers(1, 9).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=3)
)


@given(flags)
@settings(deadline=None, max_examples=60)
def test_places_on_a_mask(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    values = torch.arange(1.0, mask.numel() + 1).reshape(mask.shape)
    last, following = mark_last(mask), next_on_mask(values, mask)
    for i, row in enumerate(rows):
        entries = [t for t, flag in enumerate(row) if flag]
        assert last[i].nonzero().flatten().tolist() == entries[-1:]
        for t in range(len(row)):
            later = [k for k in entries if k > t]
            assert float(following[i, t]) == (float(values[i, later[0]]) if later else 0.0)
    assert float(place_at_end(torch.ones(len(rows)), mask).sum()) == sum(any(row) for row in rows)


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 1)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=60)
def test_backward_sums_follow_their_recursion(pairs: list[tuple[float, float]]) -> None:
    amount, decay = torch.tensor(pairs, dtype=torch.float64).T.unsqueeze(1)
    ours, following = sum_backwards(amount, decay)[0], 0.0
    for t in reversed(range(len(pairs))):
        following = pairs[t][0] + pairs[t][1] * following
        assert float(ours[t]) == pytest.approx(following, abs=1e-12)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 3)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=60)
def test_peer_numbers_are_equal_exactly_when_all_keys_are(keys: list[tuple[int, int]]) -> None:
    first, second = torch.tensor(keys).T
    numbers = number_peers(first, second).tolist()
    assert all((numbers[i] == numbers[j]) == (keys[i] == keys[j]) for i in range(len(keys)) for j in range(len(keys)))
    assert set(numbers) == set(range(len(set(keys))))


def test_constant_sets_are_found_exactly() -> None:
    values = torch.tensor([0.1, 0.1, 1.0, 0.0, 5.0, 7.0])
    peers, counted = torch.tensor([0, 0, 1, 1, 1, 3]), torch.tensor([True, True, True, False, False, False])
    assert are_constant(values, peers, counted).tolist() == [True, True, True, True, True, True]
    assert are_constant(values, peers, counted | True).tolist() == [True, True, False, False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_turns_and_their_tokens(seed: int, ragged_batch: Callable[..., RolloutBatch]) -> None:
    batch = ragged_batch(seed)
    turns = batch.turns
    assert turns is not None
    values = torch.arange(1.0, len(turns.start) + 1)
    numbers, wide = number_turns(batch), widen(values, "turn", batch)
    laid, mask = lay_out(values, batch)
    for i in range(batch.size):
        for t in range(batch.mask.shape[1]):
            inside = [s for s in range(len(turns.start))
                      if turns.sequence[s] == i and turns.start[s] <= t < turns.end[s]]  # fmt: skip
            assert int(numbers[i, t]) == (inside[0] + 1 if inside else 0)
            assert float(wide[i, t]) == (float(values[inside[0]]) if inside and batch.mask[i, t] else 0.0)
            assert bool(mask[i, t]) == bool(inside and turns.start[inside[0]] == t)
    assert collect(laid, batch).equal(values)


def test_peers_by_level() -> None:
    batch = contract_batch()
    assert find_peers("group", "sample", batch).tolist() == batch.group.tolist()
    assert find_peers("batch", "token", batch).shape == batch.mask.shape
    assert find_peers("batch", "token", batch).sum() == 0
    turns = batch.turns
    assert turns is not None
    states = find_peers("anchor_state", "turn", batch).tolist()
    keys = [
        (int(batch.group[i]), anchor) for i, anchor in zip(turns.sequence.tolist(), turns.anchor.tolist(), strict=True)
    ]
    assert len(set(states)) == len(set(keys))
    with pytest.raises(NotYetError, match="position"):
        find_peers("position", "token", batch)
