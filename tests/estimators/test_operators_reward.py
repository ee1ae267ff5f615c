"""Reward operators: numbers worked out by hand, and naive loops on random shapes."""

from __future__ import annotations

from math import isclose, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradaxis.errors import InputError, NotYetError
from gradaxis.estimators.operators.reward.baseline import (
    center_rewards,
    subtract_critic,
    subtract_greedy,
    without_peers_center_rewards,
)
from gradaxis.estimators.operators.reward.credit import add_streams, add_teacher_log_ratio, estimate_gae, sum_to_go
from gradaxis.estimators.operators.reward.scale import divide_by_spread
from gradaxis.estimators.operators.reward.selection import drop_zero_variance
from gradaxis.estimators.operators.reward.shaping import penalise_kl_in_reward, shape_by_length
from gradaxis.estimators.operators.reward.signal import score_steps

numbers = st.floats(-3, 3, allow_nan=False)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Values, peer numbers and counted flags of one to eight entries."""
    size = draw(st.integers(1, 8))
    values = draw(st.lists(st.one_of(numbers, st.sampled_from([0.0, 1.0])), min_size=size, max_size=size))
    peers = draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size))
    counted = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(peers), torch.tensor(counted)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Two rows of values and of critic values, with a mask that has holes."""
    width = draw(st.integers(1, 7))
    make = st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=2, max_size=2)
    flags = st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=2, max_size=2)
    return torch.tensor(draw(make)).double(), torch.tensor(draw(make)).double(), torch.tensor(draw(flags))


@given(grouped())
@settings(deadline=None, max_examples=60)
def test_centring_against_a_loop(case: tuple[Tensor, Tensor, Tensor]) -> None:
    values, peers, counted = case
    mean = center_rewards(values, peers, counted, statistic="mean")
    others = center_rewards(values, peers, counted, statistic="leave_one_out")
    alone = without_peers_center_rewards(values, peers, counted, statistic="leave_one_out")
    assert alone is not None
    for i in range(len(values)):
        members = [j for j in range(len(values)) if peers[j] == peers[i] and counted[j]]
        expected = values[i] - (sum(values[j] for j in members) / len(members) if members else 0.0)
        assert isclose(mean[i], expected, abs_tol=1e-12)
        rest = [values[j] for j in members if j != i]
        assert isclose(others[i], values[i] - (sum(rest) / len(rest) if rest else 0.0), abs_tol=1e-12)
        assert bool(alone[i]) == (bool(counted[i]) and not rest)


@given(grouped(), st.integers(0, 1), st.sampled_from([0.0, 1e-4, 0.5]))
@settings(deadline=None, max_examples=60)
def test_spread_against_a_loop(case: tuple[Tensor, Tensor, Tensor], ddof: int, epsilon: float) -> None:
    values, peers, counted = case
    scaled = divide_by_spread(values, peers, counted, statistic="std", ddof=ddof, epsilon=epsilon)
    for i in range(len(values)):
        members = [float(values[j]) for j in range(len(values)) if peers[j] == peers[i] and counted[j]]
        if len(set(members)) < 2:
            assert scaled[i] == 0
            continue
        center = sum(members) / len(members)
        spread = sqrt(sum((value - center) ** 2 for value in members) / (len(members) - ddof))
        if spread > 1e-6:
            assert isclose(scaled[i], float(values[i]) / (spread + epsilon), rel_tol=1e-9, abs_tol=1e-12)


def test_spread_of_a_constant_set_gives_zero_even_where_the_mean_rounds() -> None:
    """Three times 0.1 does not average to exactly 0.1, but it is constant."""
    values, peers = torch.full((3,), 0.1), torch.zeros(3, dtype=torch.int64)
    for ddof in (0, 1):
        assert divide_by_spread(values, peers, values > 0, statistic="std", ddof=ddof, epsilon=0.0).tolist() == [
            0,
            0,
            0,
        ]


def test_spread_by_hand() -> None:
    """1, 0, 0, 1 centred: squares sum to 1; √(1/4) = 1/2 and √(1/3) = 0.57735."""
    values, peers, everyone = torch.tensor([0.5, -0.5, -0.5, 0.5]), torch.zeros(4, dtype=torch.int64), torch.ones(4) > 0
    assert divide_by_spread(values, peers, everyone, statistic="std", ddof=0, epsilon=0.0)[0].item() == pytest.approx(
        1.0
    )
    sample = divide_by_spread(values, peers, everyone, statistic="std", ddof=1, epsilon=0.1)
    assert sample[0].item() == pytest.approx(0.5 / 0.67735, rel=1e-5)


def test_statistics_run_over_tokens_as_well() -> None:
    """Tokens 1, 3 and 5 of two rows are counted, the fourth is not: their mean is 3."""
    values, counted = torch.tensor([[1.0, 3.0], [5.0, 99.0]]), torch.tensor([[True, True], [True, False]])
    peers = torch.zeros(2, 2, dtype=torch.int64)
    assert center_rewards(values, peers, counted, statistic="mean")[0].tolist() == [-2.0, 0.0]


def test_greedy_by_hand() -> None:
    assert subtract_greedy(torch.tensor([1.0, 0.2]), torch.tensor([0.5, 0.5])).tolist() == pytest.approx([0.5, -0.3])
    returns = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    assert subtract_greedy(returns, torch.tensor([0.5, 0.25])).tolist() == [[0.5, 0.0], [-0.25, -0.25]]


def test_critic_by_hand() -> None:
    mask = torch.tensor([[True, False, True]])
    value = torch.tensor([[0.2, 7.0, 0.6]])
    assert subtract_critic(torch.tensor([1.0]), value, mask).tolist()[0] == pytest.approx([0.8, 0.0, 0.4])
    assert subtract_critic(torch.tensor([[1.0, 5.0, 2.0]]), value, mask).tolist()[0] == pytest.approx([0.8, 0.0, 1.4])


