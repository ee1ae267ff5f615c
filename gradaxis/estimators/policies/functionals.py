"""Numbers that a policy has, as functions of the probability of everything that it can do.

Letters: P prompts, R trajectories a prompt, T response positions. Each functional maps all trajectories of some prompts
to one number a prompt, [P], differentiable in their log-probabilities and entropies: so it serves tables, trees and
language models alike, and its gradient holds both what changes at a token and what changes in how often it is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gradaxis.errors import InputError


class Outcomes(Protocol):
    """All trajectories of P prompts, R a prompt; where a prompt has fewer, some stand twice with probability zero.

    `probability` and `reward` [P, R]; `logp` and `entropy` in nats [P, R, T], zero off the policy's tokens; `length`
    in policy tokens, [R] or [P, R].
    """

    @property
    def probability(self) -> Tensor: ...

    @property
    def reward(self) -> Tensor: ...

    @property
    def logp(self) -> Tensor: ...

    @property
    def entropy(self) -> Tensor: ...

    @property
    def length(self) -> Tensor: ...


Functional = Callable[[Outcomes], Tensor]
"""Maps all trajectories of some prompts to one number a prompt [P], differentiable in their `logp` and `entropy`."""


def expected_reward(outcomes: Outcomes) -> Tensor:
    """J of each prompt [P]: Σ_y π(y) R(y), in reward units."""
    return (outcomes.probability * outcomes.reward).sum(dim=1)


def success_rate(outcomes: Outcomes) -> Tensor:
    """The probability of the highest outcome reward that any answer can earn [P]."""
    best = outcomes.reward.amax(dim=1, keepdim=True)
    return (outcomes.probability * (outcomes.reward == best)).sum(dim=1)


def pass_at_k(k: int) -> Functional:
    """pass@k of each prompt [P]: 1 − (1 − p)^k, the probability that the best of k answers earns the highest reward.

    Raises InputError when k is below one.
    """
    if k < 1:
        raise InputError("k", str(k), "one or more")
    return lambda outcomes: 1 - (1 - success_rate(outcomes)).pow(k)


def answer_entropy(outcomes: Outcomes) -> Tensor:
    """The entropy of the whole answer, in nats [P]: −Σ_y π(y) log π(y), which is E[Σ_t H(π(·|s_t))].

    Where an environment speaks, π(y) inside the logarithm counts the policy's own tokens only.
    """
    return -(outcomes.probability * outcomes.logp.sum(dim=2)).sum(dim=1)


def mean_step_entropy(outcomes: Outcomes) -> Tensor:
    """E[(1/|y|) Σ_t H(π(·|s_t))], in nats [P]: what a mean over each answer's tokens shows."""
    return (outcomes.probability * (outcomes.entropy.sum(dim=2) / outcomes.length)).sum(dim=1)


def expected_length(outcomes: Outcomes) -> Tensor:
    """E[|y|] in policy tokens, the end token included [P]."""
    return (outcomes.probability * outcomes.length).sum(dim=1)


def silent_group_probability(outcomes: Outcomes, group_size: int) -> Tensor:
    """The probability that all G independent answers earn the same outcome reward [P]: Σ_v q_v^G."""
    levels = torch.unique(outcomes.reward)
    shares = (outcomes.probability[:, :, None] * (outcomes.reward[:, :, None] == levels)).sum(dim=1)
    return shares.pow(group_size).sum(dim=1)
