import inspect
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.items import PromptItem
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings

END, PAD = 1, 0
ITEMS = [PromptItem(text=text, data={"answer": answer}) for text, answer in [("1+2", "3"), ("12+34", "46"), ("5", "5")]]


class DigitTask:
    """Graded, so that rewards have two parts: the right answer, and an answer of digits only."""

    name, max_new_tokens = "digits", 6

    def prompts(self, count: int, seed: int) -> list[PromptItem]:
        return ITEMS[:count]

    def score(self, item: PromptItem, completion: str) -> dict[str, float]:
        return {"right": float(completion == item.data["answer"]), "form": 0.25 * completion.isdigit()}


TASK = DigitTask()
SETTINGS = SamplingSettings(group_size=16, seed=3)


def test_layout(make_policy, device) -> None:
    batch = sample_rollouts(make_policy(), TASK, ITEMS, SETTINGS)
    assert batch.size == 48
    assert batch.prompt.tolist() == batch.group.tolist() == [0] * 16 + [1] * 16 + [2] * 16
    assert batch.trajectory.tolist() == list(range(48))
    assert batch.reward_names == ("right", "form")
    assert batch.device.type == device
    assert batch.tokens.shape[1] <= 6
    assert [prompt.text for prompt in batch.prompts] == ["<begin>1+2=", "<begin>12+34=", "<begin>5="]
    assert batch.prompts[1].data == {"answer": "46"}
    asked = zip(batch.prompt.tolist(), batch.completions, strict=True)
    expected = [sum(TASK.score(ITEMS[prompt], text).values()) for prompt, text in asked]
    assert batch.reward.tolist() == expected
    turns = batch.turns
    assert turns is not None
    assert turns.sequence.tolist() == list(range(48))
    assert turns.start.tolist() == [0] * 48
    assert turns.end.tolist() == batch.length.tolist()
    assert turns.reward.tolist() == expected
    assert turns.anchor.tolist() == batch.prompt.tolist()
    assert batch.labels == {"source": ("policy",) * 48}
    assert batch.companions == {}


def test_more_groups_a_prompt_are_the_same_answers_in_smaller_groups(make_policy) -> None:
    whole = sample_rollouts(make_policy(), TASK, ITEMS, SETTINGS)
    split = sample_rollouts(make_policy(), TASK, ITEMS, replace(SETTINGS, group_size=4, groups=4))
    assert split.completions == whole.completions
    assert split.prompt.tolist() == whole.prompt.tolist()
    assert split.group.tolist() == [row // 4 for row in range(48)]


def test_the_end_token_is_an_action_and_truncation_is_marked(make_policy) -> None:
    batch = sample_rollouts(make_policy(), TASK, ITEMS, SETTINGS)
    assert 0 < int(batch.truncated.sum()) < batch.size  # both kinds are present, so that this tests both
    assert torch.equal(batch.mask, batch.response)
    for row in range(batch.size):
        length = int(batch.length[row])
        answer = batch.tokens[row, :length].tolist()
        assert batch.mask[row].tolist() == [t < length for t in range(batch.tokens.shape[1])]
        assert END not in answer[:-1]
        assert (answer[-1] != END) == bool(batch.truncated[row])
        if bool(batch.truncated[row]):
            assert length == 6
        assert (batch.tokens[row, length:] == PAD).all()
        text = "".join(make_policy().tokenizer.convert_ids_to_tokens([t for t in answer if t != END]))
        assert batch.completions[row] == text  # special tokens that the policy wrote are shown, the end token is not


def test_an_answer_may_be_nothing_but_the_end_token(make_policy) -> None:
    policy = make_policy()
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()  # the uniform law: one answer in 17 is empty
    batch = sample_rollouts(policy, TASK, ITEMS, replace(SETTINGS, group_size=64))
    empty = (batch.length == 1) & ~batch.truncated
    assert 0 < int(empty.sum()) < 64
    assert {text for text, nothing in zip(batch.completions, empty.tolist(), strict=True) if nothing} == {""}
    assert batch.columns["behavior_logp"][batch.mask].tolist() == pytest.approx([-math.log(17)] * int(batch.mask.sum()))


def test_all_rewards_equal_is_legal(make_policy) -> None:
    class Flat(DigitTask):
        def score(self, item: PromptItem, completion: str) -> dict[str, float]:
            return {"reward": 1.0}

    assert sample_rollouts(make_policy(), Flat(), ITEMS, SETTINGS).reward.tolist() == [1.0] * 48


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_log_probabilities_are_those_of_one_pass_without_cache(make_policy, temperature: float) -> None:
    policy = make_policy()
    batch = sample_rollouts(policy, TASK, ITEMS, replace(SETTINGS, temperature=temperature))
    again = policy.quantities(batch, ["logp"])["logp"]
    torch.testing.assert_close(batch.columns["behavior_logp"].double(), again, rtol=1e-4, atol=1e-5)
    assert batch.provenance["temperature"] == temperature
    assert batch.provenance["law"] == "iid"


def test_a_truncated_law_is_recorded_as_such(make_policy) -> None:
    policy = make_policy()
    batch = sample_rollouts(policy, TASK, ITEMS, replace(SETTINGS, top_k=2))
    assert batch.provenance["law"] == "truncated"
    mask, recorded = batch.mask, batch.columns["behavior_logp"].double()
    free = policy.quantities(batch, ["logp"])["logp"]
    assert (recorded[mask] > free[mask]).all()  # mass of the tokens that are cut is spread over the two that are left
    seen: dict[tuple[int, tuple[int, ...]], dict[int, float]] = {}
    for row in range(batch.size):
        for t in range(int(batch.length[row])):
            state = (int(batch.prompt[row]), tuple(batch.tokens[row, :t].tolist()))
            seen.setdefault(state, {})[int(batch.tokens[row, t])] = float(recorded[row, t].exp())
    assert max(len(tokens) for tokens in seen.values()) == 2
    both = [sum(tokens.values()) for tokens in seen.values() if len(tokens) == 2]
    assert len(both) > 3
    assert both == pytest.approx([1.0] * len(both), abs=1e-5)


def test_the_models_generation_config_is_ignored(make_policy) -> None:
    plain, odd = make_policy(), make_policy()
    for name, value in {
        "repetition_penalty": 5.0, "top_k": 1, "top_p": 0.1, "min_p": 0.5, "temperature": 9.0, "do_sample": False,
        "max_new_tokens": 1, "no_repeat_ngram_size": 1, "suppress_tokens": [3, 4, 5],
    }.items():  # fmt: skip
        setattr(odd.model.generation_config, name, value)
    one, two = (sample_rollouts(policy, TASK, ITEMS, SETTINGS) for policy in (plain, odd))
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.columns["behavior_logp"], two.columns["behavior_logp"])