@given(sequences(), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(deadline=None, max_examples=60)
def test_sums_to_go_against_a_loop(case: tuple[Tensor, Tensor, Tensor], gamma: float) -> None:
    amount, _, mask = case
    ours = sum_to_go(amount, mask, gamma=gamma)
    for i in range(2):
        entries = [t for t in range(mask.shape[1]) if mask[i, t]]
        for place, t in enumerate(entries):
            expected = sum(gamma**k * float(amount[i, later]) for k, later in enumerate(entries[place:]))
            assert isclose(ours[i, t], expected, abs_tol=1e-10)
    assert float(ours[~mask].abs().sum()) == 0


@given(sequences(), st.sampled_from([0.9, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
@settings(deadline=None, max_examples=60)
def test_gae_against_a_loop(case: tuple[Tensor, Tensor, Tensor], gamma: float, lam: float) -> None:
    """The definition: a weighted sum of all later one-step errors, tokens of the environment passed over."""
    reward, value, mask = case
    ours = estimate_gae(reward, value, mask, gamma=gamma, lam=lam)
    for i in range(2):
        entries = [t for t in range(mask.shape[1]) if mask[i, t]]
        values = [*(float(value[i, t]) for t in entries), 0.0]
        errors = [float(reward[i, t]) + gamma * values[k + 1] - values[k] for k, t in enumerate(entries)]
        for place, t in enumerate(entries):
            expected = sum((gamma * lam) ** k * error for k, error in enumerate(errors[place:]))
            assert isclose(ours[i, t], expected, abs_tol=1e-10)
    assert float(ours[~mask].abs().sum()) == 0


def test_gae_of_an_outcome_by_hand() -> None:
    """Values .5, .25 and outcome 1 behind an observation: errors −.25 and .75; γλ = .5 gives −.25 + .375 = .125."""
    mask = torch.tensor([[True, False, True, False]])
    value = torch.tensor([[0.5, 9.0, 0.25, 9.0]])
    assert estimate_gae(torch.tensor([1.0]), value, mask, gamma=1.0, lam=0.5).tolist() == [[0.125, 0.0, 0.75, 0.0]]


def test_kl_in_reward_by_hand() -> None:
    """Log-ratios .5 and −1 on the mask; β = .2 takes off .1 and −.2, in all −.1."""
    mask = torch.tensor([[True, False, True]])
    old, ref = torch.tensor([[-1.0, 5.0, -2.0]]), torch.tensor([[-1.5, 0.0, -1.0]])
    fixed = {"to": "ref", "value": "k1", "coefficient": 0.2}
    assert penalise_kl_in_reward(
        torch.tensor([1.0]), old, ref, mask, unit="sequence", **fixed
    ).tolist() == pytest.approx([1.1])
    by_token = penalise_kl_in_reward(torch.tensor([1.0]), old, ref, mask, unit="token", **fixed)
    assert by_token.tolist()[0] == pytest.approx([-0.1, 0.0, 1.2])
    again = penalise_kl_in_reward(by_token, old, ref, mask, unit="sequence", **fixed)
    assert again.tolist()[0] == pytest.approx([-0.1, 0.0, 1.3])


def test_soft_overlong_by_hand() -> None:
    """Limit 10, buffer 4: nothing up to 6, then a quarter a token down to −1 at 10, −1 beyond."""
    length = torch.tensor([5, 6, 7, 10, 11])
    shaped = shape_by_length(torch.ones(5), length, form="soft_overlong", limit=10, buffer=4)
    assert shaped.tolist() == [1.0, 1.0, 0.75, 0.0, 0.0]
    with pytest.raises(NotYetError, match="one reward a sequence"):
        shape_by_length(torch.ones(5, 2), length, form="soft_overlong", limit=10, buffer=4)


def test_zero_variance_by_hand() -> None:
    """Mixed, all equal (0.1 three times), a single sample."""
    outcome = torch.tensor([1.0, 0.0, 0.1, 0.1, 0.1, 1.0])
    peers, everyone = torch.tensor([0, 0, 1, 1, 1, 2]), torch.ones(6, dtype=torch.bool)
    kept = drop_zero_variance(outcome, peers, everyone, statistics="kept")
    assert kept.tolist() == [True, True, False, False, False, False]


def test_steps_are_handed_on() -> None:
    assert score_steps(torch.tensor([0.5, 1.0])).tolist() == [0.5, 1.0]


def test_teacher_log_ratio_by_hand() -> None:
    mask = torch.tensor([[True, True, False]])
    old, teacher = torch.tensor([[-1.0, -2.0, 3.0]]), torch.tensor([[-0.5, -4.0, 3.0]])
    for advantage in (torch.tensor([1.0]), torch.tensor([[1.0, 1.0, 5.0]])):
        added = add_teacher_log_ratio(advantage, old, teacher, mask, teacher="teacher", coefficient=0.5)
        assert added.tolist()[0] == [1.25, 0.0, 0.0]


def test_streams_by_hand() -> None:
    main, streams = (
        torch.tensor([[1.0, 2.0]]),
        {"step": torch.tensor([[10.0, 20.0]]), "turn": torch.tensor([[5.0, 5.0]])},
    )
    assert add_streams(main, streams, weights={"main": 2.0, "step": 0.5}).tolist() == [[7.0, 14.0]]
    assert add_streams(main, streams, weights={"turn": 1.0}).tolist() == [[6.0, 7.0]]
    with pytest.raises(InputError, match="nothing"):
        add_streams(main, streams, weights={"nothing": 1.0})
