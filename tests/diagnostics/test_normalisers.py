"""How leaving a unit out moves a batch's normaliser: by hand, and on the methods of a small point."""

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.normalisers import scale_without


def test_a_token_mean_by_hand():
    # Units of 1, 2 and 3 tokens, each token with the weight A / Σ L: without unit j the others' weights grow by
    # Σ L / (Σ L − L_j) = 6/5, 6/4, 6/3, where those of a mean over units grow by 3/2.
    lengths, units = torch.tensor([1.0, 2.0, 3.0]), np.array([0, 1, 2])
    tokens = torch.arange(3)[None, :] < lengths[:, None]
    advantage = torch.tensor([[1.0], [-2.0], [0.5]])
    whole = tokens * advantage / 6
    without = []
    for unit in range(3):
        kept = (torch.arange(3) != unit)[:, None]
        without.append({"logp": whole * kept * 6 / (6 - lengths[unit])})
    assert scale_without({"logp": whole}, without, units) == pytest.approx([4 / 5, 1.0, 4 / 3])


def test_a_mean_over_units_has_no_normaliser():
    whole, units = torch.randn(8, 4, dtype=torch.float64), np.repeat(np.arange(4), 2)
    without = [{"logp": whole * torch.from_numpy(units != unit)[:, None] * 4 / 3} for unit in range(4)]
    assert scale_without({"logp": whole}, without, units) == pytest.approx(1.0)


def test_units_without_weights_move_nothing():
    whole = torch.zeros(3, 2)
    whole[0] = 1.0
    without = [{"logp": whole * (torch.arange(3) != unit)[:, None]} for unit in range(3)]
    assert scale_without({"logp": whole}, without, np.arange(3))[0] == 1.0


def test_methods_that_couple_the_batch_have_scales_and_no_others(evidence):
    found = evidence("fresh")
    coupled = {label for label, candidate in found.candidates.items() if candidate.couples == "batch"}
    assert coupled
    for label in found.candidates:
        scale = found.scale(found.key(label))
        assert (scale is not None) == (label in coupled), label
        if scale is not None:
            assert scale.shape == (found.n,)
            assert np.all((scale > 0.3) & (scale < 3))
