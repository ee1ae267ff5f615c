"""Functionals of policies whose answers can all be listed: their values and gradients, with no sampling error.

Letters: P prompts, N answers of a listing, T response positions, A atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradaxis.diagnostics.functional_plan import direction_name
from gradaxis.diagnostics.functionals import REWARD, TOKEN_ENTROPY, Functional, Source
from gradaxis.estimators.policies import HuggingFacePolicy, Listing, enumerate_answers
from gradaxis.estimators.policies.enumeration import PROMPTS_AT_ONCE
from gradaxis.estimators.rollouts.batch import Prompt
from gradaxis.estimators.rollouts.items import Task

Vector = dict[str, Tensor]
"""A gradient: parameter name to tensor; of a listing, the weights of the atoms under the name `atoms`."""

Differentiate = Callable[[Mapping[str, Tensor]], Vector]
"""From coefficients on quantities [N, T] to the gradient."""

KNOWN_ELSEWHERE = (REWARD, TOKEN_ENTROPY)
"""Functionals whose exact gradients are among the directions under names of their own."""


ExactKey = tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]
"""Names of functionals and tokens of prompts."""


class Exact(NamedTuple):
    """Values of functionals by name, and their gradients by the name of the direction."""

    values: dict[str, float]
    directions: dict[str, Vector]


def exact_functionals(
    policy: HuggingFacePolicy,
    task: Task,
    prompts: Sequence[Prompt],
    functionals: Sequence[Functional],
    temperature: float = 1.0,
    reference: HuggingFacePolicy | None = None,
    known: dict[ExactKey, Exact] | None = None,
) -> Exact:
    """Values and gradients of the functionals over these prompts, a few prompts at a time.

    Args:
        policy: whose answers can all be listed. task: scores them. prompts: P.
        functionals: those that need `ref_logp` are left out without a `reference`.
        known: what was found of this policy before; what is found now is added.
    """
    wanted = [one for one in functionals if reference is not None or "ref_logp" not in one.needs]
    key = tuple(one.name for one in wanted), tuple(prompt.tokens for prompt in prompts)
    if known is not None and key in known:
        return known[key]
    parameters, sums = policy.parameters(), _Sums(wanted)
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        chunk = prompts[start : start + PROMPTS_AT_ONCE]
        batch, probability = enumerate_answers(policy, task, chunk, temperature=temperature, grad=True)
        live = dict(batch.columns)
        detached = {name: value.detach() for name, value in live.items()}
        if reference is not None:
            other, _ = enumerate_answers(reference, task, chunk, temperature=temperature)
            detached["ref_logp"] = other.column("logp")
        batch = batch.with_columns(detached)

        def differentiate(totals: Mapping[str, Tensor], live: Mapping[str, Tensor] = live) -> Vector:
            scalar = torch.stack([(value.to(live[name].dtype) * live[name]).sum() for name, value in totals.items()])
            parts = torch.autograd.grad(scalar.sum(), list(parameters.values()), retain_graph=True, allow_unused=True)
            return {name: torch.zeros_like(leaf) if part is None else part
                    for (name, leaf), part in zip(parameters.items(), parts, strict=True)}  # fmt: skip

        sums.add(Source.of_listing(batch, probability, len(prompts)), differentiate)
    found = sums.total()
    if known is not None:
        known[key] = found
    return found


def listed_functionals(
    listing: Listing, functionals: Sequence[Functional], prompts: Sequence[int] | None = None
) -> Exact:
    """The same of a listing, its gradients as weights of the atoms [A] under the name `atoms`.

    Args:
        prompts: the listing's number of each prompt that counts, some perhaps twice; by default each counts once.
    """
    chosen = list(range(listing.prompts)) if prompts is None else list(prompts)
    share = torch.bincount(torch.tensor(chosen), minlength=listing.prompts).double() / len(chosen)
    source = Source.of_listing(listing.batch, listing.policy_probability * share[listing.batch.prompt], 1)
    sums = _Sums(functionals)
    sums.add(source, lambda totals: {"atoms": listing.coefficients_to_vector(totals)})
    return sums.total()


class _Sums:
    """Sums of pieces' values and gradients, and what functionals are made of them."""

    def __init__(self, functionals: Sequence[Functional]) -> None:
        self.functionals = functionals
        self.makers = {name: make for one in functionals for name, make in one.pieces.items()}
        self.values = dict.fromkeys(self.makers, 0.0)
        self.gradients: dict[str, Vector] = {}
        kept = [one for one in functionals if one.name not in KNOWN_ELSEWHERE]
        self.wanted = {name for one in kept for name in one.pieces}

    def add(self, source: Source, differentiate: Differentiate) -> None:
        for name, make in self.makers.items():
            piece = make(source)
            self.values[name] += float((source.share * piece.value).sum())
            if name in self.wanted:
                part = differentiate(source.totals(piece))
                known = self.gradients.get(name)
                self.gradients[name] = part if known is None else {key: known[key] + part[key] for key in part}

    def total(self) -> Exact:
        values, directions = {}, {}
        for one in self.functionals:
            top = self.values[one.top]
            bottom = 1.0 if one.bottom is None else self.values[one.bottom]
            if bottom == 0:
                continue  # a mean over answers that the policy never gives
            values[one.name] = top / bottom
            if one.name in KNOWN_ELSEWHERE:
                continue
            slope = self.gradients[one.top]
            if one.bottom is not None:
                less = self.gradients[one.bottom]
                slope = {name: (slope[name] - values[one.name] * less[name]) / bottom for name in slope}
            directions[direction_name(one.name)] = slope
        return Exact(values, directions)
