"""Every operator runs where its inputs are, also where there are no data, and gives the same numbers everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gradaxis.estimators import contract_batch
from gradaxis.estimators.inputs import greedy_reward
from gradaxis.estimators.local_scope import number_micro_batches
from gradaxis.estimators.operators import OPERATORS
from gradaxis.estimators.weights import Weight
from gradaxis.taxonomy import Registry

DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]

CHOICES: dict[str, list[dict[str, Any]]] = {
    "form_ratio": [
        {"unit": "token", "pool": "none", "anchor": "old"}, {"unit": "sequence", "pool": "product", "anchor": "old"},
        {"unit": "sequence", "pool": "geometric_mean", "anchor": "behavior"},
    ],
    "clip_ratio": [{"low": 0.2, "high": 0.28}],
    "clip_weight": [{"low": None, "high": 0.2}, {"low": 0.2, "high": 0.2}],
    "aggregate_tokens": [{"weight": weight, "constant": constant, "scope": scope} for scope in ("global", "local")
                         for weight in ("one", "inverse_length") for constant in ("sequences", "tokens", "max_length")],
    "penalise_kl": [{"to": "ref", "value": value, "gradient": "through_value", "coefficient": 0.1}
                    for value in ("k1", "k2", "k3")],
    "add_entropy_bonus": [{"coefficient": 0.1}],
    "score_steps": [{}],
    "penalise_kl_in_reward": [{"to": "ref", "value": "k1", "unit": unit, "coefficient": 0.1}
                              for unit in ("sequence", "token")],
    "shape_by_length": [{"form": "soft_overlong", "limit": 6, "buffer": 4}],
    "drop_zero_variance": [{"statistics": "kept"}],
    "center_rewards": [{"statistic": "mean"}, {"statistic": "leave_one_out"}],
    "subtract_greedy": [{}],
    "subtract_critic": [{}],
    "divide_by_spread": [{"statistic": "std", "ddof": ddof, "epsilon": 1e-4} for ddof in (0, 1)],
    "sum_to_go": [{"gamma": 0.9}],
    "estimate_gae": [{"gamma": 0.9, "lam": 0.95}],
    "add_teacher_log_ratio": [{"teacher": "teacher", "coefficient": 0.5}],
    "add_streams": [{"weights": {"main": 1.0, "step": 0.5}}],
}  # fmt: skip
CASES = [(name, parameters) for name, choices in CHOICES.items() for parameters in choices]


def readings(device: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """One argument for each name that a declaration reads."""
    batch = contract_batch(device, dtype)
    column = batch.columns
    ratio = (column["logp"] - column["old_logp"]).exp()
    turns = batch.turns
    assert turns is not None
    return {
        "logp": column["logp"], "anchor_logp": column["old_logp"], "target_logp": column["ref_logp"],
        "teacher_logp": column["teacher_logp"], "logp_at_sampling": column["old_logp"], "value": column["value"],
        "entropy": column["entropy"], "mask": batch.mask, "length": batch.length, "reward": batch.reward,
        "outcome": batch.reward, "advantage": batch.reward, "peers": batch.group,
        "counted": torch.ones_like(batch.group, dtype=torch.bool), "greedy_reward": greedy_reward(batch),
        "turn_reward": turns.reward, "weight": Weight(ratio, ratio), "token_weight": batch.mask.to(dtype),
        "counted_tokens": batch.mask, "max_length": 12, "micro_batch": number_micro_batches(batch),
        "streams": {"step": column["value"]},
    }  # fmt: skip


def run(
    name: str, parameters: dict[str, Any], device: str, registry: Registry, dtype: torch.dtype = torch.float64
) -> Tensor:
    found = readings(device, dtype)
    if name in ("clip_ratio", "add_streams"):
        found["advantage"] = (found["advantage"] - 0.5).unsqueeze(1).expand(found["mask"].shape)
    result = OPERATORS[name](*(found[read] for read in registry.operators[name].reads), **parameters)
    return result.value if isinstance(result, Weight) else result


def test_every_operator_has_a_case() -> None:
    assert set(CHOICES) == set(OPERATORS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_operator_runs_on_the_device_of_its_inputs(
    name: str, parameters: dict[str, Any], device: str, registry: Registry
) -> None:
    expected, found = (run(name, parameters, place, registry) for place in ("cpu", device))
    assert (found.device.type, found.shape, found.dtype) == (device, expected.shape, expected.dtype)
    if device != "meta":
        torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_operator_keeps_single_precision(name: str, parameters: dict[str, Any], registry: Registry) -> None:
    found = run(name, parameters, "cpu", registry, torch.float32)
    assert found.dtype in (torch.float32, torch.bool)
    expected = run(name, parameters, "cpu", registry)
    torch.testing.assert_close(found.to(expected.dtype), expected, rtol=1e-4, atol=1e-5)
