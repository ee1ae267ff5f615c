"""Compiling: what is accepted, what is refused, and what an estimator says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gradaxis
from gradaxis.errors import InputError, MissingInputError, NotYetError, UsageError
from gradaxis.estimators import CompiledEstimator, compile, contract_batch
from gradaxis.estimators.rollouts import RolloutBatch
from gradaxis.taxonomy import Method, Placed, Registry


def place(registry: Registry, operator: str, **changes: Any) -> Placed:
    """A placed operator with its declared defaults; `changes` are parameters, or `over`, `stage` and `where`."""
    declaration = registry.operators[operator]
    placing = {name: changes.pop(name, None) for name in ("over", "stage", "where")}
    parameters = {n: changes.get(n, None if p.required else p.default) for n, p in declaration.parameters.items()}
    over = placing["over"] or (declaration.over.default if declaration.over else None)
    stage = placing["stage"] or (declaration.stages[0] if declaration.stages else None)
    return Placed(operator, operator, parameters, placing["where"], over, stage, (), None, None, declaration)


def in_groups(batch: RolloutBatch, *groups: int) -> torch.Tensor:
    return torch.isin(batch.group, torch.tensor(groups)).unsqueeze(1) & batch.mask


def with_slots(method: Method, **slots: tuple[Placed, ...]) -> Method:
    return replace(method, slots={**method.slots, **slots})


@pytest.fixture
def reinforce(registry: Registry) -> Method:
    return registry.method("reinforce")


def test_public_door_compiles_by_name_with_overrides() -> None:
    estimator = gradaxis.compile("dapo", {"trust_region.high": 0.3})
    assert isinstance(estimator, CompiledEstimator)
    assert estimator.method.slots["trust_region"][0].parameters["high"] == 0.3
    assert estimator.label == gradaxis.compile("dapo[trust_region.high=0.3]").label


def test_every_way_to_name_an_entry_gives_the_same_estimator(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "id: mine\nname: Mine\nextends: grpo\nfamily: post-grpo\nyear: 2026\nsummary: A test.\n"
        "trajectory:\n  trust_region:\n    set:\n      clip_ratio: {high: 0.3}\n",
        encoding="utf-8",
    )
    batch = contract_batch()
    ways = [
        compile("grpo[trust_region.high=0.3]"),
        compile("grpo", {"trust_region.high": 0.3}, registry),
        compile(registry.method("grpo"), {"trust_region.high": 0.3}),
        compile(str(path)),
        compile(path),
    ]
    expected = ways[0].coefficients(batch).total["logp"]
    assert not expected.equal(compile("grpo").coefficients(batch).total["logp"])
    assert all(estimator.coefficients(batch).total["logp"].equal(expected) for estimator in ways)


@pytest.mark.parametrize("text", ["no-such-method", "grpo,dapo", "grpo[nowhere.high=1]", "grpo[trust_region.high=x]"])
def test_wrong_names_are_usage_errors(text: str, registry: Registry) -> None:
    with pytest.raises(UsageError):
        compile(text, registry=registry)


@pytest.mark.parametrize(
    ("name", "couples", "needs"),
    [
        ("reinforce", "sample", set()),
        ("reinforce-baseline", "batch", set()),
        ("remax", "sample", {"companion:greedy"}),
        ("rloo", "group", {"old_logp", "ref_logp"}),
        ("ppo", "batch", {"logp", "old_logp", "value"}),
        ("grpo", "group", {"logp", "old_logp", "ref_logp"}),
        ("dapo", "batch", {"logp", "old_logp"}),
        ("gigpo", "group", {"logp", "old_logp", "ref_logp", "turns"}),
        ("grpo-opd", "group", {"logp", "old_logp", "ref_logp", "teacher_logp"}),
    ],
)
def test_what_an_estimator_says_about_itself(name: str, couples: str, needs: set[str], registry: Registry) -> None:
    estimator = compile(name, registry=registry)
    assert estimator.couples == couples
    assert {need.column for need in estimator.needs} == needs
    assert estimator.quantities == ("logp",)
    assert estimator.missing(contract_batch()) == []


def test_everything_that_is_missing_is_listed_with_its_remedy(registry: Registry) -> None:
    batch = contract_batch()
    bare = replace(batch, columns={}, turns=None, companions={}, missing={"ref_logp": "no reference was given"})
    listed = {error.column: error for error in compile("gigpo", registry=registry).missing(bare)}
    assert set(listed) == {"logp", "old_logp", "ref_logp", "turns"}
    assert "no reference was given" in str(listed["ref_logp"])
    assert "--reference" in listed["ref_logp"].remedy
    given = compile("gigpo", registry=registry).missing(bare, given=["logp"])
    assert {error.column for error in given} == {"old_logp", "ref_logp", "turns"}
    assert [error.column for error in compile("remax", registry=registry).missing(bare, given=["logp"])] == [
        "companion:greedy"
    ]
    with pytest.raises(MissingInputError, match="value"):
        compile("ppo", registry=registry).objective({"logp": batch.columns["logp"]}, replace(
            batch, columns={"old_logp": batch.columns["old_logp"]}))  # fmt: skip


def test_a_prompt_without_a_greedy_answer_is_missing(registry: Registry) -> None:
    batch = contract_batch()
    partial = replace(batch, companions={"greedy": batch.companions["greedy"].rows([0, 1, 2, 4, 5])})
    (error,) = compile("remax", registry=registry).missing(partial)
    assert "prompt 3" in str(error)


def test_the_length_limit_is_missing_without_provenance(registry: Registry) -> None:
    batch = replace(contract_batch(), provenance={})
    assert [error.column for error in compile("dr-grpo", registry=registry).missing(batch)] == ["max_new_tokens"]
    assert compile("grpo", registry=registry).missing(batch) == []


def test_a_group_of_one_is_refused_by_leave_one_out_and_harmless_elsewhere(registry: Registry) -> None:
    batch = contract_batch().rows([0, 1, 11, 18])
    with pytest.raises(InputError, match="group 3, 5"):
        compile("rloo", registry=registry).coefficients(batch)
    advantage = compile("grpo", registry=registry).coefficients(batch).advantage
    assert float(advantage[2:].abs().max()) == 0


def test_quantities_of_another_shape_are_refused(registry: Registry) -> None:
    batch = contract_batch()
    with pytest.raises(InputError, match=r"shape \(21, 8\)"):
        compile("grpo", registry=registry).objective({"logp": batch.columns["logp"][:, :8]}, batch)


def test_one_ratio_with_advantages_of_tokens_takes_their_mean(registry: Registry) -> None:
    """L of each sequence is clip(s) times the mean advantage, where no token differs in sign; C = ω A throughout."""
    gspo, teacher = registry.method("gspo"), registry.method("grpo-opd").slots["credit"]
    wide = registry.override(gspo, {"trust_region.low": 1e9, "trust_region.high": 1e9, "terms.coefficient": 0.0})
    estimator, batch = compile(with_slots(wide, credit=teacher)), contract_batch()
    found = estimator.coefficients(batch)
    torch.testing.assert_close(found.omega * found.advantage, found.total["logp"], rtol=1e-12, atol=1e-15)
    row = next(i for i in range(batch.size) if int(batch.length[i]) > 2)
    at = batch.mask[row]
    distance = (batch.columns["logp"] - batch.columns["old_logp"])[row][at]
    whole = compile(with_slots(wide, credit=teacher, ratio=(), trust_region=())).coefficients(batch)
    expected = distance.mean().exp() * whole.advantage[row][at].mean() / batch.size / at.sum()
    torch.testing.assert_close(found.total["logp"][row][at], expected.expand(int(at.sum())))


def test_entries_that_cannot_be_computed_yet_are_refused_when_compiled(registry: Registry, reinforce: Method) -> None:
    grpo = registry.method("grpo")
    with pytest.raises(NotYetError, match="link"):
        compile(replace(grpo, not_executable="not yet: link rank_pairs"))
    with pytest.raises(InputError, match="one operator that forms the ratio"):
        compile(with_slots(grpo, ratio=grpo.slots["ratio"] * 2))
    with pytest.raises(NotYetError, match="anchor_state"):
        compile(with_slots(reinforce, baseline=(place(registry, "center_rewards", over="anchor_state"),)))
    with pytest.raises(NotYetError, match="where"):
        compile(with_slots(grpo, aggregation=(replace(grpo.slots["aggregation"][0], where={"truncated": True}),)))
    with pytest.raises(NotYetError, match="rewards of turns"):
        compile(
            with_slots(
                reinforce, signal=(place(registry, "score_steps"),), baseline=(place(registry, "subtract_greedy"),)
            )
        )


def test_work_that_would_be_discarded_is_refused(registry: Registry) -> None:
    ppo = registry.method("ppo")
    with pytest.raises(InputError, match=r"scale\.divide_by_spread"):
        compile(with_slots(ppo, scale=registry.method("grpo").slots["scale"]))
    with pytest.raises(InputError, match="streams"):
        compile(with_slots(registry.method("gigpo"), credit=()))
    with pytest.raises(InputError, match="ratio"):
        compile(with_slots(registry.method("grpo"), ratio=()))


@pytest.mark.parametrize(
    ("where", "acts_on"),
    [
        ({"sign": "positive"}, lambda advantage, batch: advantage > 0),
        ({"truncated": True}, lambda advantage, batch: batch.truncated.unsqueeze(1) & batch.mask),
        ({"source": "expert"}, lambda advantage, batch: (torch.arange(21) % 2 == 0).unsqueeze(1) & batch.mask),
        ({"group": "mixed"}, lambda advantage, batch: in_groups(batch, 0, 3, 4)),
        ({"group": "all-wrong"}, lambda advantage, batch: in_groups(batch, 2, 5)),
        ({"group": "all-right"}, lambda advantage, batch: in_groups(batch, 1)),
        ({"sign": "positive", "truncated": False},
         lambda advantage, batch: (advantage > 0) & ~batch.truncated.unsqueeze(1)),
    ],
)  # fmt: skip
def test_gate_on_the_clip_leaves_the_ratio_alone_elsewhere(
    where: dict[str, Any], acts_on: Callable[..., torch.Tensor], registry: Registry
) -> None:
    """ω of a gated clip is that of the clip inside the gate and that of the plain ratio outside."""
    method = registry.method("grpo-opd")
    clip = method.slots["trust_region"][0]
    batch = replace(contract_batch(), labels={"source": ("expert", "policy") * 10 + ("expert",)})
    omega = {
        "clipped": compile(method).coefficients(batch).omega,
        "plain": compile(with_slots(method, trust_region=())).coefficients(batch).omega,
        "gated": compile(with_slots(method, trust_region=(replace(clip, where=where),))).coefficients(batch).omega,
    }
    inside = acts_on(compile(method).coefficients(batch).advantage, batch)
    assert 0 < int(inside.sum()) < int(batch.mask.sum())
    assert omega["gated"].equal(torch.where(inside, omega["clipped"], omega["plain"]))


def test_gates_on_the_reward_side_and_on_terms(registry: Registry) -> None:
    """Centring where truncated only; the KL term on positive advantages only."""
    batch, grpo = contract_batch(), registry.method("grpo")
    bare = with_slots(grpo, scale=())
    gated = with_slots(bare, baseline=(place(registry, "center_rewards", where={"truncated": True}),),
                       terms=(replace(grpo.slots["terms"][0], where={"sign": "positive"}),))  # fmt: skip
    found, centred = compile(gated).coefficients(batch), compile(bare).coefficients(batch)
    raw = torch.where(batch.mask, batch.reward.unsqueeze(1), 0.0)
    truncated = batch.truncated.unsqueeze(1)
    assert found.advantage.equal(torch.where(truncated, centred.advantage, raw))
    assert found.rho["logp"].equal(torch.where(found.advantage > 0, centred.rho["logp"], 0.0))


def test_a_gate_on_a_label_that_the_rollouts_lack_is_missing(registry: Registry) -> None:
    grpo = registry.method("grpo")
    gated = with_slots(grpo, terms=(replace(grpo.slots["terms"][0], where={"role": "solver"}),))
    assert [error.column for error in compile(gated).missing(contract_batch())] == ["role"]


def test_selection_with_a_gate_keeps_what_lies_outside(registry: Registry) -> None:
    """Silent groups are dropped only where all answers are wrong: the all-right group stays and is counted."""
    dapo = registry.method("dapo")
    gated = with_slots(dapo, selection=(replace(dapo.slots["selection"][0], where={"group": "all-wrong"}),))
    batch = contract_batch()
    omega = compile(gated).coefficients(batch).omega
    assert float(omega[4:7].abs().sum()) > 0
    assert float(omega[7:11].abs().sum()) == 0


def test_levels_mix_where_they_can(registry: Registry, reinforce: Method) -> None:
    """Step rewards summed to go over turns, centred among all turns, reach the tokens of their turns."""
    batch = contract_batch()
    method = with_slots(
        reinforce, signal=(place(registry, "score_steps"),),
        baseline=(place(registry, "center_rewards", over="batch"),),
        credit=(place(registry, "sum_to_go", gamma=0.5, stage="accrue"),),
    )  # fmt: skip
    advantage = compile(method).coefficients(batch).advantage
    turns = batch.turns
    assert turns is not None
    returns = []
    for s, i in enumerate(turns.sequence.tolist()):
        later = [k for k in range(s, len(turns.sequence)) if turns.sequence[k] == i]
        returns.append(sum(0.5**n * float(turns.reward[k]) for n, k in enumerate(later)))
    center = sum(returns) / len(returns)
    for s, i in enumerate(turns.sequence.tolist()):
        for t in range(int(turns.start[s]), int(turns.end[s])):
            assert float(advantage[i, t]) == pytest.approx(returns[s] - center)
    assert float(advantage[~batch.mask].abs().max()) == 0


def test_advantage_of_turns_is_copied_to_tokens_before_a_teacher_speaks(registry: Registry, reinforce: Method) -> None:
    batch = contract_batch()
    method = with_slots(reinforce, signal=(place(registry, "score_steps"),),
                        credit=registry.method("grpo-opd").slots["credit"])  # fmt: skip
    advantage = compile(method).coefficients(batch).advantage
    gap = batch.columns["teacher_logp"] - batch.columns["old_logp"]
    turns = batch.turns
    assert turns is not None
    for s, i in enumerate(turns.sequence.tolist()):
        for t in range(int(turns.start[s]), int(turns.end[s])):
            assert float(advantage[i, t]) == pytest.approx(float(turns.reward[s] + gap[i, t]))


def test_critic_of_turns_reads_the_value_before_each_turn(registry: Registry, reinforce: Method) -> None:
    """Step rewards 0 and 1, values at the turns' first tokens: GAE with λ = 1 gives the return minus the value."""
    batch = contract_batch()
    method = with_slots(
        reinforce, signal=(place(registry, "score_steps"),), baseline=(place(registry, "subtract_critic"),),
        credit=(place(registry, "estimate_gae", lam=1.0),),
    )  # fmt: skip
    advantage = compile(method).coefficients(batch).advantage
    turns = batch.turns
    assert turns is not None
    for s, (i, t) in enumerate(zip(turns.sequence.tolist(), turns.start.tolist(), strict=True)):
        later = [k for k in range(s, len(turns.sequence)) if turns.sequence[k] == i]
        expected = float(sum(turns.reward[k] for k in later) - batch.columns["value"][i, t])
        assert float(advantage[i, t]) == pytest.approx(expected)


