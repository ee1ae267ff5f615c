"""Functionals: numbers that a policy has, such as its expected length, and what answers say about their gradients.

Letters: P prompts, G answers a group, N answers, T response positions; s = ∇θ log π(y) is the score of an answer, over
all of its policy tokens. A functional is the mean Φ = E[φ] of a number that each answer has, or the ratio of two such
means. Its gradient has a score term, since other answers become more frequent, and a direct term where φ itself moves
with the policy:

    ∇Φ = E[ φ s ] + E[ ∂φ/∂θ ]          ∇(A / B) = ( ∇A − A/B ∇B ) / B

On rollouts the mean of the other answers of the group is taken from φ first, which changes no expectation, and both
terms carry the full product ratio π/μ where another policy μ sampled. On a listing of all answers both are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from gradaxis.estimators.gates import RIGHT
from gradaxis.estimators.peers import number_peers, sum_by_peers
from gradaxis.estimators.rollouts.batch import RolloutBatch

ROUNDING = 1e-6
"""By so much an outcome reward may miss `RIGHT`, in reward units."""


@dataclass(frozen=True)
class Piece:
    """What each answer adds to a mean and to its gradient: E[value], and E[score · s + Σ_{q,t} direct[q] ∇q_t].

    `value` and `score` are float64 [N]; `direct` maps a quantity to float64 [N, T].
    """

    value: Tensor
    score: Tensor
    direct: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Answers with their weights: a sample of rollouts, or a listing of all answers.

    `share` float64 [N] is the weight of each answer in a mean: 1/N of a sample, π(y)/P on a listing. `ratio` float64
    [N] is π/μ, one on a listing.
    """

    batch: RolloutBatch
    share: Tensor
    ratio: Tensor
    listed: bool

    @classmethod
    def of_rollouts(cls, batch: RolloutBatch, fresh: bool) -> Source:
        """Rollouts, weighed by the full product ratio against the policy that sampled unless that is the policy."""
        ones = torch.ones(batch.size, dtype=torch.float64, device=batch.device)
        ratio = ones
        if not fresh:
            anchor = "behavior_logp" if "behavior_logp" in batch.columns else "old_logp"
            ratio = (_answer_sum(batch, batch.column("logp")) - _answer_sum(batch, batch.column(anchor))).exp()
        return cls(batch, ones / batch.size, ratio, False)

    @classmethod
    def of_listing(cls, batch: RolloutBatch, probability: Tensor, prompts: int) -> Source:
        """All answers to some of `prompts` prompts, each with its probability [N] under the policy."""
        return cls(batch, probability.detach().double() / prompts, torch.ones_like(probability).double(), True)

    @cached_property
    def peers(self) -> Tensor:
        """The number of each answer's group, int64 [N]."""
        return number_peers(self.batch.prompt, self.batch.group)

    @cached_property
    def others(self) -> Tensor:
        """How many other answers the group of each has, float64 [N]."""
        return sum_by_peers(torch.ones_like(self.share), self.peers) - 1

    def mean_of_others(self, values: Tensor) -> Tensor:
        """The mean over the other answers of the group [N]; zero where there are none, and on a listing."""
        if self.listed:
            return torch.zeros_like(values)
        return (sum_by_peers(values, self.peers) - values) / self.others.clamp(min=1)

    def piece(
        self, value: Tensor, direct: Mapping[str, Tensor] | None = None, score: Tensor | None = None
    ) -> Piece:  # fmt: skip
        """The piece of a number φ that each answer has [N]; `score` is what multiplies s where that is not φ."""
        weight = value if score is None else score
        weight = self.ratio * (weight - self.mean_of_others(weight))
        moved = {name: self.ratio[:, None] * part for name, part in (direct or {}).items()}
        return Piece(self.ratio * value, weight, moved)

    def totals(self, piece: Piece) -> dict[str, Tensor]:
        """The gradient of a piece as coefficients on quantities, float64 [N, T]."""
        mask = self.batch.mask.to(torch.float64)
        found = {name: self.share[:, None] * part for name, part in piece.direct.items()}
        found["logp"] = found.get("logp", 0.0) + (self.share * piece.score)[:, None] * mask
        return found


@dataclass(frozen=True)
class Functional:
    """A number that a policy has: the mean of the piece `top`, or its ratio to the mean of the piece `bottom`.

    `law` says what is averaged over what, with the score term and the direct term; `needs` are columns of the rollouts;
    `pieces` computes both by name.
    """

    name: str
    unit: str
    law: str
    top: str
    bottom: str | None = None
    needs: tuple[str, ...] = ()
    pieces: Mapping[str, Callable[[Source], Piece]] = field(default_factory=dict)