def test_the_generation_config_names_end_tokens_and_settings_overrule_it(make_policy) -> None:
    policy = make_policy()
    policy.model.generation_config.eos_token_id = [1, 7, 8]
    batch = sample_rollouts(policy, TASK, ITEMS, SETTINGS)
    last = batch.tokens[torch.arange(batch.size), batch.length - 1]
    assert set(last[~batch.truncated].tolist()) == {1, 7, 8}
    assert batch.provenance["end_tokens"] == [1, 7, 8]
    endless = sample_rollouts(policy, TASK, ITEMS, replace(SETTINGS, end_tokens=()))
    assert endless.truncated.all()
    assert endless.mask.all()


def test_padding_is_by_position_where_pad_and_end_are_one_token(make_policy) -> None:
    plain, same = make_policy(), make_policy()
    same.tokenizer.pad_token = "<end>"
    assert same.tokenizer.pad_token_id == same.tokenizer.eos_token_id
    one, two = (sample_rollouts(policy, TASK, ITEMS, SETTINGS) for policy in (plain, same))
    assert torch.equal(one.mask, two.mask)
    assert torch.equal(one.tokens[one.mask], two.tokens[two.mask])
    assert not (two.tokens[~two.mask] == END).any()  # a filler that ends no answer


def test_prompts_and_samples_have_randomness_of_their_own(make_policy) -> None:
    batch = sample_rollouts(make_policy(), TASK, [ITEMS[0], ITEMS[0]], SETTINGS)
    assert batch.completions[:16] != batch.completions[16:]
    assert len(set(batch.completions)) > 16


@pytest.mark.parametrize("micro_batch", [1, 5, 48])
def test_answers_do_not_depend_on_micro_batches_or_on_the_group_size(make_policy, micro_batch: int) -> None:
    policy = make_policy()
    batch = sample_rollouts(policy, TASK, ITEMS, SETTINGS)
    other = sample_rollouts(policy, TASK, ITEMS, SETTINGS, micro_batch=micro_batch)
    assert torch.equal(batch.tokens, other.tokens)
    torch.testing.assert_close(batch.columns, other.columns, rtol=1e-4, atol=1e-5)
    fewer = sample_rollouts(policy, TASK, ITEMS, replace(SETTINGS, group_size=4), micro_batch=micro_batch)
    assert fewer.completions == tuple(batch.completions[16 * p + g] for p in range(3) for g in range(4))
    assert sample_rollouts(policy, TASK, ITEMS, replace(SETTINGS, seed=4)).completions != batch.completions


def test_micro_batches_shrink_when_memory_runs_out(make_policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    expected = sample_rollouts(policy, TASK, ITEMS, SETTINGS)
    forward, done = policy.model.forward, []

    def small_memory(*arguments, **named):
        if len(named["attention_mask"]) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*arguments, **named)

    small_memory.__signature__ = inspect.signature(forward)  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(policy.model, "forward", small_memory)
    batch = sample_rollouts(policy, TASK, ITEMS, SETTINGS, progress=lambda *counts: done.append(counts))
    assert batch.completions == expected.completions
    assert done[-1] == (48, 48)
    assert all(later[0] - earlier[0] <= 7 for earlier, later in pairwise(done))


