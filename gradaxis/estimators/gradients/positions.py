"""Position buckets: questions about single tokens, asked with a few patterns more.

A gradient is a sum over tokens, so its part that comes from some positions is the gradient of the same coefficients,
zero elsewhere. Those parts are patterns like any others, and no backend of single tokens is needed.

Letters: N sequences, T response positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gradaxis.errors import InputError


def position_buckets(mask: Tensor, edges: Sequence[float], relative: bool = False) -> dict[str, Tensor]:
    """Which policy tokens lie in each bucket: name to bool [N, T]. Together they are the mask, and none overlap.

    Args:
        mask: policy tokens, bool [N, T].
        edges: inner bounds, rising: numbers of policy tokens before a token, or with `relative` that number over the
            length of the answer, in (0, 1).
        relative: see there.

    Raises:
        InputError: edges that do not rise, or lie outside.

    >>> position_buckets(torch.tensor([[True, True, False, True]]), [2])
    {'0 to 1': tensor([[ True,  True, False, False]]), '2 on': tensor([[False, False, False,  True]])}
    """
    bounds = [0.0, *edges]
    rising = all(one < other for one, other in pairwise(bounds))
    if not rising or (relative and bounds[-1] >= 1) or (not relative and any(edge != int(edge) for edge in edges)):
        raise InputError("edges", f"{list(edges)}", "rising " + ("shares in (0, 1)" if relative else "whole numbers"))
    place = (mask.cumsum(dim=1) - 1).double()
    if relative:
        place = place / mask.sum(dim=1, keepdim=True).clamp(min=1)
    found = {}
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        inside = mask & (place >= low) & (place < (high if high is not None else torch.inf))
        found[_name(low, high, relative)] = inside
    return found


def split_by_position(total: Mapping[str, Tensor], buckets: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A method's coefficients bucket by bucket, by the buckets' names; they add up to `total` on the mask.

    Args:
        total: quantity to [N, T] (`Coefficients.total`).
        buckets: of `position_buckets`.
    """
    return {
        name: {quantity: torch.where(inside, value, 0.0) for quantity, value in total.items()}
        for name, inside in buckets.items()
    }


def _name(low: float, high: float | None, relative: bool) -> str:
    if relative:
        return f"{low:.0%} to {1.0 if high is None else high:.0%}"
    return f"{low:.0f} on" if high is None else f"{low:.0f} to {high - 1:.0f}"
