"""Updates of the user's own training run, against gradients that are put together by hand, update by update."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gradaxis.diagnostics import ExperimentConfig, run_experiment
from gradaxis.diagnostics.complete import complete_evidence
from gradaxis.diagnostics.evidence import EXACT, Evidence
from gradaxis.diagnostics.geometry import Asked, Geometry, Pairs, evenly, in_micro_batches_of, steps_of
from gradaxis.diagnostics.measurements import read_measurements
from gradaxis.diagnostics.plan import plan_evidence
from gradaxis.diagnostics.probes import efficiency
from gradaxis.diagnostics.testbeds import draw, exact_directions, exact_numbers, gram_numbers, load_testbed
from gradaxis.diagnostics.variants import task_part
from gradaxis.errors import InputError, UsageError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.policies import Listing, embedded_policy, expected_reward
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import load_registry

REGISTRY = load_registry()
PROMPTS, GROUPS, SIZE = 16, 2, 4
STEP, UPDATE = 8, 4


@pytest.fixture(scope="module")
def listing() -> Listing:
    return load_testbed("eos", prompts=5)


@pytest.fixture(scope="module")
def batch(listing: Listing) -> RolloutBatch:
    return draw(listing, PROMPTS, GROUPS, SIZE, torch.Generator().manual_seed(4))


def evidence_of(listing: Listing, batch: RolloutBatch, methods: str, asked: Asked, exact: bool = True) -> Evidence:
    batch = in_micro_batches_of(batch, asked.microbatch)
    plan = plan_evidence("fresh", batch, REGISTRY.select(methods), REGISTRY, slots=False, asked=asked,
                         exact_values=exact_numbers(listing, batch) if exact else {})  # fmt: skip
    assert plan.patterns is not None
    directions = exact_directions(listing, batch) if exact else {}
    return complete_evidence(plan, gram_numbers(listing, batch, plan.patterns, directions))


def pick(rows: list[Any], metric: str, method: str) -> Any:
    (found,) = [row for row in rows if row.metric == metric and row.method == method]
    return found


def to_vector(listing: Listing, batch: RolloutBatch, coefficients: Tensor) -> Tensor:
    assert listing.vectors is not None
    return listing.coefficients_to_vector({"logp": coefficients}, listing.locate(batch)) @ listing.vectors


def task_of(method: str) -> CompiledEstimator:
    """The method without the terms that it declares, such as a KL in its reward."""
    return compile(task_part(REGISTRY.select(method)[0], REGISTRY.methods)[0])


def task_vector(listing: Listing, batch: RolloutBatch, method: str, advantage: Tensor | None = None) -> Tensor:
    """ω ⊙ A of a batch, with A from elsewhere where it is given."""
    found = task_of(method).coefficients(batch)
    return to_vector(listing, batch, found.omega * (found.advantage if advantage is None else advantage))


def rows_of(batch: RolloutBatch, pairs: list[tuple[int, int]]) -> Tensor:
    """Rows of (prompt, its k-th group), in that order: 4 rows a group, groups of a prompt side by side."""
    rows = [torch.nonzero(batch.prompt == prompt)[:, 0][SIZE * k : SIZE * (k + 1)] for prompt, k in pairs]
    return torch.cat(rows)


def step_vector(
    listing: Listing, batch: RolloutBatch, step: list[list[tuple[int, int]]], method: str, micro: int | None = None
) -> Tensor:
    """The mean over a step's updates, or over its micro-batches: statistics over the whole step, divisors over each."""
    every = rows_of(batch, [pair for update in step for pair in update])
    whole = task_of(method).coefficients(batch.rows(every)).advantage
    advantage = torch.zeros(batch.size, whole.shape[1], dtype=whole.dtype)
    advantage[every] = whole
    found = []
    for update in step:
        rows = rows_of(batch, update)
        pieces = rows.split(micro) if micro else [rows]
        parts = [task_vector(listing, batch.rows(piece), method, advantage[piece]) for piece in pieces]
        found += parts
    return torch.stack(found).mean(dim=0)