def test_a_second_teacher_is_read_from_its_own_column(registry: Registry) -> None:
    method = registry.method("grpo-opd")
    credit = replace(method.slots["credit"][0], parameters={"teacher": "judge", "coefficient": 1.0})
    estimator = compile(with_slots(method, credit=(credit,)))
    batch = contract_batch()
    assert [error.column for error in estimator.missing(batch)] == ["judge_logp"]
    moved = batch.with_columns({"judge_logp": batch.columns["teacher_logp"]})
    expected = compile(method).coefficients(batch).total["logp"]
    assert estimator.coefficients(moved).total["logp"].equal(expected)


def test_half_precision_quantities_are_computed_in_float32(registry: Registry) -> None:
    batch = contract_batch()
    found = compile("dapo", registry=registry).coefficients(batch, {"logp": batch.columns["logp"].bfloat16()})
    assert found.total["logp"].dtype == torch.float32


def test_wrong_device_is_refused(registry: Registry) -> None:
    batch = contract_batch()
    with pytest.raises(InputError, match="device meta"):
        compile("grpo", registry=registry).objective({"logp": batch.columns["logp"].to("meta")}, batch)


def test_batches_are_left_as_they_were(registry: Registry, ragged_batch: Callable[..., RolloutBatch]) -> None:
    batch = ragged_batch(1)
    before = {name: column.clone() for name, column in batch.columns.items()}
    for name in ("grpo", "gigpo", "ppo"):
        compile(name, registry=registry).coefficients(batch)
    assert all(torch.equal(column.nan_to_num(7), before[name].nan_to_num(7)) for name, column in batch.columns.items())
