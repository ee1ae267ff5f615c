"""Parts of unit gradients in each parameter, against gradients by plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.gradients import build_patterns, compute_gram
from gradaxis.estimators.gradients.hashes import Fold

Make = Callable[..., Any]


@pytest.fixture
def case(tiny_policy: Make, tiny_batch: Make, random_total: Make, looped_gradients: Make) -> Callable[..., Any]:
    """A policy, a batch, patterns of uneven rank, weights of units, and their gradients by parameter and name."""

    def make(architecture: str = "qwen2-tied") -> tuple[Any, Any, Any, dict[str, Any], dict[str, dict[str, Tensor]]]:
        policy, batch = tiny_policy(architecture), tiny_batch()
        totals = [random_total(batch, seed) for seed in range(2)]
        totals[1] = {name: value * (torch.arange(6) % 2)[:, None] for name, value in totals[1].items()}
        patterns = build_patterns(totals)
        generator = np.random.default_rng(0)
        dense = generator.normal(size=(3, 12))
        blocks = np.zeros((3, 12))  # each unit holds its own two sequences
        for unit in range(3):
            blocks[unit, 4 * unit : 4 * unit + 4] = generator.normal(size=4)
        units = {"blocks": csr_array(blocks), "dense": torch.from_numpy(dense)}
        sequence = [i for i in range(batch.size) for _ in range(patterns.size)]
        rows = looped_gradients(policy, batch, sequence, patterns.vectors.flatten(0, 1), patterns.quantities)
        sizes = [value.numel() for value in policy.parameters().values()]
        parts = dict(zip(policy.parameters(), rows.split(sizes, dim=1), strict=True))
        known = {
            parameter: {"blocks": torch.from_numpy(blocks) @ part, "dense": torch.from_numpy(dense) @ part}
            for parameter, part in parts.items()
        }
        return policy, batch, patterns, units, known

    return make


@pytest.mark.parametrize("architecture", ["qwen2-tied", "phi", "qwen2-moe"])
def test_exact(architecture: str, case: Make) -> None:
    policy, batch, patterns, units, known = case(architecture)
    gram = compute_gram(policy, batch, patterns, mode="exact", units=units)
    assert set(gram.by_parameter) == set(policy.parameters())  # a tied matrix once
    for parameter, sums in gram.by_parameter.items():
        for name, (each, whole) in sums.items():
            vectors = known[parameter][name]
            assert each == pytest.approx(float(vectors.square().sum()), rel=1e-5, abs=1e-12)
            assert whole == pytest.approx(float(vectors.sum(dim=0).square().sum()), rel=1e-5, abs=1e-12)


def test_projected_sums_are_unbiased(case: Make) -> None:
    policy, batch, patterns, units, known = case()
    repeats, columns = 40, 48
    found: dict[str, list[list[float]]] = {"blocks": [], "dense": []}
    for seed in range(repeats):
        gram = compute_gram(
            policy, batch, patterns, mode="projected", columns=columns, units=units, test=False, micro_batch=2,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        assert set(gram.by_parameter) == set(policy.parameters())
        for name, values in found.items():
            values.append([part for parameter in policy.parameters() for part in gram.by_parameter[parameter][name]])
    for name, values in found.items():
        expected = [
            number
            for vectors in (known[parameter][name] for parameter in policy.parameters())
            for number in (float(vectors.square().sum()), float(vectors.sum(dim=0).square().sum()))
        ]
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0) / repeats**0.5
        assert np.all(np.abs(mean - expected) < 5 * spread + 1e-5 * np.abs(expected))
    plain = compute_gram(policy, batch, patterns, mode="projected", columns=columns, test=False,
                         generator=torch.Generator().manual_seed(3))  # fmt: skip
    same = compute_gram(policy, batch, patterns, mode="projected", columns=columns, test=False, units=units,
                        generator=torch.Generator().manual_seed(3))  # fmt: skip
    torch.testing.assert_close(plain.matrix, same.matrix, rtol=1e-9, atol=1e-9)
    assert plain.by_parameter == {}


def test_without_memory_for_sketches_there_are_none_and_the_result_says_so(case: Make) -> None:
    policy, batch, patterns, units, _ = case()
    options = {"mode": "projected", "columns": 64, "test": False, "generator": torch.Generator()}
    need = compute_gram(policy, batch, patterns, **options).choice.projected.bytes
    gram = compute_gram(policy, batch, patterns, memory=need + 1000, units=units, **options)
    assert gram.by_parameter == {}
    assert "no memory" in gram.no_units


def test_a_fold_keeps_inner_products_on_average() -> None:
    vectors = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    signs = torch.Generator().manual_seed(1)
    total, repeats = 0.0, 3000
    for seed in range(repeats):
        fold = Fold(50, 16, torch.Generator().manual_seed(seed))
        sign = 2.0 * torch.randint(0, 2, (50,), generator=signs) - 1
        folded = fold(vectors * sign)
        assert folded.shape == (2, 16)
        total += float(folded[0] @ folded[1])
    expected = float(vectors[0] @ vectors[1])
    norms = float(vectors[0].norm() * vectors[1].norm())
    assert total / repeats == pytest.approx(expected, abs=5 * norms * (2 / 16 / repeats) ** 0.5)


def test_weights_of_another_shape_are_refused(case: Make) -> None:
    policy, batch, patterns, _, _ = case()
    with pytest.raises(InputError, match="units 'few'"):
        compute_gram(policy, batch, patterns, units={"few": torch.ones(3, 5)})
