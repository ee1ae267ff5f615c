"""The ways in which methods pull a policy toward its reference, each as the gradient that it adds per unit of penalty.

Letters: N answers, T response positions; d_t = log π − log π_ref at token t, D = Σ_t d_t, s_t = ∇ log π_t, s = Σ_t s_t.
A choice is written as the gradient of what it penalises, so that one which does what its name says has the gradient of
KL(policy ‖ reference) as its expectation. On the policy's own answers (diagnostics of this table: every row is tested):

    choice                            the gradient of one answer     its expectation
    k1 in the reward, sequence        D s                            ∇KL(π ‖ ref)
    k1 in the reward, to-go           Σ_t s_t Σ_{u≥t} d_u            ∇KL(π ‖ ref)
    k1 in the reward, same token      Σ_t s_t d_t                    reverse KL of each context, contexts held fixed
    k1 in the loss                    s                              0
    k2 in the loss, token             Σ_t s_t d_t                    reverse KL of each context, contexts held fixed
    k2 in the loss, sequence          D s                            ∇KL(π ‖ ref)
    k3 in the loss, token             Σ_t s_t (1 − e^(−d_t))         forward KL of each context, contexts held fixed
    k3 in the loss, sequence          (1 − e^(−D)) s                 ∇KL(ref ‖ π)
    k3 in the reward, sequence        (e^(−D) − 1 + D) s             ∇KL(π ‖ ref) − ∇KL(ref ‖ π)

Those in the reward take the mean of the other answers off, read the log-probabilities at sampling, and carry the full
product ratio on stale answers; those in the loss carry none, as they are mostly written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.diagnostics.functionals import Source, log_ratio
from gradaxis.diagnostics.units import Key

PREFIX = "kl choice:"

REVERSE = "the gradient of the reverse KL(policy ‖ reference)"
FIXED_REVERSE = "the reverse KL of each context, with contexts held fixed: what later tokens cost is left out"
FIXED_FORWARD = "the forward KL of each context, with contexts held fixed"


@dataclass(frozen=True)
class Choice:
    """One row of the table: its name, what its expectation is on fresh answers, and whether it differs by token."""

    name: str
    expects: str
    by_token: bool = False

    @property
    def key(self) -> Key:
        return "", f"{PREFIX}{self.name}"


CHOICES = (
    Choice("k1 in the reward, sequence", REVERSE),
    Choice("k1 in the reward, to-go", REVERSE, True),
    Choice("k1 in the reward, same token", FIXED_REVERSE, True),
    Choice("k1 in the loss", "nothing: its expectation is zero, and it adds noise only"),
    Choice("k2 in the loss, token", FIXED_REVERSE, True),
    Choice("k2 in the loss, sequence", REVERSE),
    Choice("k3 in the loss, token", FIXED_FORWARD, True),
    Choice("k3 in the loss, sequence", "the gradient of the forward KL(reference ‖ policy)"),
    Choice("k3 in the reward, sequence",
           "the gradient of the reverse KL minus that of the forward KL, which may point away from the reference"),
)  # fmt: skip


BY_TOKEN = frozenset(choice.key for choice in CHOICES if choice.by_token)
"""The keys of choices that put different numbers on the tokens of an answer."""


def choice_totals(source: Source) -> dict[Key, Mapping[str, Tensor]]:
    """The gradient of each choice on these answers, as coefficients [N, T] on `logp`, by key.

    On a listing the shares are the policy's own and the result is the expectation. Raises MissingInputError without
    `logp` and `ref_logp`.
    """
    batch, mask = source.batch, source.batch.mask
    live = log_ratio(batch)
    sampled = live
    if not source.listed and "old_logp" in batch.columns:  # a reward is a number that was made when it was sampled
        sampled = torch.where(mask, batch.column("old_logp").double() - batch.column("ref_logp").double(), 0.0)
    whole, past = live.sum(dim=1), sampled.sum(dim=1)
    to_go = sampled.flip(1).cumsum(dim=1).flip(1)
    ones = torch.ones_like(live)
    found = (
        _in_reward(source, past[:, None] * ones),
        _in_reward(source, to_go),
        _in_reward(source, sampled),
        ones,
        live,
        whole[:, None] * ones,
        -torch.expm1(-live),
        -torch.expm1(-whole)[:, None] * ones,
        _in_reward(source, (torch.expm1(-past) + past)[:, None] * ones),
    )
    return {choice.key: {"logp": torch.where(mask, source.share[:, None] * value, 0.0)}
            for choice, value in zip(CHOICES, found, strict=True)}  # fmt: skip


def _in_reward(source: Source, value: Tensor) -> Tensor:
    """Advantages [N, T] less the mean of the other answers at the same position, under the product ratio.

    An answer that is over counts as zero there, which is what it has still to pay.
    """
    others = torch.stack([source.mean_of_others(column) for column in value.T], dim=1)
    return source.ratio[:, None] * (value - others)


def k_estimates(difference: Tensor) -> dict[str, Tensor]:
    """Values that stand for a divergence, elementwise in d = log π − log π_ref, by name; nats.

        k1 = d     k2 = d²/2     k3 = e^(−d) − 1 + d     forward = 1 − e^(−d) (1 + d)

    Drawn from the policy, k1 and k3 have KL(π ‖ ref) as their mean, `forward` KL(ref ‖ π), and k2 neither.

    >>> {name: round(float(value), 4) for name, value in k_estimates(torch.tensor(0.5)).items()}
    {'k1': 0.5, 'k2': 0.125, 'k3': 0.1065, 'forward': 0.0902}
    """
    growth = torch.expm1(-difference)
    return {
        "k1": difference, "k2": difference.square() / 2, "k3": growth + difference,
        "forward": -growth - difference * (1 + growth),
    }  # fmt: skip
