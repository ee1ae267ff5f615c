"""How the advantage is changed after the comparison, and at which unit. The empty slot copies it to every token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.layout import copy_to_tokens, next_on_mask, place_at_end, sum_backwards


def sum_to_go(advantage: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Replace each entry by the discounted sum of itself and all later ones of its sequence.

    G_t = Σ_{k ≥ t} γ^(k−t) r_k        t and k count policy tokens (or turns)

    Args:
        advantage: reward units, [N, T]; a number a sequence, [N], is one that arrives at the last token.
        mask: true where there is an entry: policy tokens, or the first token of each turn, [N, T].
        gamma: γ, the discount per entry, in [0, 1].

    Returns:
        [N, T], zero off the mask.

    Reduces to: a copy of the outcome at every token for γ = 1; the entries themselves for γ = 0.
    Assumes: nothing earns reward between entries.
    Paper: GAE, arXiv 1506.02438, section 2; over turns, GiGPO, arXiv 2505.10978, equation 7.
    Traps: observation tokens neither earn nor discount. At stage `accrue` it runs on rewards, before the baseline.

    >>> mask = torch.tensor([[True, False, True, True]])
    >>> sum_to_go(torch.tensor([[1.0, 9.0, 0.0, 4.0]]), mask, gamma=0.5)
    tensor([[2., 0., 2., 4.]])
    """
    entries = torch.where(mask, place_at_end(advantage, mask), 0.0)
    decay = torch.where(mask, torch.full_like(entries, gamma), 1.0)
    return torch.where(mask, sum_backwards(entries, decay), 0.0)


def estimate_gae(reward: Tensor, value: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation.

    δ_t = r_t + γ V(s_{t+1}) − V(s_t)        Â_t = δ_t + γλ Â_{t+1}

    t + 1 is the next policy token. After the last one V and Â are zero.

    Args:
        reward: reward units, before the baseline, [N, T]; a number a sequence, [N], goes to the last policy token.
        value: V of the prefix before each token, reward units, [N, T]; without gradient.
        mask: true at policy tokens, [N, T].
        gamma: γ in [0, 1]. lam: λ in [0, 1].

    Returns:
        Â, reward units, [N, T], zero off the mask.

    Reduces to: R − V(s_t) for γ = λ = 1 and one outcome reward; the one-step error for λ = 0.
    Assumes: the response ended where it stops. A truncated response is treated in the same way: its reward is what the
    verifier gave, and no value is bootstrapped behind it.
    Paper: GAE, arXiv 1506.02438, equations 11 and 16.
    Traps: it computes the baseline itself, from the reward; observation tokens are passed over and not discounted.

    >>> reward, value = torch.tensor([1.0]), torch.tensor([[0.5, 0.25]])
    >>> mask = torch.tensor([[True, True]])        # errors: 0.25 - 0.5 = -0.25 and 1 - 0.25 = 0.75
    >>> estimate_gae(reward, value, mask, gamma=1.0, lam=0.5)
    tensor([[0.1250, 0.7500]])
    """
    received = torch.where(mask, place_at_end(reward, mask), 0.0)
    error = torch.where(mask, received + gamma * next_on_mask(value, mask) - value, 0.0)
    decay = torch.where(mask, torch.full_like(error, gamma * lam), 1.0)
    return torch.where(mask, sum_backwards(error, decay), 0.0)


def add_teacher_log_ratio(
    advantage: Tensor, logp_at_sampling: Tensor, teacher_logp: Tensor, mask: Tensor, *, teacher: str, coefficient: float
) -> Tensor:
    """Add to each token's advantage the log-ratio of a teacher to the sampling policy.

    A_{i,t} + λ ( log π_teacher,t − log π_old,t )

    Args:
        advantage: reward units or dimensionless, [N] or [N, T].
        logp_at_sampling: log-probability of the sampled token at the start of the update, nats, [N, T].
        teacher_logp: the same under the teacher, nats, [N, T]; without gradient.
        mask: true at policy tokens, [N, T].
        teacher: the teacher's name; it chooses the column, not the formula.
        coefficient: λ, advantage units per nat.

    Returns:
        [N, T], zero off the mask.

    Reduces to: the advantage where teacher and policy agree, or at λ = 0.
    Assumes: tokens drawn from the policy at the start of the update; the ratio then estimates minus the reverse KL of
    each state.
    Paper: on-policy distillation, arXiv 2306.13649; as an addition to the advantage it has no single source.
    Traps: the log-ratio of a token that the teacher never writes is unbounded below. Each token gets only its own
    log-ratio, not those of later tokens.

    >>> mask = torch.tensor([[True, True]])
    >>> old, teacher_logp = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-0.5, -3.0]])
    >>> add_teacher_log_ratio(torch.tensor([1.0]), old, teacher_logp, mask, teacher="teacher", coefficient=0.5)
    tensor([[1.2500, 0.0000]])
    """
    log_ratio = torch.where(mask, teacher_logp - logp_at_sampling, 0.0)
    return copy_to_tokens(advantage, mask) + coefficient * log_ratio


def add_streams(advantage: Tensor, streams: Mapping[str, Tensor], *, weights: Mapping[str, float]) -> Tensor:
    """Add up the advantages of named runs of the reward slots.

    A_{i,t} = w_main A_{i,t} + Σ_k w_k A^k_{i,t}

    Args:
        advantage: the entry's own advantage at each token, [N, T].
        streams: the advantage of each named stream at each token, [N, T].
        weights: the factor of each stream by name; `main` is the entry's own and counts 1 where it is not named.

    Returns:
        [N, T].

    Raises:
        InputError: a weight names no stream.

    Reduces to: the entry's own advantage when all other weights are zero.
    Assumes: streams in comparable units.
    Paper: GiGPO, arXiv 2505.10978, equation 8.
    Traps: a stream that is not named in `weights` is left out.

    >>> episode, step = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, -0.5]])
    >>> add_streams(episode, {"step": step}, weights={"main": 1.0, "step": 2.0})
    tensor([[2., 0.]])
    """
    unknown = [name for name in weights if name != "main" and name not in streams]
    if unknown:
        raise InputError("credit.add_streams.weights", ", ".join(unknown), f"main or one of {', '.join(streams)}")
    total = weights.get("main", 1.0) * advantage
    for name, weight in weights.items():
        if name != "main":
            total = total + weight * streams[name]
    return total
