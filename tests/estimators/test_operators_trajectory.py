"""Trajectory operators: numbers worked out by hand, and derivatives by finite differences on random shapes."""

from __future__ import annotations

from collections.abc import Callable
from math import e, exp, inf, log

import pytest
import torch
from torch import Tensor

from gradaxis.errors import InputError, MissingInputError
from gradaxis.estimators.operators.trajectory.aggregation import aggregate_tokens
from gradaxis.estimators.operators.trajectory.ratio import form_ratio
from gradaxis.estimators.operators.trajectory.terms import add_entropy_bonus, penalise_kl
from gradaxis.estimators.operators.trajectory.trust_region import clip_ratio, clip_weight
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.estimators.weights import Weight, reach_tokens, score_function, surrogate

MASK = torch.tensor([[True, True, False, True], [True, False, False, False]])
LOGP = torch.tensor([[-1.0, -2.0, -9.0, -1.5], [-0.5, -9.0, -9.0, -9.0]], dtype=torch.float64)
OLD = torch.tensor([[-1.0, -1.0, 7.0, -2.5], [-1.5, 7.0, 7.0, 7.0]], dtype=torch.float64)
RATIOS = torch.tensor([[1.0, 1 / e, 0.0, e], [e, 0.0, 0.0, 0.0]], dtype=torch.float64)
"""Log-ratios on the mask are 0, −1, +1 and +1."""


def make(unit: str, pool: str, logp: Tensor = LOGP) -> Weight:
    return form_ratio(logp, OLD, MASK, unit=unit, pool=pool, anchor="old")


def test_token_ratio_by_hand() -> None:
    weight = make("token", "none")
    torch.testing.assert_close(weight.value, RATIOS)
    torch.testing.assert_close(weight.slope, RATIOS)
    assert weight.pooled is None


def test_pooled_ratios_by_hand() -> None:
    """Row 0: the three log-ratios 0, −1 and 1 sum to 0, so product and mean are both 1. Row 1 has one token: e."""
    product, mean = make("sequence", "product"), make("sequence", "geometric_mean")
    expected = torch.tensor([[1.0, 1.0, 0.0, 1.0], [e, 0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(product.value, expected)
    torch.testing.assert_close(mean.value, expected)
    assert product.pooled is not None
    assert mean.pooled is not None
    assert product.pooled.tolist() == [[1, 1, 0, 1], [1, 0, 0, 0]]
    assert mean.pooled[0].tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_pooled_ratios_differ_on_a_longer_drift() -> None:
    """Log-ratios 1 and 1: the product is e², the geometric mean e."""
    logp, old, mask = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-2.0, -2.0]]), torch.ones(1, 2, dtype=torch.bool)
    for pool, expected in (("product", exp(2)), ("geometric_mean", e)):
        weight = form_ratio(logp, old, mask, unit="sequence", pool=pool, anchor="old")
        assert weight.value[0].tolist() == pytest.approx([expected, expected])


@pytest.mark.parametrize(("unit", "pool"), [("token", "product"), ("sequence", "none")])
def test_unit_and_pool_that_do_not_go_together(unit: str, pool: str) -> None:
    with pytest.raises(InputError, match="unit"):
        make(unit, pool)