REWARD, KL, FORWARD_KL = "reward", "kl", "forward kl"
TOKEN_ENTROPY, SEQUENCE_ENTROPY, ANSWER_ENTROPY = "token entropy", "sequence entropy", "answer entropy"

PASS_AT = "pass@"

SCORE_ONLY = "Score term only: E[φ s]; φ does not move with the policy."


def standard_functionals(batch: RolloutBatch) -> list[Functional]:
    """The functionals that every experiment asks for; what their columns are is not looked at.

    pass@k for k = 2 and for k = the size of the smallest group, and each part of the reward where there are several.
    """
    pieces = {
        REWARD: lambda source: source.piece(source.batch.reward.double()),
        "length": lambda source: source.piece(source.batch.length.double()),
        "wrong": lambda source: source.piece(1 - right(source.batch)),
        "length when wrong": lambda source: source.piece((1 - right(source.batch)) * source.batch.length.double()),
        ANSWER_ENTROPY: _answer_entropy, SEQUENCE_ENTROPY: _sequence_entropy,
        KL: lambda source: source.piece(log_ratio(source.batch).sum(dim=1)), FORWARD_KL: _forward_kl,
    }  # fmt: skip

    def make(name: str, unit: str, law: str, top: str, bottom: str | None = None, *needs: str) -> Functional:
        used = {piece: pieces[piece] for piece in (top, bottom) if piece is not None}
        return Functional(name, unit, law, top, bottom, needs, used)

    found = [
        make(REWARD, "reward", f"The outcome reward, mean over answers. {SCORE_ONLY}", REWARD),
        make("length", "tokens", f"Policy tokens an answer, end token included, mean over answers. {SCORE_ONLY}",
             "length"),
        make("length of wrong answers", "tokens",
             f"E[L | wrong] = E[L·wrong] / E[wrong], over all answers to all prompts; wrong: an outcome reward below "
             f"{RIGHT:g}. Score terms of both means, and no direct term; the ratio is a plug-in.",
             "length when wrong", "wrong"),
        make(TOKEN_ENTROPY, "nats a token",
             "E[Σ_t H_t] / E[L]: the mean over all tokens, as logs show it. Score terms of both means, and the direct "
             "term E[Σ_t ∇H_t]; the ratio is a plug-in.", ANSWER_ENTROPY, "length", "entropy"),
        make(SEQUENCE_ENTROPY, "nats a token",
             "E[(1/L) Σ_t H_t]: the mean over answers of the mean over an answer's tokens. Score term, and the direct "
             "term E[(1/L) Σ_t ∇H_t].", SEQUENCE_ENTROPY, None, "entropy"),
        make(ANSWER_ENTROPY, "nats an answer",
             "E[Σ_t H_t], the entropy of the whole answer. Score term, and the direct term E[Σ_t ∇H_t].",
             ANSWER_ENTROPY, None, "entropy"),
        make(KL, "nats an answer",
             "KL(policy ‖ reference) = E[log π(y) − log π_ref(y)]. Score term; the direct term E[s] is zero and left "
             "out.", KL, None, "ref_logp"),
        make(FORWARD_KL, "nats an answer",
             "KL(reference ‖ policy), with weights π_ref/π. Its gradient is E[(1 − π_ref/π) s]: score and direct term "
             "together.", FORWARD_KL, None, "ref_logp"),
    ]  # fmt: skip
    sizes = number_peers(batch.prompt, batch.group).bincount()
    smallest = int(sizes[sizes > 0].min()) if batch.size else 0
    found += [pass_at(k) for k in sorted({2, smallest}) if 2 <= k <= smallest]
    if len(batch.reward_names) > 1:
        found += [_reward_part(place, name) for place, name in enumerate(batch.reward_names)]
    return found


def right(batch: RolloutBatch) -> Tensor:
    """One for answers whose outcome reward is at least `RIGHT`, zero for the others, float64 [N]."""
    return (batch.reward.double() >= RIGHT - ROUNDING).double()


def log_ratio(batch: RolloutBatch) -> Tensor:
    """d = log π − log π_ref of each policy token, nats, float64 [N, T], zero off the mask.

    Raises MissingInputError without the columns `logp` and `ref_logp`.
    """
    difference = batch.column("logp").detach().double() - batch.column("ref_logp").double()
    return torch.where(batch.mask, difference, 0.0)


