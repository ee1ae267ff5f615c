"""Where the reward comes from. The empty slot is the outcome reward, one number a sequence."""

from __future__ import annotations

from torch import Tensor


def score_steps(turn_reward: Tensor) -> Tensor:
    """The environment's reward of each turn.

    r_s of every turn s, as the environment gave it.

    Args:
        turn_reward: reward units, [S], in the order of the turns.

    Returns:
        The same numbers, [S]; what follows in the reward slots then runs over turns.

    Reduces to: the outcome reward on sequences of one turn whose step reward it is.
    Assumes: a success reward, where the environment has one, is part of its last turn's reward.
    Paper: GiGPO, arXiv 2505.10978, equation 7 (the r_k of the discounted return).
    Traps: it replaces the outcome reward in its stream and is not added to it.

    >>> import torch
    >>> score_steps(torch.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    return turn_reward