@pytest.mark.parametrize(("unit", "pool"), [("token", "none"), ("sequence", "product"), ("sequence", "geometric_mean")])
@pytest.mark.parametrize("clip", [None, "ratio", "weight"])
@pytest.mark.parametrize("seed", range(3))
def test_slopes_and_pooling_give_the_derivative_of_the_surrogate(
    unit: str, pool: str, clip: str | None, seed: int, ragged_batch: Callable[[int], RolloutBatch]
) -> None:
    """ω·A is the derivative of Σ a S: by central differences where L has a value, by autograd for stop-gradients."""
    batch = ragged_batch(seed)
    mask, old = batch.mask, batch.columns["old_logp"].nan_to_num()
    advantage = (batch.reward.unsqueeze(1) - 0.3).expand(mask.shape)
    if pool != "none" and seed:
        advantage = advantage + torch.linspace(-0.4, 0.4, mask.shape[1], dtype=torch.float64)
    taken = advantage
    coefficient = torch.where(
        mask, torch.linspace(0.5, 1.5, mask.numel(), dtype=torch.float64).reshape(mask.shape), 0.0
    )

    def build(logp: Tensor) -> Weight:
        weight = form_ratio(logp, old, mask, unit=unit, pool=pool, anchor="old")
        if clip == "ratio":
            return clip_ratio(weight, taken, low=0.1, high=0.2)
        return clip_weight(weight, logp, low=0.1, high=0.2) if clip == "weight" else weight

    def total(logp: Tensor) -> Tensor:
        return (coefficient * surrogate(build(logp), taken)).sum()

    logp = batch.columns["logp"].nan_to_num()
    omega, advantage = reach_tokens(build(logp), coefficient, advantage)
    if clip == "weight":
        leaf = logp.clone().requires_grad_()
        expected = torch.autograd.grad(total(leaf), leaf)[0]
        torch.testing.assert_close(omega * advantage, expected, rtol=1e-12, atol=1e-12)
        return
    step = 1e-6
    for i, t in mask.nonzero().tolist():
        bump = torch.zeros_like(logp)
        bump[i, t] = step
        expected = float(total(logp + bump) - total(logp - bump)) / (2 * step)
        assert float((omega * advantage)[i, t]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_score_function() -> None:
    weight = score_function(LOGP, MASK)
    assert weight.value[0].tolist() == [-1.0, -2.0, 0.0, -1.5]
    assert weight.slope.tolist() == MASK.double().tolist()


def test_clip_takes_the_branch_by_the_sign_of_the_advantage() -> None:
    ratio = torch.tensor([[0.5, 0.8, 1.0, 1.3, 2.0]] * 3, dtype=torch.float64)
    advantage = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64).expand(3, 5)
    clipped = clip_ratio(Weight(ratio, ratio), advantage, low=0.2, high=0.3)
    assert clipped.value.tolist() == [[0.5, 0.8, 1.0, 1.3, 1.3], [0.8, 0.8, 1.0, 1.3, 2.0], [0.5, 0.8, 1.0, 1.3, 2.0]]
    assert clipped.slope.tolist() == [[0.5, 0.8, 1.0, 1.3, 0.0], [0.0, 0.8, 1.0, 1.3, 2.0], [0.5, 0.8, 1.0, 1.3, 2.0]]


def test_clip_equals_the_minimum_of_both_products() -> None:
    ratio = torch.linspace(0.01, 3.0, 300, dtype=torch.float64).unsqueeze(0)
    for sign in (-2.0, 0.5):
        advantage = torch.full_like(ratio, sign)
        ours = clip_ratio(Weight(ratio, ratio), advantage, low=0.2, high=0.28).value * advantage
        torch.testing.assert_close(ours, torch.minimum(ratio * sign, ratio.clamp(0.8, 1.28) * sign))


def test_infinite_bounds_do_not_clip() -> None:
    weight = make("token", "none")
    for advantage in (torch.ones_like(LOGP), -torch.ones_like(LOGP)):
        assert clip_ratio(weight, advantage, low=inf, high=inf).value.equal(weight.value)


def test_clip_weight_by_hand() -> None:
    """Ratios 1, 1/e, −, e; e is cut to 1.2 and 1/e raised to 0.8 where there is a lower bound."""
    both = clip_weight(make("token", "none"), LOGP, low=0.2, high=0.2)
    assert both.slope[0, [0, 1, 3]].tolist() == pytest.approx([1.0, 0.8, 1.2])
    assert both.value[0, [0, 1, 3]].tolist() == pytest.approx([-1.0, -1.6, -1.8])
    assert clip_weight(make("token", "none"), LOGP, low=None, high=0.2).slope[0, 1].item() == pytest.approx(1 / e)


def test_clips_refuse_what_is_no_ratio() -> None:
    for weight in (score_function(LOGP, MASK), clip_weight(make("token", "none"), LOGP, low=None, high=0.2)):
        with pytest.raises(InputError, match="ratio"):
            clip_ratio(weight, LOGP, low=0.2, high=0.2)
        with pytest.raises(InputError, match="ratio"):
            clip_weight(weight, LOGP, low=0.2, high=0.2)


