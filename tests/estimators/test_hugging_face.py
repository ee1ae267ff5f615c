"""Loading models, choosing parameters, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from gradaxis.errors import InputError
from gradaxis.estimators.policies import HuggingFacePolicy, embedded_path

CONFIG: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of an embedded checkpoint."""
    return Path(shutil.copytree(embedded_path("policy"), tmp_path / "model"))


def test_a_folder_loads_in_evaluation_mode_with_its_tokenizer(folder: Path) -> None:
    policy = HuggingFacePolicy.load(str(folder), dtype="float64")
    assert policy.dtype is torch.float64
    assert policy.device == torch.device("cpu")
    assert not policy.model.training
    assert policy.tokenizer.chat_template
    assert all(parameter.requires_grad for parameter in policy.parameters().values())
    assert policy.vocabulary == policy.model.config.vocab_size


def test_the_identity_changes_with_one_update(folder: Path) -> None:
    first, second = HuggingFacePolicy.load(str(folder)), HuggingFacePolicy.load(str(folder))
    assert first.identity == second.identity
    third = HuggingFacePolicy.load(str(folder))
    with torch.no_grad():
        for parameter in third.model.model.layers[1].parameters():
            parameter += 1e-6
    assert third.identity != first.identity


def test_a_tied_head_counts_once_under_either_name() -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG, tie_word_embeddings=True))
    names = list(HuggingFacePolicy(model).parameters())
    assert "lm_head.weight" not in names
    assert list(HuggingFacePolicy(model, params="lm_head.*").parameters()) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("params", "count"),
    [("all", 21), ("*.layers.1.*", 9), (r"layers\.\d+\.mlp", 6), ("model.norm.weight", 1), (r"(q|v)_proj", 4)],
)
def test_parameters_are_chosen_by_glob_or_regular_expression(params: str, count: int) -> None:
    policy = HuggingFacePolicy(LlamaForCausalLM(LlamaConfig(**CONFIG)), params=params)
    assert len(policy.parameters()) == count
    require = {name for name, value in policy.model.named_parameters() if value.requires_grad}
    assert require == set(policy.parameters())


def test_adapter_weights_are_chosen_by_lora() -> None:
    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base_layer = base
            self.lora_A, self.lora_B = nn.Linear(16, 2, bias=False), nn.Linear(2, 16, bias=False)

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return self.base_layer(value) + self.lora_B(self.lora_A(value))

    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.model.layers[0].self_attn.q_proj = Adapted(model.model.layers[0].self_attn.q_proj)  # type: ignore[assignment,arg-type]
    names = set(HuggingFacePolicy(model, params="lora").parameters())
    assert names == {f"model.layers.0.self_attn.q_proj.lora_{part}.weight" for part in "AB"}


@pytest.mark.parametrize("params", ["lora", "*nothing*", "(unclosed"])
def test_a_choice_that_matches_nothing_lists_examples(params: str) -> None:
    with pytest.raises(InputError, match=r"matches no parameter.*model\.embed_tokens\.weight"):
        HuggingFacePolicy(LlamaForCausalLM(LlamaConfig(**CONFIG)), params=params)


@pytest.mark.parametrize("device", ["cuda:99", "warp", "meta"])
def test_a_device_that_is_not_here_is_refused(device: str, folder: Path) -> None:
    with pytest.raises(InputError, match="device"):
        HuggingFacePolicy.load(str(folder), device=device)


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"dtype.*float32"):
        HuggingFacePolicy.load(str(folder), dtype="int8")


def test_pickled_weights_are_refused_unless_allowed(folder: Path) -> None:
    model = HuggingFacePolicy.load(str(folder)).model
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*allow-pickle"):
        HuggingFacePolicy.load(str(folder))
    again = HuggingFacePolicy.load(str(folder), allow_pickle=True)
    for name, value in model.named_parameters():
        torch.testing.assert_close(again.model.get_parameter(name), value)


def test_code_that_ships_with_a_model_does_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match=r"its own code.*trust-remote-code"):
        HuggingFacePolicy.load(str(folder))
    assert not (folder / "ran").exists()


def test_files_that_are_missing_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.gguf"):
        HuggingFacePolicy.load(str(folder), gguf_file="absent.gguf")
    with pytest.raises(InputError, match=r"absent\.gguf"):
        HuggingFacePolicy.load(str(folder / "absent.gguf"))
    with pytest.raises(InputError, match="does not exist"):
        HuggingFacePolicy.load(str(tmp_path / "nowhere" / "model.gguf"))
    with pytest.raises(InputError, match="model"):
        HuggingFacePolicy.load(str(tmp_path / "nowhere"))
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(InputError, match="tokenizer"):
        HuggingFacePolicy.load(str(folder))


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(InputError, match="no output head"):
        HuggingFacePolicy(LlamaForCausalLM(LlamaConfig(**CONFIG)).model)
