"""Divisors over micro-batches: hand numbers, a naive accumulation of gradients, and what the order of rows decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradaxis.errors import InputError, MissingInputError
from gradaxis.estimators import compile, contract_batch
from gradaxis.estimators.operators.trajectory.aggregation import aggregate_tokens
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import load_registry

LOCAL = (
    "dapo[aggregation.scope=local]", "grpo[aggregation.scope=local]", "dr-grpo[aggregation.scope=local]",
    "cispo[aggregation.scope=local]",
)  # fmt: skip
REGISTRY = load_registry()


def total(entry: str, batch: RolloutBatch) -> torch.Tensor:
    return compile(entry, registry=REGISTRY).coefficients(batch).total["logp"]


def in_pieces(batch: RolloutBatch, size: int) -> RolloutBatch:
    """The batch without labels, whose micro-batches are so many consecutive rows."""
    return replace(batch, labels={}, provenance={**batch.provenance, "micro_batch": size})


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 23), seed=st.integers(0, 5))
def test_equals_a_trainer_that_divides_in_each_micro_batch(size: int, seed: int) -> None:
    """Token mean by accumulation, as a trainer's loop has it: sum over the micro-batch, divided by its own tokens, and
    by the number of micro-batches. Advantages were computed before, over whole groups."""
    order = torch.randperm(21, generator=torch.Generator().manual_seed(seed))
    batch = in_pieces(contract_batch().rows(order), size)
    whole = compile(
        "dapo[aggregation.constant=sequences,aggregation.weight=one,selection.statistics=all]", registry=REGISTRY
    )
    advantage = whole.coefficients(batch).advantage
    leaf = batch.columns["logp"].clone().requires_grad_()
    ratio = (leaf - batch.columns["old_logp"]).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
    pieces = [slice(start, start + size) for start in range(0, 21, size)]
    keep = torch.tensor([len(set(batch.reward[batch.group == g].tolist())) > 1 for g in batch.group.tolist()])
    for piece in pieces:
        mask = batch.mask[piece] & keep[piece, None]
        loss = (surrogate[piece] * mask).sum() / batch.mask[piece].sum() / len(pieces)
        loss.backward(retain_graph=True)
    found = total("dapo[aggregation.scope=local,selection.statistics=all]", batch)
    torch.testing.assert_close(found, leaf.grad, rtol=1e-10, atol=1e-14)


def test_by_hand() -> None:
    """Micro-batches of 2, 2 and 1 rows with 3 + 1, 2 + 1 and 2 tokens: a third of 1 over 4, 3 and 2."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]]).bool()
    a = aggregate_tokens(mask.double(), mask, torch.ones(5, dtype=torch.bool), mask, None,
                         torch.tensor([0, 0, 1, 1, 2]), weight="one", constant="tokens", scope="local")  # fmt: skip
    expected = torch.tensor([1 / 12, 1 / 12, 1 / 9, 1 / 9, 1 / 6], dtype=torch.float64)
    torch.testing.assert_close(a, expected[:, None] * mask)


@pytest.mark.parametrize("entry", LOCAL)
def test_one_micro_batch_is_the_whole_batch(entry: str) -> None:
    batch = in_pieces(contract_batch(), 21)
    torch.testing.assert_close(total(entry, batch), total(entry.replace("local", "global"), batch), rtol=1e-12, atol=0)


def test_where_the_divisor_counts_sequences_even_micro_batches_change_nothing() -> None:
    """21 rows in threes: for Dr. GRPO (a constant) and GRPO (the sequence's own length) accumulation is harmless."""
    batch = in_pieces(contract_batch(), 3)
    for entry in ("grpo", "dr-grpo"):
        torch.testing.assert_close(total(f"{entry}[aggregation.scope=local]", batch), total(entry, batch))
    ratio = total("dapo[aggregation.scope=local]", batch) / total("dapo", batch)
    spread = ratio[torch.isfinite(ratio)]
    assert float(spread.max() / spread.min()) > 1.3  # a token of a short micro-batch counts for more


@pytest.mark.parametrize("entry", LOCAL)
def test_named_micro_batches_do_not_care_for_the_order_of_sequences(entry: str) -> None:
    """The label says who goes together, so that rows may stand in any order; new names change nothing either."""
    batch = contract_batch()
    order = torch.tensor([(5 * i) % 21 for i in range(21)])
    torch.testing.assert_close(total(entry, batch.rows(order)), total(entry, batch)[order], rtol=1e-11, atol=1e-15)
    renamed = replace(batch, labels={"micro_batch": tuple(f"b{9 - int(x)}" for x in batch.labels["micro_batch"])})
    torch.testing.assert_close(total(entry, renamed), total(entry, batch), rtol=1e-12, atol=0)


def test_counted_micro_batches_follow_the_order_of_sequences() -> None:
    """Consecutive rows make a micro-batch: another order is another update, and nothing else says which."""
    batch, order = contract_batch(), torch.tensor([(5 * i) % 21 for i in range(21)])
    here, there = in_pieces(batch, 4), in_pieces(batch.rows(order), 4)
    entry = "dapo[aggregation.scope=local]"
    assert not torch.allclose(total(entry, there), total(entry, here)[order], rtol=1e-3)
    inside = torch.tensor([3, 2, 1, 0, *range(4, 21)])  # an order that only mixes rows of one micro-batch
    torch.testing.assert_close(total(entry, in_pieces(batch.rows(inside), 4)), total(entry, here)[inside])
    torch.testing.assert_close(total(entry, here), total(entry, batch))  # the label holds the same fours


@pytest.mark.parametrize("entry", LOCAL)
def test_keeps_what_every_entry_keeps(entry: str) -> None:
    """Mask, dtype, no data, no sequences, padding off the mask; and the batch is what it says that it couples."""
    batch, estimator = contract_batch(), compile(entry, registry=REGISTRY)
    assert estimator.couples == "batch"
    assert float(total(entry, batch)[~batch.mask].abs().max()) == 0
    assert total(entry, contract_batch(dtype=torch.float32)).dtype == torch.float32
    assert total(entry, contract_batch("meta")).is_meta
    assert total(entry, batch.rows([])).shape == (0, 9)
    dirty = batch.with_columns({n: torch.where(batch.mask, c, torch.nan) for n, c in batch.columns.items()})
    assert total(entry, dirty).equal(total(entry, batch))


def test_micro_batches_that_are_unknown_are_asked_for() -> None:
    batch = replace(contract_batch(), labels={})
    estimator = compile("dapo[aggregation.scope=local]", registry=REGISTRY)
    assert [error.column for error in estimator.missing(batch)] == ["micro_batch"]
    with pytest.raises(MissingInputError, match="--microbatch"):
        estimator.coefficients(batch)
    with pytest.raises(InputError, match="whole number"):
        estimator.coefficients(in_pieces(batch, 0))
