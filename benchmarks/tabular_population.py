"""Unit gradients of a small tabular policy, drawn with numpy alone: the population whose intervals are studied.

A softmax policy over three symbols, one of them the end token, answers of at most four tokens; two tables of logits
that forty prompts share, each prompt with a difficulty and with right answers of its own. A unit is one prompt's group
of eight answers. Nothing here imports the package: what the study takes for true does not come from what it tests.

Letters: K kinds of prompts, N units, G answers a group, A answers that exist, D parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SYMBOLS, LENGTH, TABLES, KINDS, GROUP = 3, 4, 2, 40, 8


@dataclass(frozen=True)
class Policy:
    """All answers of each table: `probability` [TABLES, A], `score` ∇ log π and `bend` Σ_t ∇H_t [TABLES, A, D]."""

    probability: Array
    score: Array
    bend: Array
    length: Array


@dataclass(frozen=True)
class Draws:
    """N units. `kind` [N] is each one's prompt; by answer [N, G]: its `number`, `reward` and `length`."""

    policy: Policy
    kind: NDArray[np.int64]
    number: NDArray[np.int64]
    reward: Array
    length: Array

    def sums(self, weights: Array) -> Array:
        """Mean over each group of weight times the answer's ∇ log π: [N, G] -> [N, TABLES · D]."""
        return self._sums(weights, self.policy.score)

    def entropy(self) -> Array:
        """∇ of the entropy summed over the answer, contexts held: [N, TABLES · D]."""
        return self._sums(np.ones_like(self.reward), self.policy.bend)

    def _sums(self, weights: Array, table: Array) -> Array:
        size = table.shape[2]
        found = np.zeros((len(self.kind), TABLES * size))
        for which in range(TABLES):
            rows = np.flatnonzero(self.kind % TABLES == which)
            total = np.zeros((len(rows), size))
            for member in range(GROUP):
                total += weights[rows, member, None] * table[which][self.number[rows, member]]
            found[rows, which * size : (which + 1) * size] = total / GROUP
        return found


def make_policy(generator: np.random.Generator) -> Policy:
    """A policy with random logits. Symbol 0 ends an answer."""
    contexts: list[tuple[int, ...]] = [()]
    for context in contexts:
        if len(context) < LENGTH - 1:
            contexts += [(*context, symbol) for symbol in range(1, SYMBOLS)]
    answers = [(*context, 0) for context in contexts]
    longest = [context for context in contexts if len(context) == LENGTH - 1]
    answers += [(*context, symbol) for context in longest for symbol in range(1, SYMBOLS)]
    row = {context: index for index, context in enumerate(contexts)}
    logits = generator.normal(0, 0.7, (TABLES, len(contexts), SYMBOLS))
    logits[..., 0] -= 0.5
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    probability = np.exp(logp)
    entropy = -(probability * logp).sum(-1, keepdims=True)
    steps = np.eye(SYMBOLS)[None, None] - probability[:, :, None, :]  # ∇ log π(symbol) of a row's logits
    bends = -probability * (logp + entropy)
    shape = TABLES, len(answers), len(contexts), SYMBOLS
    score, bend, total = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2])
    for number, answer in enumerate(answers):
        for position, symbol in enumerate(answer):
            context = row[answer[:position]]
            score[:, number, context] += steps[:, context, symbol]
            bend[:, number, context] += bends[:, context]
            total[:, number] += logp[:, context, symbol]
    flat = TABLES, len(answers), -1
    length = np.array([len(answer) for answer in answers], dtype=float)
    return Policy(np.exp(total), score.reshape(flat), bend.reshape(flat), length)


def make_rewards(policy: Policy, generator: np.random.Generator) -> Array:
    """Which answers are right for each kind of prompt, [K, A]: in part the same for all, with .1 to .8 of the mass."""
    shared = generator.normal(size=len(policy.length))
    rewards = np.zeros((KINDS, len(policy.length)))
    for kind in range(KINDS):
        order = np.argsort(-(shared + generator.normal(size=len(shared))))
        mass = np.cumsum(policy.probability[kind % TABLES][order])
        right = 1 + np.searchsorted(mass, generator.uniform(0.1, 0.8))
        rewards[kind, order[:right]] = 1.0
    return rewards


def draw(policy: Policy, rewards: Array, kind: NDArray[np.int64], generator: np.random.Generator) -> Draws:
    """One group of answers for each prompt of `kind` [N]."""
    number = np.empty((len(kind), GROUP), dtype=np.int64)
    for one in np.unique(kind):
        rows = np.flatnonzero(kind == one)
        probability = policy.probability[one % TABLES]
        number[rows] = generator.choice(len(probability), (len(rows), GROUP), p=probability / probability.sum())
    return Draws(policy, kind, number, rewards[kind[:, None], number], policy.length[number])


def group_methods(draws: Draws) -> dict[str, Array]:
    """Unit gradients [N, D] of methods that couple the answers of one group only.

    `grpo` divides by the group's spread and by each answer's length, `grpo-sum` by the spread alone; `rloo` compares
    with the mean of the others and is the unbiased reference; `length` is the gradient of expected length, made in that
    way; `entropy` is known from the contexts alone.
    """
    centred = draws.reward - draws.reward.mean(1, keepdims=True)
    scaled = centred / (draws.reward.std(1, keepdims=True) + 1e-4)
    longer = draws.length - draws.length.mean(1, keepdims=True)
    loo = GROUP / (GROUP - 1)
    return {
        "grpo": draws.sums(scaled / draws.length), "grpo-sum": draws.sums(scaled), "rloo": draws.sums(loo * centred),
        "length": draws.sums(loo * longer), "entropy": draws.entropy(),
    }  # fmt: skip


@dataclass(frozen=True)
class BatchMethod:
    """A method whose gradient of a batch is the sum of `parts` [N, D] over a function of sums of `counts` [N, C]."""

    parts: Array
    counts: Array
    form: str

    def divisor(self, totals: Array) -> Array:
        """What the sum of parts is divided by, from sums of counts [..., C]."""
        if self.form == "tokens":
            return totals[..., 0]
        count, first, second = np.moveaxis(totals, -1, 0)
        return count / GROUP * np.sqrt(np.maximum(second / count - (first / count) ** 2, 0.0) + 1e-8)


def batch_methods(draws: Draws) -> dict[str, BatchMethod]:
    """`token-mean` divides the sum over all tokens by their number in the batch; `batch-std` divides centred rewards by
    the spread of all rewards of the batch, and each answer by its length.
    """
    centred = draws.reward - draws.reward.mean(1, keepdims=True)
    scaled = centred / (draws.reward.std(1, keepdims=True) + 1e-4)
    tokens = draws.length.sum(1, keepdims=True)
    sums = np.stack([np.full(len(tokens), float(GROUP)), draws.reward.sum(1), (draws.reward**2).sum(1)], axis=1)
    return {
        "token-mean": BatchMethod(draws.sums(scaled) * GROUP, tokens, "tokens"),
        "batch-std": BatchMethod(draws.sums(centred / draws.length), sums, "spread"),
    }
