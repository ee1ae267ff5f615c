"""The sampling loop: a causal language model, its cache, and one token a step for every row.

Letters: B rows of a micro-batch, L prompt tokens, T response positions, V vocabulary.

The model's own generation config has no say here: nothing but the settings shapes the law, and what is recorded is the
log-probability under that law.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError, NotYetError
from gradaxis.estimators.rollouts.token_law import draw_tokens, token_logp


@dataclass(frozen=True)
class Answer:
    """One answer: its tokens, the log-probability of each in nats, and whether it was cut off before an end token."""

    tokens: list[int]
    logp: list[float]
    truncated: bool


@torch.no_grad()
def generate_answers(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    uniforms: Tensor | None,
    *,
    max_new_tokens: int,
    end_tokens: Sequence[int],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[Answer]:
    """One answer a prompt. Equal prompts that follow one another pass through the model once.

    Args:
        model: a causal language model of transformers.
        prompts: tokens of each prompt, one a row.
        uniforms: [B, T] float64 in [0, 1), the randomness of every token; None takes the most probable token.
        max_new_tokens: T.
        end_tokens: each of them ends an answer, and is part of it.
        temperature, top_k, top_p: of the law (`token_logp`).

    Raises:
        InputError: the model's logits are not numbers.
    """
    device = model.device
    stop = torch.tensor(sorted(end_tokens), dtype=torch.int64, device=device)
    session = _Session(model, prompts)
    active = torch.arange(len(prompts), device=device)
    tokens = torch.zeros(len(prompts), max_new_tokens, dtype=torch.int64, device=device)
    logps = torch.zeros(len(prompts), max_new_tokens, dtype=torch.float64, device=device)
    lengths = torch.full((len(prompts),), max_new_tokens, dtype=torch.int64, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        law = token_logp(session.logits, temperature, top_k, top_p)
        if bool(law.isnan().any()):
            raise InputError("policy", "logits that are NaN or infinite", "numbers", "Try --dtype float32")
        token = law.argmax(dim=-1) if uniforms is None else draw_tokens(law, uniforms[:, step].to(device)[active])
        tokens[active, step] = token
        logps[active, step] = law.gather(-1, token[:, None])[:, 0]
        over = torch.isin(token, stop)
        ended[active[over]] = True
        lengths[active[over]] = step + 1
        going = (~over).nonzero()[:, 0]
        active = active[going]
        if len(going) == 0 or step + 1 == max_new_tokens:
            break
        session.advance(token[going], going)
    rows = zip(tokens.tolist(), logps.tolist(), lengths.tolist(), ended.tolist(), strict=True)
    return [Answer(row[:length], logp[:length], not done) for row, logp, length, done in rows]


class _Session:
    """A model's cache over left-padded rows; `logits` [B, V] belong to the next token of every row still going."""

    def __init__(self, model: Any, prompts: Sequence[tuple[int, ...]]) -> None:
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in accepted else "past_key_values"
        self._takes_positions = "position_ids" in accepted
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        distinct = [row for row, prompt in enumerate(prompts) if row == 0 or prompts[row - 1] != prompt]
        width = max(len(prompt) for prompt in prompts)
        device = model.device
        # The filler is hidden by the attention mask, so its id is of no consequence.
        ids = torch.tensor([[0] * (width - len(prompts[row])) + list(prompts[row]) for row in distinct], device=device)
        gaps = torch.tensor([width - len(prompts[row]) for row in distinct], device=device)
        self._mask = (torch.arange(width, device=device) >= gaps[:, None]).long()
        self._cache: Any = None
        self.logits = self._forward(ids, (self._mask.cumsum(dim=1) - 1).clamp(min=0))
        source = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        source[torch.tensor(distinct[1:], dtype=torch.int64, device=device)] = 1
        self._select(source.cumsum(dim=0))

    def advance(self, token: Tensor, going: Tensor) -> None:
        """Feeds `token`, one a row of `going` (rows of the present batch), and drops every other row."""
        if len(going) < len(self._mask):
            self._select(going)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        self.logits = self._forward(token[:, None], self._mask.sum(dim=1, keepdim=True) - 1)

    def _select(self, rows: Tensor) -> None:
        if len(rows) == len(self._mask) and bool((rows == torch.arange(len(rows), device=rows.device)).all()):
            return
        if not hasattr(self._cache, "batch_select_indices"):
            raise NotYetError(f"sampling with the cache of this model ({type(self._cache).__name__})")
        self._cache.batch_select_indices(rows)
        self._mask, self.logits = self._mask[rows], self.logits[rows]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        arguments = {**self._extra, self._cache_argument: self._cache}
        if self._takes_positions:
            arguments["position_ids"] = positions
        output = self._model(input_ids=ids, attention_mask=self._mask, use_cache=True, **arguments)
        self._cache = getattr(output, self._cache_argument)
        return output.logits[:, -1]