def test_first_tokens_follow_the_policys_law(make_policy) -> None:
    policy = make_policy()
    settings = SamplingSettings(group_size=4000, max_new_tokens=1)
    batch = sample_rollouts(policy, TASK, ITEMS[:1], settings, micro_batch=4000)
    with torch.no_grad():
        logits = policy.model(torch.tensor([batch.prompts[0].tokens], device=batch.device)).logits[0, -1].double()
    expected = 4000 * torch.softmax(logits, dim=0)
    counts = torch.bincount(batch.tokens[:, 0], minlength=len(expected)).double()
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 39.3  # 99.9 % point for 16 degrees of freedom; the draw is seeded


def test_greedy_answers_equal_those_of_transformers(make_policy) -> None:
    policy = make_policy()
    batch = sample_rollouts(policy, TASK, ITEMS, SETTINGS, greedy=True)
    greedy = batch.companion("greedy")
    assert greedy.prompt.tolist() == greedy.group.tolist() == [0, 1, 2]
    assert greedy.provenance["law"] == "greedy"
    assert "behavior_logp" not in greedy.columns
    for row, prompt in enumerate(greedy.prompts):
        ids = torch.tensor([prompt.tokens], device=batch.device)
        theirs = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
        ours = greedy.tokens[row, : int(greedy.length[row])].tolist()
        assert ours == theirs[0, len(prompt.tokens) :].tolist()


def test_sampling_leaves_the_model_as_it_was(make_policy) -> None:
    policy = make_policy()
    policy.model.train()
    before = torch.random.get_rng_state()
    sample_rollouts(policy, TASK, ITEMS, SETTINGS)
    assert policy.model.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_float64_models_keep_float64(make_policy) -> None:
    policy = make_policy()
    policy.model.double()
    batch = sample_rollouts(policy, TASK, ITEMS, SETTINGS)
    assert batch.columns["behavior_logp"].dtype == batch.rewards.dtype == torch.float64
    torch.testing.assert_close(batch.columns["behavior_logp"], policy.quantities(batch, ["logp"])["logp"])


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "mistral", "qwen2", "gemma2", "bloom"])
def test_other_architectures(make_policy, family: str) -> None:
    """Positions, sliding windows and position biases, each recomputed without cache and padding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    policy = make_policy()
    sizes = {"vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4}
    if family in ("gpt2", "bloom"):
        sizes = {"vocab_size": 17, "n_embd": 16, "n_layer": 2, "n_head": 2, "hidden_size": 16}
    if family == "gpt_neox":
        sizes = {key: sizes[key] for key in list(sizes)[:5]}
    special = {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **sizes, **special, initializer_range=0.4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy.model = AutoModelForCausalLM.from_config(config).to(policy.model.device).eval()
    batch = sample_rollouts(policy, TASK, ITEMS, SETTINGS, micro_batch=20)
    again = policy.quantities(batch, ["logp"])["logp"]
    torch.testing.assert_close(batch.columns["behavior_logp"].double(), again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature: got 0.0"), ({"temperature": math.nan}, "temperature: got nan"),
        ({"group_size": 0}, "group_size"), ({"top_k": -1}, "top_k"), ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"), ({"max_new_tokens": 0}, "max_new_tokens"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingSettings(**settings)  # pyright: ignore[reportArgumentType]


def test_bad_input(make_policy) -> None:
    policy = make_policy()
    with pytest.raises(InputError, match=r"no prompts"):
        sample_rollouts(policy, TASK, [], SETTINGS)
    with pytest.raises(InputError, match=r"a prompt of 7 tokens and answers of up to 58.*at most 64"):
        sample_rollouts(policy, TASK, ITEMS[:2], replace(SETTINGS, max_new_tokens=58))  # <begin>12+34= and 58 are 65
    with pytest.raises(InputError, match=r"--plain"):
        sample_rollouts(make_policy(template=None), TASK, ITEMS, SETTINGS)
    plain = sample_rollouts(make_policy(template=None), TASK, ITEMS, replace(SETTINGS, plain=True))
    assert plain.prompts[0].tokens == (2, 4, 13, 5)
    with torch.no_grad():
        policy.model.lm_head.weight[3] = math.nan
    with pytest.raises(InputError, match=r"NaN"):
        sample_rollouts(policy, TASK, ITEMS, SETTINGS)


@pytest.mark.parametrize("reward", [math.nan, None, "1"])
def test_rewards_that_are_no_numbers_name_the_row(make_policy, reward: object) -> None:
    class Bad(DigitTask):
        def score(self, item: PromptItem, completion: str) -> dict[str, float]:
            return {"right": reward if item is ITEMS[1] else 1.0}  # pyright: ignore[reportReturnType]

    with pytest.raises(InputError, match=r"from digits on row 16 \(prompt 1\)"):
        sample_rollouts(make_policy(), Bad(), ITEMS, SETTINGS)


def test_rewards_with_other_parts_on_other_rows(make_policy) -> None:
    class Uneven(DigitTask):
        def score(self, item: PromptItem, completion: str) -> dict[str, float]:
            return {"right": 1.0} if item is ITEMS[0] else {"wrong": 1.0}

    with pytest.raises(InputError, match=r"\['wrong'\] on row 16 \(prompt 1\), expected \['right'\]"):
        sample_rollouts(make_policy(), Uneven(), ITEMS, SETTINGS)
