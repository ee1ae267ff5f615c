from typing import Any

import numpy as np
import pytest
import torch

from gradaxis.estimators.rollouts.token_law import draw_tokens, token_logp


def test_temperature_by_hand() -> None:
    # p ∝ 4^(1/2), 1 = 2 : 1
    law = token_logp(torch.tensor([[4.0, 1.0]]).log(), temperature=2.0)
    assert law.exp().tolist()[0] == pytest.approx([2 / 3, 1 / 3])
    assert law.dtype == torch.float64


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [0.1, 0.4, 0.2, 0.3]),
        (2, 1.0, [0, 4 / 7, 0, 3 / 7]),
        (9, 1.0, [0.1, 0.4, 0.2, 0.3]),
        (0, 0.5, [0, 4 / 7, 0, 3 / 7]),  # .4 alone is short of .5
        (0, 0.39, [0, 1, 0, 0]),
        (0, 0.001, [0, 1, 0, 0]),
        (3, 0.6, [0, 4 / 7, 0, 3 / 7]),  # of the three kept, 4/9 < .6 and 7/9 ≥ .6
        (1, 0.9, [0, 1, 0, 0]),
    ],
)
def test_cuts_by_hand(top_k: int, top_p: float, expected: list[float]) -> None:
    law = token_logp(torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log(), top_k=top_k, top_p=top_p)
    assert law.exp()[0].tolist() == pytest.approx(expected)


def test_cuts_equal_those_of_transformers() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits: Any = torch.randn(64, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    ids: Any = torch.zeros(64, 1, dtype=torch.int64)
    theirs: Any = TemperatureLogitsWarper(0.7)(ids, logits)
    theirs = TopPLogitsWarper(0.8)(ids, TopKLogitsWarper(12)(ids, theirs))
    ours = token_logp(logits, temperature=0.7, top_k=12, top_p=0.8)
    torch.testing.assert_close(ours, torch.log_softmax(theirs, dim=-1))


def test_an_even_grid_of_uniform_numbers_gives_the_probabilities() -> None:
    probability = torch.tensor([0.0, 0.25, 0.0, 0.125, 0.625, 0.0], dtype=torch.float64)
    grid = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    drawn = draw_tokens(probability.log().expand(800, 6), grid)
    assert torch.bincount(drawn, minlength=6).tolist() == [0, 200, 0, 100, 500, 0]


def test_the_ends_of_the_interval_draw_possible_tokens() -> None:
    law = torch.tensor([[0.0, 1 / 3, 1 / 3, 1 / 3, 0.0]], dtype=torch.float64).log()
    ends = torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert draw_tokens(law.expand(2, 5), ends).tolist() == [1, 3]
