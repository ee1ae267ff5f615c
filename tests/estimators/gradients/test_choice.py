"""Which way is taken, what is told of it, and that memory is respected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gradaxis.errors import InputError
from gradaxis.estimators.gradients import build_patterns, compute_gram
from gradaxis.estimators.gradients.budget import ModelShape, exact_bytes, exact_units, projected_bytes, projected_units
from gradaxis.estimators.gradients.choice import Choice, Problem, choice_from_facts, choose, exact_way, projected_way
from gradaxis.estimators.gradients.work import GramWork
from gradaxis.estimators.memory import used_memory
from gradaxis.estimators.policies import HuggingFacePolicy

Make = Callable[..., Any]
# SmolLM2-135M: 30 layers of 576, 134.5 million values
SMALL = ModelShape(layers=30, hidden=576, inner=1536, heads=9, vocabulary=49152, values=134_515_008,
                   selected=134_515_008)  # fmt: skip
PROBLEM = Problem(sequences=64, rows=64, patterns=1, positions=96, answers=32, tokens=90.0, columns=8192,
                  at_once=16)  # fmt: skip


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_mode_is_chosen_by_memory(tiny_policy: Make, tiny_batch: Make, random_total: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, seed) for seed in range(3)], tolerance=1e-7)
    roomy = compute_gram(policy, batch, patterns, columns=64)
    assert roomy.exact
    assert roomy.choice.mode == "exact"
    assert roomy.choice.tolerance == 1e-7
    assert roomy.choice.patterns == patterns.size
    tight = GramWork(policy, batch, patterns, memory=0, columns=64).exact_way.bytes - 1  # with all layers run again
    narrow = compute_gram(policy, batch, patterns, memory=tight, columns=64, generator=generator())
    assert not narrow.exact
    assert narrow.choice.columns == 64
    assert narrow.choice.projected.bytes <= tight
    assert "exact needs" in narrow.choice.why
    with pytest.raises(InputError, match="generator"):
        compute_gram(policy, batch, patterns, memory=tight, columns=64)


def test_what_does_not_fit_is_refused(tiny_policy: Make, tiny_batch: Make, random_total: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    patterns = build_patterns([random_total(batch, 0)])
    with pytest.raises(InputError, match=r"memory: got 0\.00 GB.*one sequence"):
        compute_gram(policy, batch, patterns, memory=1000, generator=generator())
    with pytest.raises(InputError, match="gradients in one pass"):
        compute_gram(policy, batch, patterns, mode="exact", memory=1000)
    limited = HuggingFacePolicy(policy.model, memory=used_memory(policy.device) // 2)
    with pytest.raises(InputError, match=r"are in use, expected .* or more for scoring one sequence"):
        limited.quantities(batch)
    with pytest.raises(InputError, match="are in use, expected"):
        compute_gram(limited, batch, patterns, generator=generator())


def test_scoring_takes_fewer_rows_where_memory_is_short(
    tiny_policy: Make, tiny_batch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    expected, seen = policy.quantities(batch), []
    policy.model.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    # 9 positions of a layer of (6·16 + 3·24) values, and 6 arrays of 5 answers and 23 tokens, 8 bytes each
    one = 8 * (9 * (6 * 16 + 3 * 24) + 6 * 5 * 23)
    policy.memory = 10**12
    monkeypatch.setattr(policy, "memory_left", lambda: 2 * one + 1)
    found = policy.quantities(batch)
    assert max(seen) == 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)


def test_costs_are_those_of_the_formulas() -> None:
    # B = 1, N = 64, Tok = 90: 1 + 64/270; all layers again: 4/3 + 64/270
    assert exact_units(64, 64, 90.0) == pytest.approx(1 + 64 / 270)
    assert exact_units(64, 64, 90.0, 1.0) == pytest.approx(4 / 3 + 64 / 270)
    # B = 5: five times the pass, 25 times the products
    assert exact_units(64, 320, 90.0) == pytest.approx(5 + 25 * 64 / 270)
    assert projected_units(5, 90.0) < 6 * 1.4
    assert exact_bytes(SMALL, 64, 96, 32, recomputed=30) < exact_bytes(SMALL, 64, 96, 32, recomputed=10)
    assert projected_bytes(SMALL, 1, 320, 96, 32, 8192) < projected_bytes(SMALL, 16, 320, 96, 32, 8192)


def test_as_few_layers_run_again_as_fit() -> None:
    plenty, none_again = exact_way(SMALL, PROBLEM, 10**12)
    assert none_again == 0
    some, again = exact_way(SMALL, PROBLEM, plenty.bytes - 1)
    assert again == 1
    assert some.bytes < plenty.bytes
    comfortable, most = exact_way(SMALL, PROBLEM, 10**12, comfort=4 * 10**9)
    assert 0 < most < 30
    assert comfortable.bytes <= 4 * 10**9
    assert exact_way(SMALL, PROBLEM, some.bytes, comfort=1)[1] == 1  # where it cannot, it takes what there is
    nothing, every = exact_way(SMALL, PROBLEM, 0)
    assert every == 30
    assert nothing.bytes > 0


def test_the_choice_is_by_cost() -> None:
    def mode(problem: Problem, memory: int = 10**12, asked: str = "auto") -> tuple[str, str]:
        exact, _ = exact_way(SMALL, problem, memory)
        projected, size = projected_way(SMALL, problem, memory, None)
        assert 1 <= size <= 16
        return choose(asked, SMALL, problem, exact, projected, memory)

    assert mode(PROBLEM)[0] == "exact"
    many = replace(PROBLEM, sequences=512, rows=512 * 12, patterns=12)
    name, why = mode(many)
    assert name == "projected"
    assert "times as much" in why
    assert mode(PROBLEM, memory=10**9)[0] == "projected"
    assert mode(PROBLEM, memory=10**9, asked="exact")[0] == "exact"
    assert mode(PROBLEM, asked="projected") == ("projected", "it was asked for")


def test_the_choice_survives_a_file(tiny_policy: Make, tiny_batch: Make, random_total: Make, tmp_path: Path) -> None:
    policy, batch = tiny_policy("gpt2"), tiny_batch()
    choice = compute_gram(policy, batch, build_patterns([random_total(batch, 0)])).choice
    assert isinstance(choice, Choice)
    assert choice_from_facts(choice.facts()) == choice
