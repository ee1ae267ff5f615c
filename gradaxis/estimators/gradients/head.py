"""The way back from coefficients to the head's input, and to its output for the gradient of the head's own weights.

Letters: R rows, T response positions, Q policy tokens of all rows together, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradaxis.estimators.policies.forward import intercepted_head, output_head, run_model
from gradaxis.estimators.policies.inputs import ModelInputs
from gradaxis.estimators.quantities import at_least_float32, token_quantities

LOGITS_AT_ONCE = 2**24
"""Logits formed at a time, in values."""

LogitCotangent = Callable[[slice], Tensor]
"""∂(Σ C q)/∂ logits for a part of the vocabulary: [R, T, part]."""


def is_plain(model: Any, inputs: ModelInputs) -> bool:
    """Whether the logits are the head's output and nothing more (no cap, no scale), tried on `inputs`."""
    head = output_head(model)
    if type(head) is not nn.Linear:
        return False
    seen: list[Tensor] = []

    def take(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    with torch.no_grad(), intercepted_head(model, inputs, take):
        logits = run_model(model, inputs)
    return torch.equal(logits.to(seen[0].dtype), nn.functional.linear(seen[0], head.weight, head.bias))


class PlainHead:
    """A linear head in chunks: cotangents of the logits are formed when they are needed, and never kept whole.

        ∂(c q)/∂z_v = (1[v = y] − p_v) c_logp / τ − p_v (log p_v + entropy) c_entropy / τ          p = softmax(z / τ)

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

    def backward(self, coefficients: Mapping[str, Tensor], again: bool = False) -> tuple[Tensor, LogitCotangent]:
        """∂(Σ C q)/∂ hidden [R, T, H], and that of the logits; coefficients [R, T] a quantity."""
        chosen = {name: value[self._row, self._step] for name, value in coefficients.items()}
        count, step = len(self._hidden), max(1, LOGITS_AT_ONCE // len(self._weight))
        back = torch.zeros_like(self._hidden)
        normaliser = at_least_float32(self._hidden.new_zeros(count, 1))
        entropy = torch.zeros_like(normaliser)
        for start in range(0, count, step):
            tokens = slice(start, start + step)
            scaled = self._scaled_logits(tokens, slice(None))
            normaliser[tokens] = scaled.logsumexp(dim=1, keepdim=True)
            logp = scaled - normaliser[tokens]
            entropy[tokens] = -(logp.exp() * logp).sum(dim=1, keepdim=True)
            few = {name: value[tokens] for name, value in chosen.items()}
            cotangent = self._cotangent(logp, entropy[tokens], self._token[tokens], few)
            back[tokens] = cotangent.to(self._weight.dtype) @ self._weight

        def logit_cotangent(part: slice) -> Tensor:
            logp = self._scaled_logits(slice(None), part) - normaliser
            whole = normaliser.new_zeros(*self._shape[:2], logp.shape[1])
            whole[self._row, self._step] = self._cotangent(logp, entropy, self._token - part.start, chosen)
            return whole

        whole = self._hidden.new_zeros(self._shape)
        whole[self._row, self._step] = back
        return whole, logit_cotangent

    def _scaled_logits(self, tokens: slice, part: slice) -> Tensor:
        bias = None if self._bias is None else self._bias[part]
        logits = nn.functional.linear(self._hidden[tokens], self._weight[part], bias)
        return at_least_float32(logits) / self._temperature

    def _cotangent(self, logp: Tensor, entropy: Tensor, token: Tensor, chosen: Mapping[str, Tensor]) -> Tensor:
        """[Q, part] from the log-probabilities of that part; `token` counts from its first entry."""
        probability = logp.exp()
        found = torch.zeros_like(probability)
        if "logp" in chosen:
            weight = chosen["logp"].to(found) / self._temperature
            found -= probability * weight[:, None]
            inside = ((token >= 0) & (token < found.shape[1])).nonzero()[:, 0]
            found[inside, token[inside]] += weight[inside]
        if "entropy" in chosen:
            weight = chosen["entropy"].to(found) / self._temperature
            found -= probability * (logp + entropy) * weight[:, None]
        return found


class WholeHead:
    """Any head, by autograd through the logits [R, T, V] that the model itself returned.

    Args:
        hidden: [R, T, H], the head's input, with its graph.
        output: what the head returned [R, T, V].
        logits: what the model made of that [R, T, V].
        inputs: of the same rows.
    """

    def __init__(self, hidden: Tensor, output: Tensor, logits: Tensor, inputs: ModelInputs) -> None:
        self._hidden, self._output, self._logits, self._inputs = hidden, output, logits, inputs

    def backward(self, coefficients: Mapping[str, Tensor], again: bool = False) -> tuple[Tensor, LogitCotangent]:
        """As `PlainHead.backward`; `again` keeps the graph for another call."""
        inputs = self._inputs
        values = token_quantities(self._logits, inputs.tokens, tuple(coefficients), inputs.temperature)
        parts = [(values[name] * weight.to(values[name])).sum() for name, weight in coefficients.items()]
        hidden, output = torch.autograd.grad(torch.stack(parts).sum(), [self._hidden, self._output], retain_graph=again)
        return hidden, lambda part: output[..., part]
