"""From an entry and a batch to L, and to the coefficients C = ω ⊙ A + ρ of its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gradaxis.errors import NotYetError
from gradaxis.estimators.flow import Advantage, Slots, evaluate_reward
from gradaxis.estimators.gates import open_gate
from gradaxis.estimators.inputs import Inputs, apply
from gradaxis.estimators.weights import Weight, reach_tokens, score_function, surrogate
from gradaxis.taxonomy import Method, Placed


@dataclass(frozen=True)
class Coefficients:
    """The gradient of L as numbers on tokens: ∇L = Σ_q Σ_{i,t} total[q]_{i,t} ∇q_{i,t}, for each quantity q.

    All tensors are [N, T], without gradient, zero off the mask. `omega` is what the trajectory side does, in
    1/sequences or 1/tokens; `advantage` is what the reward side does; `rho[q]` comes from the terms.
    total["logp"] = omega · advantage + rho["logp"], and total[q] = rho[q] for every other quantity.
    """

    omega: Tensor
    advantage: Tensor
    rho: Mapping[str, Tensor]
    total: Mapping[str, Tensor]


class Parts(NamedTuple):
    """L in two scalars that add up, and its factors on tokens, [N, T] and without gradient."""

    policy: Tensor
    terms: Tensor
    omega: Tensor
    advantage: Tensor


def evaluate(method: Method, inputs: Inputs) -> Parts:
    """Evaluate every slot in the order in which data passes them. The scalars are differentiable in the quantities."""
    advantage = evaluate_reward(method.slots, method.streams, inputs)
    return evaluate_trajectory(method.slots, advantage, inputs)


def evaluate_trajectory(slots: Slots, advantage: Advantage, inputs: Inputs) -> Parts:
    """The trajectory slots, given what the reward side hands over.

    Which tokens divisors count is narrowed by operators of trust_region and token_weight that say
    `statistics: kept`: those whose factor or weight is zero after them are left out, and a sequence that lost all of
    its tokens so is not counted either.
    """
    batch, mask = inputs.batch, inputs.mask
    a = advantage.value

    def gated(placed: Placed, acting: Tensor, otherwise: Tensor | float) -> Tensor:
        if not placed.where:
            return acting
        return torch.where(open_gate(placed.where, a, "token", advantage.outcome, batch), acting, otherwise)

    weight, counted_tokens = score_function(inputs.quantities["logp"], mask), mask
    for placed in slots["ratio"]:
        weight = apply(placed, inputs, {"weight": weight, "advantage": a})
    for placed in slots["trust_region"]:
        changed: Weight = apply(placed, inputs, {"weight": weight, "advantage": a, "counted_tokens": counted_tokens})
        if placed.where and changed.pooled is not weight.pooled:
            raise NotYetError(
                f"trust_region.{placed.label}: a gate on an operator that undoes the pooling of the ratio"
            )
        factor = gated(placed, _ones(changed.factor, a), _ones(weight.factor, a))
        if placed.parameters.get("statistics") == "kept":
            counted_tokens = counted_tokens & (factor != 0)
        weight = changed._replace(
            value=gated(placed, changed.value, weight.value), slope=gated(placed, changed.slope, weight.slope),
            factor=None if changed.factor is None and weight.factor is None else factor,
        )  # fmt: skip
    token_weight = (mask & advantage.kept.unsqueeze(1)).to(a.dtype)
    for placed in slots["token_weight"]:
        seen = {"token_weight": token_weight, "advantage": a, "weight": weight, "counted_tokens": counted_tokens}
        token_weight = gated(placed, apply(placed, inputs, seen), token_weight)
        if placed.parameters.get("statistics") == "kept":
            counted_tokens = counted_tokens & (token_weight != 0)
    emptied = mask.any(dim=1) & ~counted_tokens.any(dim=1)
    flowing = {
        "token_weight": token_weight, "counted": advantage.counted & ~emptied, "counted_tokens": counted_tokens,
        "advantage": a, "weight": weight,
    }  # fmt: skip
    coefficient = _aggregate(slots["aggregation"], inputs, flowing)
    terms = torch.zeros_like(a).sum()
    for placed in slots["terms"]:
        term = apply(placed, inputs, flowing)
        terms = terms + (coefficient * gated(placed, term, 0.0)).sum()
    omega, reached = reach_tokens(weight, coefficient, a)
    return Parts(
        policy=(coefficient * surrogate(weight, a)).sum(), terms=terms, omega=omega.detach(), advantage=reached.detach()
    )


def differentiate(method: Method, inputs: Inputs) -> Coefficients:
    """The coefficients of the gradient, by automatic differentiation on the quantities alone: no model is involved."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.quantities.items()}
    with torch.enable_grad():
        parts = evaluate(method, Inputs(inputs.batch, leaves))
    rho = _gradients(parts.terms, leaves)
    policy = _gradients(parts.policy, leaves)
    total = {name: policy[name] + rho[name] for name in leaves}
    return Coefficients(parts.omega, parts.advantage, rho, total)


def _ones(factor: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like) if factor is None else factor


def _aggregate(aggregation: tuple[Placed, ...], inputs: Inputs, flowing: Mapping[str, Tensor]) -> Tensor:
    """The coefficient of each token's surrogate; the empty slot sums over tokens and takes the mean over sequences."""
    for placed in aggregation:
        return apply(placed, inputs, flowing)
    return flowing["token_weight"] / flowing["counted"].sum().clamp(min=1)


def _gradients(scalar: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not scalar.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
