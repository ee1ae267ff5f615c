"""Count vectors and their law, against counting by hand and by going through all groups."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import comb

import pytest
import torch

from gradaxis.diagnostics.oracle.counts import count_vectors, joint_counts, number_of_counts
from gradaxis.errors import InputError


@pytest.mark.parametrize(("types", "group_size"), [(1, 1), (1, 5), (2, 3), (3, 4), (5, 2)])
def test_law_of_the_counts(types, group_size) -> None:
    share = torch.arange(1, types + 1, dtype=torch.float64)
    share = share / share.sum()
    expected: Counter[tuple[int, ...]] = Counter()
    for members in product(range(types), repeat=group_size):
        chance = float(share[list(members)].prod())
        expected[tuple(members.count(kind) for kind in range(types))] += chance  # type: ignore[assignment]
    counts, probability = count_vectors(share, group_size)
    assert len(counts) == len(expected) == number_of_counts(types, group_size)
    for vector, chance in zip(counts.tolist(), probability.tolist(), strict=True):
        assert chance == pytest.approx(expected[tuple(vector)], rel=1e-14)


def test_hand_numbers() -> None:
    assert [number_of_counts(types, 8) for types in (2, 3, 5, 10)] == [9, 45, 495, 24_310]
    counts, probability = count_vectors(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 2)
    assert counts.tolist() == [[0, 0, 2], [0, 1, 1], [0, 2, 0], [1, 0, 1], [1, 1, 0], [2, 0, 0]]
    assert probability.tolist() == pytest.approx([0.04, 0.12, 0.09, 0.2, 0.3, 0.25])


def test_joint_counts_are_independent() -> None:
    shares = [torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)]
    joint = joint_counts(shares, 3, 100, "here")
    assert len(joint.probability) == 4 * 10
    assert float(joint.probability.sum()) == pytest.approx(1, abs=1e-15)
    for counts, share in zip(joint.counts, shares, strict=True):
        assert (counts.sum(dim=1) == 3).all()
        torch.testing.assert_close(joint.probability @ counts.double(), 3 * share)
    with pytest.raises(InputError, match=f"{comb(7, 4)} count vectors for here, expected at most 20"):
        joint_counts([torch.full((5,), 0.2, dtype=torch.float64)], 3, 20, "here")
