"""From a rollout batch to what a model reads: prompt and response in one row, right-padded.

Letters: N sequences, T response positions, L positions of prompt and response together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import RolloutBatch


@dataclass(frozen=True)
class ModelInputs:
    """Rows for a causal language model.

    `ids`, `attention` (1 on real tokens) and `positions` are int64 [N, L]. `predictor` [N, T] is the position whose
    logits predict response token t, and `tokens` [N, T] that token; both are 0 off the response. `mask` [N, T] is true
    on policy tokens. The padding id is 0, whatever the tokenizer says: attention never reaches it.
    """

    ids: Tensor
    attention: Tensor
    positions: Tensor
    predictor: Tensor
    tokens: Tensor
    mask: Tensor
    temperature: float

    def rows(self, index: Tensor) -> ModelInputs:
        """The rows of `index` (int64), cut to the longest of them."""
        attention = self.attention[index]
        width = int(attention.sum(dim=1).max()) if len(index) else 0
        length = int((self.mask[index] * torch.arange(1, self.mask.shape[1] + 1, device=index.device)).max())
        return ModelInputs(
            self.ids[index, :width], attention[:, :width], self.positions[index, :width],
            self.predictor[index, :length], self.tokens[index, :length], self.mask[index, :length], self.temperature,
        )  # fmt: skip


def build_inputs(batch: RolloutBatch, config: Any, vocabulary: int, device: torch.device) -> ModelInputs:
    """Joins each prompt with its response.

    Args:
        batch: sampled responses; `response` must be a run of real tokens followed by padding.
        config: the model's; `max_position_embeddings` is honoured.
        vocabulary: rows of the model's embedding.
        device: where the tensors go.

    Raises:
        InputError: the batch is empty, a prompt has no tokens, a token is not in the vocabulary, padding stands inside
            a response, a sequence is longer than the model can read, or the sampling temperature is not positive.
    """
    if batch.size == 0:
        raise InputError("rollouts", "no sequences", "at least one")
    found = batch.provenance.get("temperature")
    temperature = 1.0 if found is None else float(found)
    if not temperature > 0:
        raise InputError("temperature", f"{temperature}", "a positive number", "Log-probabilities need sampling")
    response = batch.response.to(device)
    lengths = response.sum(dim=1)
    steps = torch.arange(response.shape[1], device=device)
    if not torch.equal(response, steps < lengths[:, None]):
        raise InputError("rollouts", "padding inside or before a response", "responses padded on the right")
    prompts = [batch.prompts[i].tokens for i in batch.prompt.tolist()]
    before = torch.tensor([len(tokens) for tokens in prompts], device=device)
    if not bool((before > 0).all()):
        raise InputError("prompt", "no tokens", "at least one", "Begin the prompt with the model's start token")
    tokens = torch.where(response, batch.tokens.to(device), 0)
    total = before + lengths
    width = int(total.max())
    ids = torch.zeros(batch.size, width, dtype=torch.int64, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64, device=device)
    target = (before[:, None] + steps).clamp(max=width - 1)
    row, step = response.nonzero(as_tuple=True)
    ids[row, target[row, step]] = tokens[row, step]
    largest, smallest = int(ids.max()), int(ids.min())
    if largest >= vocabulary or smallest < 0:
        wrong = largest if largest >= vocabulary else smallest
        remedy = "The rollouts were made with another tokenizer: sample again, or give the model that they belong to"
        raise InputError("rollouts", f"token id {wrong}", f"ids from 0 to {vocabulary - 1} (the model's)", remedy)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and width > longest:
        raise InputError("rollouts", f"a sequence of {width} tokens", f"at most {longest} (the model's context)")
    places = torch.arange(width, device=device)
    return ModelInputs(
        ids=ids, attention=(places < total[:, None]).long(), positions=places.expand(batch.size, width),
        predictor=torch.where(response, before[:, None] + steps - 1, 0), tokens=tokens,
        mask=batch.mask.to(device) & response, temperature=temperature,
    )  # fmt: skip
