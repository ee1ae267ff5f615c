"""The checkpoints that ship with the package are what the experiments need, read from the files themselves."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaForCausalLM

from gradaxis.errors import InputError, UsageError
from gradaxis.estimators.policies import (
    EMBEDDED,
    Answers,
    HuggingFacePolicy,
    effective_share,
    embedded_path,
    embedded_policy,
    list_answers,
    silent_group_probability,
    success_rate,
)
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask, all_problems, in_base_four

TASK = ArithmeticTask()
ITEMS = TASK.prompts(24, seed=0)


@pytest.fixture(scope="module")
def policies() -> dict[str, HuggingFacePolicy]:
    return {name: embedded_policy(name, dtype="float64") for name in EMBEDDED}


@pytest.fixture(scope="module")
def answers(policies) -> dict[str, list[Answers]]:
    return {name: list(list_answers(policy, TASK, ITEMS)) for name, policy in policies.items()}


def _over_prompts(parts: list[Answers], functional: Callable[[Answers], torch.Tensor]) -> torch.Tensor:
    return torch.cat([functional(part) for part in parts])


@pytest.mark.parametrize("name", EMBEDDED)
def test_checkpoint_is_a_small_llama_in_safetensors(name):
    folder = embedded_path(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    assert not list(folder.glob("*.bin"))
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 - the head is tied to the embedding
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["vocab_size"] <= 12


@pytest.mark.parametrize("name", EMBEDDED)
def test_policy_is_a_language_model_with_a_chat_template(name, policies):
    policy = policies[name]
    tokenizer = policy.tokenizer
    assert isinstance(policy, HuggingFacePolicy)
    assert isinstance(policy.model, LlamaForCausalLM)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert policy.model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert policy.model.generation_config.pad_token_id == tokenizer.pad_token_id
    question = [{"role": "user", "content": "12+3"}]
    assert tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True) == "12+3="
    told = [*question, {"role": "assistant", "content": "21"}]
    assert tokenizer.apply_chat_template(told, tokenize=False) == "12+3=21<end>"
    assert tokenizer.convert_ids_to_tokens(tokenizer("12+3=21<end>")["input_ids"]) == [*"12+3=21", "<end>"]
    assert tokenizer.decode(tokenizer("12+3=")["input_ids"]) == "12+3="
    assert policy.identity.startswith(f"embedded:{name}@")


def test_every_token_carries_gradient_even_padding(policies):
    # The policy may emit it, so what the model makes of it is part of the answer's probability.
    assert all(policy.model.get_input_embeddings().padding_idx is None for policy in policies.values())


def test_unknown_checkpoint_is_named():
    with pytest.raises(UsageError, match=r"critic.*reference, policy, stale, teacher"):
        embedded_path("critic")


def test_answers_have_at_least_three_lengths_with_a_tenth_of_the_mass(answers):
    lengths = torch.arange(1, TASK.max_new_tokens + 1)
    for name in ("reference", "policy", "stale"):
        mass = _over_prompts(answers[name], lambda part: part.probability @ (part.length[:, None] == lengths).double())
        assert (mass.mean(dim=0) >= 0.1).sum() >= 3, name
        assert mass.mean(dim=0).sum().item() == pytest.approx(1)
        assert (mass.mean(dim=0) > 0).all()  # from the end token alone to four tokens


def test_rewards_are_graded(answers):
    levels = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    for part in answers["policy"]:
        torch.testing.assert_close(part.reward.unique(), levels)
    shares = _over_prompts(
        answers["policy"],
        lambda part: (part.probability[:, :, None] * ((part.reward[:, :, None] - levels).abs() < 1e-9)).sum(dim=1),
    ).mean(dim=0)
    assert shares.sum().item() == pytest.approx(1)
    assert (shares > 0.01).all()


def test_success_spans_hopeless_to_sure_and_many_between(answers):
    success = _over_prompts(answers["policy"], success_rate)
    assert len(success) >= 24
    assert success.min() < 0.05
    assert success.max() > 0.95
    assert ((success > 0.05) & (success < 0.95)).sum() >= 8


def test_a_fifth_of_the_groups_of_eight_is_silent_but_not_most(answers):
    for name in ("policy", "stale"):
        silent = _over_prompts(answers[name], lambda part: silent_group_probability(part, 8)).mean().item()
        assert 0.2 <= silent <= 0.6, name


def test_stale_snapshot_leaves_about_half_of_the_samples_effective(policies):
    share = effective_share(policies["policy"], policies["stale"], TASK, ITEMS).mean().item()
    assert 0.3 <= share <= 0.7


def test_each_checkpoint_is_another_and_they_stand_in_order(policies, answers):
    success = {name: _over_prompts(parts, success_rate).mean().item() for name, parts in answers.items()}
    assert success["reference"] + 0.05 < success["policy"] < success["teacher"] - 0.2
    assert success["stale"] < success["policy"]
    assert len({policy.identity.split("@")[1] for policy in policies.values()}) == len(EMBEDDED)


@pytest.mark.parametrize("seed", [1, 2])
def test_other_prompts_show_the_same(policies, seed):
    parts = list(list_answers(policies["policy"], TASK, TASK.prompts(24, seed=seed)))
    success = _over_prompts(parts, success_rate)
    assert success.min() < 0.05
    assert success.max() > 0.95
    assert _over_prompts(parts, lambda part: silent_group_probability(part, 8)).mean() >= 0.2


def test_task_adds_in_base_four():
    assert [in_base_four(number) for number in (0, 3, 4, 15, 16, 30)] == ["0", "3", "10", "33", "100", "132"]
    problems = all_problems()
    assert len({item.text for item in problems}) == 256
    for item in problems:
        left, right = item.text.split("+")
        assert int(left, 4) + int(right, 4) == int(item.data["answer"], 4)


def test_task_deals_different_problems_with_answers_of_every_length():
    items = TASK.prompts(24, seed=3)
    assert len({item.text for item in items}) == 24
    assert sorted(len(item.data["answer"]) for item in items) == [1] * 8 + [2] * 8 + [3] * 8
    assert TASK.prompts(24, seed=3) == items != TASK.prompts(24, seed=4)
    assert len({item.text for item in TASK.prompts(256)}) == 256
    for count in (0, 257):
        with pytest.raises(InputError, match="problems"):
            TASK.prompts(count)


def test_task_rewards_form_and_the_right_sum_apart():
    item = next(item for item in all_problems() if item.text == "33+1")  # 15 + 1 = 16
    assert TASK.score(item, "100") == {"right": 0.8, "form": 0.2}
    for wrong in ("0", "33", "101"):
        assert TASK.score(item, wrong) == {"right": 0.0, "form": 0.2}
    for malformed in ("", "00", "0100", "1000", "100<pad>", "+100", "100=", "４"):
        assert TASK.score(item, malformed) == {"right": 0.0, "form": 0.0}
