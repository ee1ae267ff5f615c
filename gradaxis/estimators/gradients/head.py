"""The head in chunks: cotangents of the logits are formed again whenever they are needed, and never kept whole.

Letters: R rows, T response positions, Q policy tokens of all rows together, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradaxis.estimators.policies.forward import intercepted_head, output_head, run_model
from gradaxis.estimators.policies.inputs import ModelInputs
from gradaxis.estimators.quantities import at_least_float32

LOGITS_AT_ONCE = 2**24
"""Logits formed at a time, in values."""


class LogitCotangent(Protocol):
    """∂(Σ C q)/∂ logits for the part `vocabulary` of the tokens: [R, T, part]."""

    def __call__(self, vocabulary: slice) -> Tensor: ...


def is_plain(model: Any, inputs: ModelInputs) -> bool:
    """Whether the logits are the head's output and nothing more (no cap, no scale), tried on one sequence."""
    head = output_head(model)
    if type(head) is not nn.Linear:
        return False
    seen: list[Tensor] = []
    with torch.no_grad(), intercepted_head(model, inputs, lambda hidden: seen.append(hidden) or hidden):
        logits = run_model(model, inputs)
    return torch.equal(logits.to(seen[0].dtype), nn.functional.linear(seen[0], head.weight, head.bias))


class PlainHead:
    """The law that a linear head gives to each policy token, and the way back from coefficients to hidden states.

        ∂(c q)/∂z_v = (1[v = y] − p_v) c_logp / τ − p_v (log p_v + H) c_entropy / τ          p = softmax(z / τ)

    Args:
        head: linear.
        hidden: [R, T, H], its input.
        inputs: of the same rows.
    """

    def __init__(self, head: nn.Linear, hidden: Tensor, inputs: ModelInputs) -> None:
        self._weight, self._bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
        self._temperature, self._shape = inputs.temperature, hidden.shape
        self._row, self._step = inputs.mask.nonzero(as_tuple=True)
        self._hidden = hidden.detach()[self._row, self._step]
        self._token = inputs.tokens[self._row, self._step]
        self._law: tuple[Tensor, Tensor] | None = None

    def hidden_cotangent(self, coefficients: Mapping[str, Tensor]) -> Tensor:
        """∂(Σ C q)/∂ hidden, [R, T, H], from coefficients [R, T] a quantity."""
        chosen = self._choose(coefficients)
        step = max(1, LOGITS_AT_ONCE // len(self._weight))
        back = torch.zeros_like(self._hidden)
        normalisers, entropies = [], []
        for start in range(0, len(self._hidden), step):
            part = slice(start, start + step)
            scaled = self._scaled_logits(part, slice(None))
            normaliser = scaled.logsumexp(dim=1)
            log_probability = scaled - normaliser[:, None]
            entropy = -(log_probability.exp() * log_probability).sum(dim=1)
            cotangent = self._cotangent(log_probability, part, 0, entropy, chosen)
            back[part] = cotangent.to(self._weight.dtype) @ self._weight
            normalisers.append(normaliser)
            entropies.append(entropy)
        self._law = (torch.cat(normalisers), torch.cat(entropies)) if normalisers else (self._hidden[:, 0],) * 2
        whole = self._hidden.new_zeros(self._shape)
        whole[self._row, self._step] = back
        return whole

    def logit_cotangent(self, coefficients: Mapping[str, Tensor]) -> LogitCotangent:
        """The same for the logits, a part of the vocabulary at a time. Needs `hidden_cotangent` to have been called."""
        assert self._law is not None
        normaliser, entropy = self._law
        chosen = self._choose(coefficients)

        def part(vocabulary: slice) -> Tensor:
            whole = normaliser.new_zeros(*self._shape[:2], vocabulary.stop - vocabulary.start)
            every = slice(0, len(self._hidden))
            log_probability = self._scaled_logits(every, vocabulary) - normaliser[:, None]
            found = self._cotangent(log_probability, every, vocabulary.start, entropy, chosen)
            whole[self._row, self._step] = found
            return whole

        return part

    def _choose(self, coefficients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[self._row, self._step] for name, value in coefficients.items()}

    def _scaled_logits(self, part: slice, vocabulary: slice) -> Tensor:
        bias = None if self._bias is None else self._bias[vocabulary]
        logits = nn.functional.linear(self._hidden[part], self._weight[vocabulary], bias)
        return at_least_float32(logits) / self._temperature

    def _cotangent(
        self, log_probability: Tensor, part: slice, first: int, entropy: Tensor, chosen: Mapping[str, Tensor]
    ) -> Tensor:
        probability = log_probability.exp()
        found = torch.zeros_like(probability)
        if "logp" in chosen:
            weight = chosen["logp"][part].to(found) / self._temperature
            found -= probability * weight[:, None]
            token = self._token[part] - first
            inside = ((token >= 0) & (token < found.shape[1])).nonzero()[:, 0]
            found[inside, token[inside]] += weight[inside]
        if "entropy" in chosen:
            weight = chosen["entropy"][part].to(found) / self._temperature
            found -= probability * (log_probability + entropy[:, None]) * weight[:, None]
        return found
