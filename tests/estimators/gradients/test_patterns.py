"""Patterns: what they span, how many there are, and what lies outside."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradaxis.errors import InputError
from gradaxis.estimators.gradients import build_patterns, position_buckets, split_by_position

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)


def test_methods_with_one_number_a_response_share_one_pattern() -> None:
    advantages = ([1.0, -2.0], [0.5, 3.0], [0.0, 1.0])
    totals = [{"logp": torch.tensor(a, dtype=torch.float64)[:, None] * MASK} for a in advantages]
    patterns = build_patterns(totals)
    assert patterns.size == 1
    # the unit vectors along (1, 1, 1) and (1, 1, 0)
    expected = MASK / torch.tensor([3.0, 2.0], dtype=torch.float64).sqrt()[:, None]
    torch.testing.assert_close(patterns.vectors[:, 0, 0].abs(), expected)
    weights, residual = patterns.express(totals[0])
    # |(1, 1, 1)| = √3 and |−2 (1, 1, 0)| = 2√2
    torch.testing.assert_close(weights[:, 0].abs(), torch.tensor([3**0.5, 2 * 2**0.5], dtype=torch.float64))
    assert residual < 1e-12


def test_ranks_differ_between_sequences_and_the_rest_is_zero() -> None:
    one = {"logp": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])}
    two = {"logp": torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])}
    patterns = build_patterns([one, two])
    assert patterns.rank.tolist() == [2, 1]
    assert patterns.live.tolist() == [[True, True], [True, False]]
    assert bool(patterns.vectors[1, 1].eq(0).all())


def test_no_coefficients_at_all_give_padding_only() -> None:
    patterns = build_patterns([{"logp": torch.zeros(2, 3)}])
    assert patterns.rank.tolist() == [0, 0]
    assert not bool(patterns.live.any())
    assert patterns.express({"logp": torch.zeros(2, 3)})[1] == 0.0


@given(seed=st.integers(0, 10_000), methods=st.integers(1, 6), tolerance=st.sampled_from([1e-8, 1e-3, 0.3]))
@settings(max_examples=40, deadline=None)
def test_every_method_is_spanned_within_the_tolerance(seed: int, methods: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-6, 6, (methods,), generator=generator)
    totals = [
        {
            "logp": size * torch.randn(4, 3, generator=generator, dtype=torch.float64),
            "entropy": size * torch.randn(4, 3, generator=generator, dtype=torch.float64),
        }
        for size in sizes
    ]
    patterns = build_patterns(totals, tolerance=tolerance)
    flat = patterns.vectors.flatten(2)
    for total in totals:
        weights, residual = patterns.express(total)
        stacked = torch.cat([total["logp"], total["entropy"]], dim=1)
        outside = stacked - torch.einsum("nb,nbk->nk", weights, flat)
        assert residual == pytest.approx(float((outside.norm(dim=1) / stacked.norm(dim=1)).max()), abs=1e-12)
        assert residual <= tolerance * (1 + 1e-6) + 1e-12
    products = torch.einsum("nbk,nck->nbc", flat, flat)
    torch.testing.assert_close(products, torch.diag_embed(patterns.live.double()), atol=1e-10, rtol=0.0)


def test_a_negligible_part_adds_no_pattern_and_a_small_one_does() -> None:
    base = torch.ones(1, 4, dtype=torch.float64)
    bump = torch.tensor([[1.0, -1.0, 0.0, 0.0]], dtype=torch.float64)
    assert build_patterns([{"logp": base}, {"logp": base + 1e-9 * bump}]).size == 1
    assert build_patterns([{"logp": base}, {"logp": base + 1e-4 * bump}]).size == 2


def test_what_lies_outside_is_reported() -> None:
    patterns = build_patterns([{"logp": torch.tensor([[1.0, 0.0]])}])
    # (3, 4) has 4 of its length 5 outside
    weights, residual = patterns.express({"logp": torch.tensor([[3.0, 4.0]])})
    assert residual == pytest.approx(0.8)
    assert weights.abs().tolist() == [[3.0]]


def test_complete_patterns_are_one_a_token_and_quantity() -> None:
    totals = [{"logp": MASK, "entropy": MASK}]
    patterns = build_patterns(totals, complete=True, mask=MASK.bool())
    assert patterns.rank.tolist() == [6, 4]
    assert patterns.vectors[1, 2].tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]  # third: entropy of the first token
    later = {"logp": torch.tensor([[0.3, -2.0, 5.0], [7.0, 1.0, 0.0]])}
    assert patterns.express(later)[1] == 0.0


def test_bad_input_is_refused() -> None:
    good = {"logp": torch.ones(2, 3)}
    with pytest.raises(InputError, match="no methods"):
        build_patterns([])
    with pytest.raises(InputError, match="not finite"):
        build_patterns([{"logp": torch.full((2, 3), torch.nan)}])
    with pytest.raises(InputError, match="shapes"):
        build_patterns([good, {"logp": torch.ones(2, 4)}])
    with pytest.raises(InputError, match="mask"):
        build_patterns([good], complete=True, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="entropy"):
        build_patterns([good]).express({"logp": torch.ones(2, 3), "entropy": torch.ones(2, 3)})
    with pytest.raises(InputError, match="shape"):
        build_patterns([good]).express({"logp": torch.ones(2, 4)})


def test_buckets_count_policy_tokens() -> None:
    mask = torch.tensor([[True, False, True, True, True], [True, True, False, False, False]])
    buckets = position_buckets(mask, [1, 3])
    assert list(buckets) == ["0 to 0", "1 to 2", "3 on"]
    assert buckets["1 to 2"].tolist() == [[False, False, True, True, False], [False, True, False, False, False]]
    halves = position_buckets(mask, [0.5], relative=True)
    assert list(halves) == ["0% to 50%", "50% to 100%"]
    assert halves["0% to 50%"].tolist() == [[True, False, True, False, False], [True, False, False, False, False]]
    for found in (buckets, halves):
        assert torch.stack(list(found.values())).sum(dim=0).tolist() == mask.int().tolist()


def test_parts_by_position_add_up_and_become_patterns() -> None:
    generator = torch.Generator().manual_seed(0)
    total = {name: torch.randn(2, 3, generator=generator, dtype=torch.float64) * MASK for name in ("logp", "entropy")}
    parts = split_by_position(total, position_buckets(MASK.bool(), [1]))
    for name, value in total.items():
        torch.testing.assert_close(sum(part[name] for part in parts.values()), value)
    patterns = build_patterns([total, *parts.values()])
    assert patterns.rank.tolist() == [2, 2]  # two parts span their sum too
    weights = {name: patterns.express(part)[0] for name, part in parts.items()}
    torch.testing.assert_close(sum(weights.values()), patterns.express(total)[0])


def test_edges_that_do_not_rise_are_refused() -> None:
    with pytest.raises(InputError, match="edges"):
        position_buckets(MASK.bool(), [3, 2])
    with pytest.raises(InputError, match="edges"):
        position_buckets(MASK.bool(), [0.5])
    with pytest.raises(InputError, match="edges"):
        position_buckets(MASK.bool(), [0.5, 1.0], relative=True)
