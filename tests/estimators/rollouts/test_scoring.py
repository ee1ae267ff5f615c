from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaForTokenClassification

from gradaxis.errors import InputError
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.critics import critic_values, load_critic
from gradaxis.estimators.rollouts.items import PromptItem
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.scoring import score_columns

ITEMS = [PromptItem(text="1+2"), PromptItem(text="12+34")]


class LengthTask:
    name, max_new_tokens = "length", 5

    def prompts(self, count: int, seed: int) -> list[PromptItem]:
        return ITEMS[:count]

    def score(self, item: PromptItem, completion: str) -> dict[str, float]:
        return {"reward": float(len(completion))}


@pytest.fixture
def batch(make_policy) -> RolloutBatch:
    return sample_rollouts(make_policy(), LengthTask(), ITEMS, SamplingSettings(group_size=6, temperature=0.8))


def hugging_face(policy) -> HuggingFacePolicy:
    return HuggingFacePolicy(policy.model, policy.tokenizer)


def test_every_model_fills_its_own_columns_and_no_other(make_policy, batch) -> None:
    tiny = [make_policy(seed) for seed in range(5)]
    policy, old, reference, one, two = (hugging_face(each) for each in tiny)
    scored = score_columns(batch, policy=policy, old=old, reference=reference, teachers={"one": one, "two": two})
    names = ("logp", "old_logp", "ref_logp", "one_logp", "two_logp")
    expected = {name: each.quantities(batch, ["logp"])["logp"] for name, each in zip(names, tiny, strict=True)}
    expected["entropy"] = tiny[0].quantities(batch, ["entropy"])["entropy"]
    expected["behavior_logp"] = batch.columns["behavior_logp"].double()
    assert set(scored.columns) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(scored.columns[name].double(), value, rtol=1e-4, atol=1e-5)
    assert not any(column.requires_grad for column in scored.columns.values())
    assert set(score_columns(batch, teachers=one).columns) == {"behavior_logp", "teacher_logp"}
    assert score_columns(batch).columns == batch.columns


def test_the_policys_log_probability_is_the_recorded_one(make_policy, batch) -> None:
    policy = hugging_face(make_policy())
    scored = score_columns(batch, policy=policy, old=policy)
    mask = batch.mask
    torch.testing.assert_close(scored.columns["logp"][mask], batch.columns["behavior_logp"][mask], rtol=1e-4, atol=1e-5)
    assert torch.equal(scored.columns["old_logp"], scored.columns["logp"])


def test_a_smaller_vocabulary_does_not_fit(make_policy, batch) -> None:
    small = make_policy(vocabulary=["<pad>", "<end>", "<begin>", "0"])
    with pytest.raises(InputError, match=r"ref_logp: got a model of 4 tokens"):
        score_columns(batch, reference=hugging_face(small))


def test_another_tokenizer_does_not_fit_unless_it_reads_the_same(make_policy, batch) -> None:
    swapped = hugging_face(make_policy(vocabulary=["<pad>", "<end>", "<begin>", *"0213456789+=ab"]))
    assert swapped.tokenizer.decode([4, 5]) == "21"
    assert any(set(text) & set("12") for text in batch.completions)
    with pytest.raises(InputError, match=r"teacher_logp: got a tokenizer that reads another text"):
        score_columns(batch, teachers=swapped)
    larger = make_policy()
    larger.tokenizer.add_tokens(["never-used"])
    score_columns(batch, teachers=hugging_face(larger))
    unknown = replace(batch, provenance={"temperature": 0.8})  # rollouts that do not say which tokenizer was theirs
    score_columns(unknown, policy=hugging_face(make_policy()))
    with pytest.raises(InputError, match=r"another text"):
        score_columns(unknown, policy=swapped)


def test_a_model_that_gives_no_numbers_is_refused(make_policy, batch) -> None:
    broken = make_policy()
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(InputError, match=r"number"):
        score_columns(batch, policy=hugging_face(broken))


def critic_model(kind: type, device: str, labels: int = 1):
    config = LlamaConfig(
        vocab_size=17, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=None, initializer_range=0.4,
    )  # fmt: skip
    config.num_labels = labels
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return kind(config).to(device).eval()


@pytest.mark.parametrize("kind", [LlamaForTokenClassification, LlamaForSequenceClassification])
def test_values_are_those_of_the_state_before_the_token(batch, device, kind) -> None:
    model = critic_model(kind, device)
    scored = score_columns(batch, critic=model)
    for row in range(batch.size):
        prompt = batch.prompts[int(batch.prompt[row])].tokens
        for t in range(int(batch.length[row])):
            # One state at a time: a sequence classifier reads the last token, which is what its pooling is made for.
            state = torch.tensor([[*prompt, *batch.tokens[row, :t].tolist()]], device=device)
            with torch.no_grad():
                logits = model(state).logits
            value = logits[0, -1, 0] if logits.dim() == 3 else logits[0, 0]
            assert scored.columns["value"][row, t].item() == pytest.approx(value.item(), abs=1e-5)
    assert (scored.columns["value"][~batch.mask] == 0).all()
    torch.testing.assert_close(critic_values(model, batch, micro_batch=5), scored.columns["value"])


def test_a_function_is_a_critic(batch) -> None:
    def quarter(rollouts: RolloutBatch) -> torch.Tensor:
        return torch.full(rollouts.tokens.shape, 0.25, device=rollouts.device)

    assert torch.equal(score_columns(batch, critic=quarter).columns["value"], 0.25 * batch.mask)


def test_bad_critics(batch, device) -> None:
    with pytest.raises(InputError, match=r"critic: got outputs of shape \(12, \d+, 3\)"):
        score_columns(batch, critic=critic_model(LlamaForTokenClassification, device, labels=3))
    with pytest.raises(InputError, match=r"critic: got shape \(12,\)"):
        score_columns(batch, critic=lambda rollouts: rollouts.reward)
    with pytest.raises(InputError, match=r"critic: got float"):
        score_columns(batch, critic=lambda rollouts: 0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"NaN"):
        score_columns(batch, critic=lambda rollouts: torch.full_like(rollouts.columns["behavior_logp"], torch.nan))


@pytest.mark.parametrize("kind", [LlamaForTokenClassification, LlamaForSequenceClassification])
def test_a_critic_from_a_folder(batch, device, tmp_path, kind) -> None:
    model = critic_model(kind, device)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(critic_values(load_critic(str(tmp_path), device), batch), critic_values(model, batch))


def test_a_folder_without_a_trained_head_is_no_critic(make_policy, tmp_path, device) -> None:
    make_policy().model.save_pretrained(tmp_path / "policy")
    critic_model(LlamaForTokenClassification, device, labels=3).save_pretrained(tmp_path / "three")
    with pytest.raises(InputError, match=r"without fitting score"):
        load_critic(str(tmp_path / "policy"))
    with pytest.raises(InputError, match=r"without fitting score"):
        load_critic(str(tmp_path / "three"))
    with pytest.raises(InputError, match=r"critic: got .*absent"):
        load_critic(str(tmp_path / "absent"))
