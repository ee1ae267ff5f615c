"""A tiny random Llama with a character tokenizer: a real transformers model that answers in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gradaxis.estimators.rollouts.batch import RolloutBatch

VOCABULARY = ["<pad>", "<end>", "<begin>", *"0123456789+=ab"]
TEMPLATE = (
    "{% for message in messages %}{{ '<begin>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '=' }}{% endif %}"
)


def character_tokenizer(template: str | None, vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<begin> $A", special_tokens=[("<begin>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", bos_token="<begin>"
    )
    fast.chat_template = template
    return fast


@dataclass
class TinyPolicy:
    model: Any
    tokenizer: Any
    identity: str = "tiny"

    def quantities(self, batch: RolloutBatch, names: Sequence[str]) -> dict[str, Tensor]:
        """The slow and obvious way: one sequence at a time, no padding, no cache, token by token."""
        temperature = batch.provenance.get("temperature", 1.0)
        found = {name: torch.zeros(batch.tokens.shape, dtype=torch.float64, device=batch.device) for name in names}
        for row in range(batch.size):
            prompt = list(batch.prompts[int(batch.prompt[row])].tokens)
            answer = batch.tokens[row][batch.mask[row]].tolist()
            with torch.no_grad():
                logits = self.model(torch.tensor([prompt + answer], device=batch.device)).logits[0].double()
            for t, token in enumerate(answer):
                probability = torch.softmax(logits[len(prompt) + t - 1] / temperature, dim=0)
                values = {"logp": probability[token].log(), "entropy": -(probability * probability.log()).sum()}
                for name in names:
                    found[name][row, t] = values[name]
        return found


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_policy(device: str) -> Callable[..., TinyPolicy]:
    def make(
        seed: int = 0, template: str | None = TEMPLATE, vocabulary: Sequence[str] = tuple(VOCABULARY)
    ) -> TinyPolicy:
        config = LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.4,
            bos_token_id=2, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model: Any = LlamaForCausalLM(config)
        return TinyPolicy(model.to(device), character_tokenizer(template, vocabulary))

    return make