def steps() -> list[list[list[tuple[int, int]]]]:
    """First groups of prompts 0 to 7, then 8 to 15, then the second groups; in updates of four prompts."""
    return [
        [[(prompt, k) for prompt in range(start + at, start + at + UPDATE)] for at in range(0, STEP, UPDATE)]
        for k in range(GROUPS)
        for start in range(0, PROMPTS, STEP)
    ]


@pytest.mark.parametrize(
    ("method", "micro"),
    [("dapo", None), ("dapo[aggregation.scope=local]", SIZE), ("reinforce-plus-plus", None)],
)
def test_coupled_methods_equal_updates_made_by_hand(
    listing: Listing, batch: RolloutBatch, method: str, micro: int | None
) -> None:
    """Means and pseudo-values of every prompt, as explicit vectors."""
    found = evidence_of(listing, batch, method, Asked(STEP, UPDATE * SIZE, micro))
    (label,) = found.candidates
    plain = "dapo" if micro else method
    rows: dict[tuple[int, int], Tensor] = {}
    for step in steps():
        whole = step_vector(listing, batch, step, plain, micro)
        pairs = [pair for update in step for pair in update]
        left = {pair: step_vector(listing, batch, [[p for p in u if p != pair] for u in step], plain, micro)
                for pair in pairs}  # fmt: skip
        pseudo = {pair: STEP * whole - (STEP - 1) * left[pair] for pair in pairs}
        shift = whole - torch.stack(list(pseudo.values())).mean(dim=0)
        rows.update({pair: value + shift for pair, value in pseudo.items()})
    values = torch.stack([torch.stack([rows[prompt, k] for k in range(GROUPS)]) for prompt in range(PROMPTS)])
    mean = values.mean(dim=1)
    products = found.at_geometry[label]
    np.testing.assert_allclose(products.own, (mean @ mean.T).numpy(), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(products.squares, values.square().sum(dim=2).mean(dim=1).numpy(), rtol=1e-5, atol=1e-8)
    assert listing.vectors is not None
    directions = exact_directions(listing, batch)
    target = torch.stack([directions[f"prompt {prompt}"] for prompt in range(PROMPTS)]) @ listing.vectors
    np.testing.assert_allclose(products.cross, (mean @ target.T).numpy(), rtol=1e-5, atol=1e-8)


def test_methods_that_share_nothing_keep_their_own_groups(listing: Listing, batch: RolloutBatch) -> None:
    """RLOO's unit is the gradient of one group alone, whatever the steps and updates."""
    products = evidence_of(listing, batch, "rloo", Asked(STEP, UPDATE * SIZE)).at_geometry["rloo"]
    alone = torch.stack([
        torch.stack([task_vector(listing, batch.rows(rows_of(batch, [(p, k)])), "rloo") for k in range(GROUPS)])
        for p in range(PROMPTS)
    ])  # fmt: skip
    mean = alone.mean(dim=1)
    np.testing.assert_allclose(products.own, (mean @ mean.T).numpy(), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(products.squares, alone.square().sum(dim=2).mean(dim=1).numpy(), rtol=1e-6, atol=1e-10)


def test_local_divisors_bend_the_token_mean_and_leave_others_alone(listing: Listing, batch: RolloutBatch) -> None:
    """With micro-batches of one sequence a token mean is the mean of sequence means: GRPO's aggregation."""
    methods = (
        "dapo[aggregation.scope=local],grpo[aggregation.scope=local],dr-grpo[aggregation.scope=local],grpo,dr-grpo"
    )
    found = evidence_of(listing, batch, methods, Asked(STEP, UPDATE * SIZE, 1))
    own = {label: products.own for label, products in found.at_geometry.items()}
    np.testing.assert_allclose(own["grpo[aggregation.scope=local]"], own["grpo"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(own["dr-grpo[aggregation.scope=local]"], own["dr-grpo"], rtol=1e-6, atol=1e-9)
    rows = efficiency.measure(found)
    local, whole = (pick(rows, "geometry_direction", label) for label in ("dapo[aggregation.scope=local]", "grpo"))
    assert local.estimate == pytest.approx(whole.estimate, abs=0.1)


@pytest.mark.parametrize("method", ["rloo", "dapo", "grpo"])
def test_agrees_with_explicit_updates_of_many_runs(listing: Listing, method: str) -> None:
    """The efficiency of an update of 20 prompts by definition, from explicit gradients; prompts are drawn anew."""
    assert listing.vectors is not None
    generator = torch.Generator().manual_seed(7)
    target = (
        torch.stack([listing.gradient(expected_reward, p) for p in range(listing.prompts)]).mean(0) @ listing.vectors
    )
    drawn = 20
    if method == "dapo":  # the update holds 20 kept prompts: so many are drawn that on average 20 are not silent
        kept = np.mean([_kept(draw(listing, 40, 1, SIZE, generator)) for _ in range(30)])
        drawn = round(20 / kept)
    updates = torch.stack([task_vector(listing, draw(listing, drawn, 1, SIZE, generator), method) for _ in range(400)])
    truth = float((updates.mean(0) @ target) ** 2 / (target @ target) / updates.square().sum(1).mean())
    inside, values = 0, []
    for _ in range(8):
        found = evidence_of(listing, draw(listing, 40, 2, SIZE, generator), method, Asked(20), exact=False)
        row = pick(efficiency.measure(found), "geometry_efficiency", method)
        inside += row.low - 0.01 <= truth <= row.high + 0.01
        values.append(row.estimate)
    assert inside >= 6
    assert np.median([value for value in values if value is not None]) == pytest.approx(truth, abs=0.12)


def _kept(batch: RolloutBatch) -> float:
    return float(
        np.mean([len(set(batch.reward[batch.group == g].tolist())) > 1 for g in batch.group.unique().tolist()])
    )


def test_a_larger_update_is_extrapolated_by_the_noise_alone(listing: Listing, batch: RolloutBatch) -> None:
    rows = {size: efficiency.measure(evidence_of(listing, batch, "rloo", Asked(size))) for size in (16, 64)}
    small, large = (pick(rows[size], "geometry_noise", "rloo") for size in (16, 64))
    assert (1 / small.estimate - 1) / (1 / large.estimate - 1) == pytest.approx(4.0)
    assert "extrapolated from 16 prompts" in large.part
    assert "extrapolated" not in small.part
    same = [pick(rows[size], "geometry_direction", "rloo").estimate for size in (16, 64)]
    assert same[0] == pytest.approx(same[1])
    length = float(batch.length.sum()) / PROMPTS / GROUPS
    assert pick(rows[64], "geometry_tokens", "rloo").estimate == pytest.approx(64 * length)


def test_a_refill_pays_for_the_groups_that_it_drops(listing: Listing, batch: RolloutBatch) -> None:
    rows = efficiency.measure(evidence_of(listing, batch, "dapo,rloo", Asked(16)))
    kept = _kept(batch)
    assert 0 < kept < 1
    tokens = [pick(rows, "geometry_tokens", label).estimate for label in ("dapo", "rloo")]
    assert tokens[0] / tokens[1] == pytest.approx(1 / kept)


def test_few_prompts_a_step_leave_coupled_methods_out(listing: Listing, batch: RolloutBatch) -> None:
    rows = efficiency.measure(evidence_of(listing, batch, "dapo,rloo", Asked(STEP)))
    assert pick(rows, "geometry_efficiency", "dapo").verdict == "unresolved"
    assert "16 prompts a step" in pick(rows, "geometry_efficiency", "dapo").reason
    assert pick(rows, "geometry_rank", "rloo").estimate == 1


def test_sizes_that_do_not_divide_are_refused() -> None:
    assert Geometry(8, 4, 16, 8).update == 4
    for sizes, argument in (
        ((8, 4, 6, None), "--minibatch"),
        ((8, 4, 12, None), "--minibatch"),
        ((8, 4, 16, 3), "--micro"),
    ):
        with pytest.raises(InputError, match=argument):
            Geometry(*sizes)


def test_groups_of_different_sizes_have_no_geometry(listing: Listing, batch: RolloutBatch) -> None:
    uneven = batch.rows(list(range(1, batch.size)))
    with pytest.raises(InputError, match="one size"):
        evidence_of(listing, uneven, "rloo", Asked(STEP))


def test_steps_hold_no_prompt_twice_and_are_even() -> None:
    pairs = Pairs(np.arange(11), np.repeat(np.arange(4), [3, 3, 3, 2]))
    step = steps_of(pairs, 2)
    for number in range(step.max() + 1):
        members = pairs.prompt[step == number]
        assert len(set(members)) == len(members)
        assert 1 <= len(members) <= 2
    assert steps_of(pairs, 99).max() == 2  # all first groups, all second ones, and what is left
    assert np.bincount(evenly(10, 4)).tolist() == [5, 5]
    assert evenly(3, 8).tolist() == [0, 0, 0]


# A whole run --------------------------------------------------------------------------------------------------------


def small(**changes: Any) -> ExperimentConfig:
    chosen = {"prompts": 16, "group_size": 4, "groups": 1, "behavior": None, "reference": None, "teacher": None,
              "critic": None, "probes": ("efficiency", "variance")}  # fmt: skip
    return ExperimentConfig.demo(**{**chosen, **changes})


def test_a_run_with_geometry_and_the_state_of_an_optimizer(
    tmp_path: Path, small_config: Callable[..., ExperimentConfig]
) -> None:
    policy = embedded_policy("policy")
    generator = torch.Generator().manual_seed(0)
    moments = {name: torch.rand(value.shape, generator=generator) ** 4 for name, value in policy.parameters().items()}
    save_file(moments, tmp_path / "v.safetensors", metadata={"step": "10", "beta2": "0.9"})
    shared = {
        "methods": "rloo,dr-grpo,dapo[aggregation.scope=local]",
        "prompts_per_step": 16,
        "minibatch": 32,
        "microbatch": 8,
    }
    weighed = small(**shared, optimizer_state=str(tmp_path / "v.safetensors"))
    plain = small(**shared)
    assert weighed.fingerprint != plain.fingerprint
    found = {}
    for name, config in (("adam", weighed), ("sgd", plain)):
        folder = run_experiment(config, tmp_path / name)
        provenance = json.loads((folder / "provenance.json").read_text())
        told = provenance["points"]["fresh"]["gram"]["inner_product"]
        assert told["kind"] == name
        assert (told.get("steps"), "SGD" in told.get("note", "")) == (
            ([10, 10], False) if name == "adam" else (None, True)
        )
        found[name] = read_measurements(folder)
        metrics = {row.metric for row in found[name] if row.probe == "efficiency"}
        assert {"efficiency", "efficiency_rank", "geometry_efficiency", "geometry_rank", "geometry_tokens"} <= metrics
    noise = [pick(found[name], "noise", "dr-grpo").estimate for name in ("adam", "sgd")]
    assert noise[0] > 10 * noise[1]  # weights 1 / √v̂ of moments below 1


def test_flags_that_lack_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--prompts-per-step"):
        run_experiment(small(minibatch=8), tmp_path)
    with pytest.raises(InputError, match="--minibatch"):
        run_experiment(small(prompts_per_step=16, minibatch=6), tmp_path)


def test_without_a_size_of_micro_batches_local_methods_are_omitted(tmp_path: Path) -> None:
    rows = read_measurements(run_experiment(small(methods="rloo,dapo[aggregation.scope=local]"), tmp_path / "run"))
    assert any("micro_batch" in row.needs for row in rows if row.method == "dapo[aggregation.scope=local]")


def test_exact_target_is_what_the_geometry_is_measured_against(listing: Listing, batch: RolloutBatch) -> None:
    found = evidence_of(listing, batch, "rloo", Asked(STEP))
    assert found.target == EXACT
    without = replace(found, target=None, no_target="nothing to compare with")
    row = pick(efficiency.measure(without), "geometry_efficiency", "rloo")
    assert (row.verdict, row.reason) == ("not assessed", "nothing to compare with")