def pass_at(k: int) -> Functional:
    """pass@k, the mean over prompts of 1 − (1 − p)^k, with p the probability of a right answer to the prompt.

    Its gradient k (1 − p)^(k−1) ∇p is estimated without bias from groups of k answers or more: the power by the mean
    over all choices of k − 1 others of the product of their π/μ · wrong, and ∇p with the mean of the others taken off.
    """
    law = (
        f"1 − (1 − p)^{k}, mean over prompts; p is the probability of an outcome reward of {RIGHT:g} or more. Score "
        f"term: E[{k} (1 − p)^{k - 1} right s], the power from the other answers of the group, without bias."
    )
    name = f"{PASS_AT}{k}"
    return Functional(name, "probability", law, name, pieces={name: lambda source: _pass_at(source, k)})


def _pass_at(source: Source, k: int) -> Piece:
    good = right(source.batch)
    if source.listed:
        number = number_peers(source.batch.prompt)
        prompts = torch.zeros_like(source.share).index_add(0, number, source.share)
        wrong = torch.zeros_like(source.share).index_add(0, number, source.share * (1 - good)) / prompts.clamp(
            min=torch.finfo(torch.float64).tiny
        )
        return Piece(1 - wrong[number] ** k, k * wrong[number] ** (k - 1) * good)
    members, counted = _members(source.peers)
    wrong = (source.ratio * (1 - good))[members]
    itself = members == torch.arange(len(good), device=good.device)[:, None]
    weight = k * mean_of_products(wrong, counted & ~itself, k - 1)
    score = source.ratio * weight * (good - source.mean_of_others(good))
    return Piece(1 - mean_of_products(wrong, counted, k), score)


def mean_of_products(values: Tensor, counted: Tensor, k: int) -> Tensor:
    """The mean over all choices of k counted values of their product [N]: unbiased for E[value]^k.

    It is zero where fewer than k are counted. `values` float64 [N, n], `counted` bool [N, n].
    """
    means = values.new_zeros(k + 1, len(values))
    means[0] = 1.0
    size = torch.arange(1, k + 1, dtype=values.dtype, device=values.device)[:, None]
    seen = counted.cumsum(dim=1)
    for value, chosen, number in zip(values.T, counted.T, seen.T, strict=True):
        # Means over choices of j among the values so far, so that no binomial coefficient overflows.
        grown = means[1:] + size / number.clamp(min=1) * (value * means[:-1] - means[1:])
        means[1:] = torch.where(chosen & (size <= number), grown, means[1:])
    return means[k]


def _members(peers: Tensor) -> tuple[Tensor, Tensor]:
    """The answers of each answer's group [N, G], the largest group wide, and which entries are answers."""
    order = peers.argsort(stable=True)
    counts = peers.bincount(minlength=len(peers))
    first = counts.cumsum(0) - counts
    places = torch.arange(int(counts.max()), device=peers.device)
    counted = places < counts[peers][:, None]
    return order[(first[peers][:, None] + places).clamp(max=len(peers) - 1)], counted


def _answer_entropy(source: Source) -> Piece:
    entropy, mask = source.batch.column("entropy").detach().double(), source.batch.mask
    return source.piece(torch.where(mask, entropy, 0.0).sum(dim=1), {"entropy": mask.double()})


def _sequence_entropy(source: Source) -> Piece:
    entropy, mask = source.batch.column("entropy").detach().double(), source.batch.mask
    share = mask.double() / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return source.piece((torch.where(mask, entropy, 0.0) * share).sum(dim=1), {"entropy": share})


def _forward_kl(source: Source) -> Piece:
    """KL(ref ‖ π) = E_π[r log r − r + 1], r = π_ref/π: never negative, and with less spread than r log r."""
    log = -log_ratio(source.batch).sum(dim=1)
    return source.piece(log.exp() * log - torch.expm1(log), score=-torch.expm1(log))


def _reward_part(place: int, name: str) -> Functional:
    law = f"The part {name!r} of the reward, mean over answers. {SCORE_ONLY}"
    key = f"part {name}"
    return Functional(
        key, "reward", law, key, pieces={key: lambda source: source.piece(source.batch.rewards[:, place].double())}
    )


def _answer_sum(batch: RolloutBatch, column: Tensor) -> Tensor:
    return torch.where(batch.mask, column.detach().double(), 0.0).sum(dim=1)
