"""The rollout batch of a listing: rewards, turns, values and greedy answers of all trajectories.

Letters: P prompts, N trajectories, T response positions, A atoms, D parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradaxis.estimators.policies.listing import Listing
from gradaxis.estimators.policies.space import Prefix, Space
from gradaxis.estimators.rollouts.batch import RolloutBatch, Turns

Reward = Callable[[int, Prefix], float]
StepReward = Callable[[int, Prefix], float]

SAME = 1e-12
"""Tokens whose probabilities differ by less are tied, and the greedy answer takes the first."""


def describe(
    space: Space,
    columns: Mapping[str, Tensor],
    rewards: Tensor,
    turns: Turns,
    probability: Tensor,
    atoms: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
    vectors: Tensor | None = None,
    inner: Tensor | None = None,
    completions: tuple[str, ...] | None = None,
    reward_names: tuple[str, ...] = ("task",),
) -> Listing:
    """The listing of a space whose quantities are known.

    Args:
        space: the trajectories.
        columns: token columns [N, T] in nats, `logp` and `entropy` among them.
        rewards: [N, K], their sum the outcome reward.
        turns: of all trajectories.
        probability: of each trajectory under the law that samples [N].
        atoms: as in `Listing`.
        provenance: beside the sampling settings.
        vectors: the atoms [A, D], or `inner` [A, A], their inner products, or both.
        completions: the texts; by default the tokens.
        reward_names: of the K rewards.
    """
    spelled = [" ".join(map(str, response)) for response in responses(space)]
    batch = RolloutBatch(
        prompts=space.prompts, prompt=space.prompt, group=space.prompt,
        trajectory=torch.arange(space.size, device=space.tokens.device), rewards=rewards, reward_names=reward_names,
        truncated=space.truncated, policy_version=torch.zeros_like(space.prompt), tokens=space.tokens, mask=space.mask,
        response=space.response, completions=completions or tuple(spelled), columns=dict(columns), turns=turns,
        provenance={"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": space.max_new_tokens,
                    "law": "enumerated", **provenance},
    )  # fmt: skip
    if inner is None:
        assert vectors is not None, "atoms or their inner products"
        inner = vectors @ vectors.T
    own = (columns["logp"].sum(dim=1) + space.environment_logp).exp()
    listing = Listing(batch, probability, own, space.environment_logp, space.node, atoms, inner, vectors)
    value = torch.where(space.mask, listing.expected_rewards(), 0.0)
    greedy = batch.rows(greedy_rows(space, probability))
    batch = replace(batch.with_columns({"value": value}), companions={"greedy": replace(greedy, turns=None)})
    return replace(listing, batch=batch)


def reward_trajectories(space: Space, reward: Reward) -> Tensor:
    """The outcome reward of every trajectory, [N, 1]."""
    found = [reward(prompt, response) for prompt, response in zip(space.prompt.tolist(), responses(space), strict=True)]
    return torch.tensor(found, dtype=torch.float64, device=space.tokens.device)[:, None]


def responses(space: Space) -> list[Prefix]:
    """The tokens of every response, without padding."""
    lengths = space.response.sum(dim=1).tolist()
    return [tuple(tokens[:length]) for tokens, length in zip(space.tokens.tolist(), lengths, strict=True)]


def number_turns(space: Space, rewards: Tensor, step_reward: StepReward | None = None) -> Turns:
    """Every run of policy tokens is a turn; its anchor is the state in which it begins.

    Without `step_reward` the last turn earns the outcome reward and the others nothing.
    """
    rows, starts, ends = [], [], []
    for row, flags in enumerate(space.mask.tolist()):
        edges = [False, *flags, False]
        begun = [t for t in range(len(flags)) if edges[t + 1] and not edges[t]]
        done = [t + 1 for t in range(len(flags)) if edges[t + 1] and not edges[t + 2]]
        rows, starts, ends = [*rows, *[row] * len(begun)], [*starts, *begun], [*ends, *done]
    sequence, start, end = torch.tensor([rows, starts, ends], device=space.tokens.device)
    last = torch.cat([sequence[1:] != sequence[:-1], torch.ones_like(sequence[:1], dtype=torch.bool)])
    earned = torch.where(last, rewards.sum(dim=1)[sequence], 0.0)
    if step_reward is not None:
        whole, prompts = responses(space), space.prompt.tolist()
        steps = [step_reward(prompts[row], whole[row][:stop]) for row, stop in zip(rows, ends, strict=True)]
        earned = torch.tensor(steps, dtype=torch.float64, device=space.tokens.device)
    return Turns(sequence, start, end, earned, space.anchor[sequence, start])


def greedy_rows(space: Space, probability: Tensor) -> list[int]:
    """The trajectory of each prompt that takes the likeliest token at every position, the environment's too [P]."""
    found = []
    for prompt in range(len(space.prompts)):
        rows = torch.nonzero(space.prompt == prompt).squeeze(1)
        for position in range(space.tokens.shape[1]):
            if len(rows) == 1:
                break
            tokens = space.tokens[rows, position]
            mass = probability.new_zeros(int(tokens.max()) + 1).index_add(0, tokens, probability[rows])
            best = int((mass >= mass.max() * (1 - SAME)).nonzero()[0, 0])
            rows = rows[tokens == best]
        found.append(int(rows[0]))
    return found