@pytest.mark.parametrize(
    ("weight", "constant", "expected"),
    [
        ("one", "sequences", [1 / 2, 1 / 2]),
        ("inverse_length", "sequences", [1 / 6, 1 / 2]),
        ("one", "tokens", [1 / 4, 1 / 4]),
        ("inverse_length", "tokens", [1 / 12, 1 / 4]),
        ("one", "max_length", [1 / 16, 1 / 16]),
    ],
)
def test_aggregation_by_hand(weight: str, constant: str, expected: list[float]) -> None:
    """Lengths 3 and 1, so 4 tokens in 2 sequences; the longest response allowed has 8."""
    both = torch.ones(2, dtype=torch.bool)
    a = aggregate_tokens(
        torch.ones_like(LOGP), MASK, both, MASK, 8, None, weight=weight, constant=constant, scope="global"
    )
    assert a[0].tolist() == pytest.approx([expected[0], expected[0], 0.0, expected[0]])
    assert a[1].tolist() == pytest.approx([expected[1], 0.0, 0.0, 0.0])


def test_aggregation_divides_by_counted_sequences_only() -> None:
    """The second sequence is dropped: its weight is zero. Counted or not, it changes the divisor of the first."""
    kept = torch.tensor([True, False])
    weight = kept.unsqueeze(1) * torch.ones_like(LOGP)
    arguments = {"weight": "one", "constant": "tokens", "scope": "global"}
    assert aggregate_tokens(weight, MASK, kept, MASK, None, None, **arguments)[0, 0].item() == pytest.approx(1 / 3)
    assert aggregate_tokens(weight, MASK, kept | True, MASK, None, None, **arguments)[0, 0].item() == pytest.approx(
        1 / 4
    )
    nobody = torch.zeros(2, dtype=torch.bool)
    nothing = aggregate_tokens(0 * weight, MASK, nobody, MASK, None, None, **arguments)
    assert nothing.tolist() == torch.zeros_like(LOGP).tolist()


def test_aggregation_refuses_what_it_is_not_told() -> None:
    both, ones = torch.ones(2, dtype=torch.bool), torch.ones_like(LOGP)
    with pytest.raises(MissingInputError, match="max_new_tokens"):
        aggregate_tokens(ones, MASK, both, MASK, None, None, weight="one", constant="max_length", scope="global")
    with pytest.raises(MissingInputError, match="micro_batch"):
        aggregate_tokens(ones, MASK, both, MASK, None, None, weight="one", constant="tokens", scope="local")


@pytest.mark.parametrize(
    ("value", "number", "slope"),
    [("k1", log(2), 1.0), ("k2", log(2) ** 2 / 2, log(2)), ("k3", 0.5 - 1 + log(2), 0.5)],
)
def test_kl_by_hand(value: str, number: float, slope: float) -> None:
    """π = 1/2 and π_ref = 1/4, so d = log 2; the derivatives are 1, d and 1 − e^(−d) = 1/2. β = 0.3."""
    logp = torch.tensor([[log(0.5), 4.0]], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([[log(0.25), -4.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False]])
    term = penalise_kl(logp, ref, mask, to="ref", value=value, gradient="through_value", coefficient=0.3)
    assert term.tolist()[0] == pytest.approx([-0.3 * number, 0.0])
    assert torch.autograd.grad(term.sum(), logp)[0].tolist()[0] == pytest.approx([-0.3 * slope, 0.0])


def test_k3_keeps_its_digits_near_zero() -> None:
    """For small d, k3 = d²/2 − d³/6 + …; written as e^(−d) − 1 + d it would lose all digits in float32."""
    logp, ref = torch.tensor([[1e-3 - 1.0]]), torch.tensor([[-1.0]])
    difference = float(logp - ref)
    term = penalise_kl(
        logp, ref, torch.tensor([[True]]), to="ref", value="k3", gradient="through_value", coefficient=1.0
    )
    assert -term.item() == pytest.approx(difference**2 / 2, rel=2e-3)


def test_entropy_bonus_by_hand() -> None:
    assert add_entropy_bonus(torch.tensor([[1.0, 2.0]]), coefficient=-0.25).tolist() == [[-0.25, -0.5]]
