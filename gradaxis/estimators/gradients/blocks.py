"""Per-row gradients of one module's parameters, from its input and the cotangent of its output, a block at a time.

Letters: R rows ((sequence, pattern) pairs), L positions, H input and O output features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradaxis.estimators.gradients.sites import Site, normalised_by_rms
from gradaxis.estimators.quantities import at_least_float32

BLOCK_VALUES = 2**23
"""Default size of a block over all rows, in values."""

Block = tuple[str, slice, Tensor]
"""Parameter name, rows of that parameter seen as a matrix, and its gradients there [R, rows, columns]."""


class Workspace:
    """Memory for one block, used again by the next.

    Blocks are so large that the C library would ask the system for each anew, and clearing the pages would take longer
    than many a product.
    """

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def take(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of a shape, of the dtype and device of another, with anything in it; the last one taken is lost."""
        size = math.prod(shape)
        held = self._held
        if held is None or held.numel() < size or held.dtype != like.dtype or held.device != like.device:
            held = self._held = like.new_empty(size)
        return held[:size].view(*shape)


def site_blocks(
    site: Site, value: Tensor, cotangent: Tensor, space: Workspace, values: int = BLOCK_VALUES
) -> Iterator[Block]:
    """The gradients of a site's parameters, row by row of the batch. A block is lost when the next one comes.

    Args:
        site: the module.
        value: its input, [R, L, ..., H].
        cotangent: of its output, [R, L, ..., O].
        space: where blocks are formed.
        values: bound on R · rows · columns of one block.
    """
    value = at_least_float32(value).flatten(1, -2)
    cotangent = at_least_float32(cotangent).flatten(1, -2)
    if "weight" in site.names:
        name = site.names["weight"]
        if site.kind == "linear":  # weight [O, H]
            yield from ((name, rows, block) for rows, block in outer_blocks(cotangent, value, space, values))
        elif site.kind == "transposed":  # weight [H, O]
            yield from ((name, rows, block) for rows, block in outer_blocks(value, cotangent, space, values))
        else:
            yield name, slice(0, 1), (_normalised(site, value) * cotangent).sum(dim=1, keepdim=True)
    if "bias" in site.names:
        yield site.names["bias"], slice(0, 1), cotangent.sum(dim=1, keepdim=True)


def outer_blocks(left: Tensor, right: Tensor, space: Workspace, values: int) -> Iterator[tuple[slice, Tensor]]:
    """Σ_l left[r, l, o] right[r, l, h] for a few o at a time: slices of o with [R, o, H]."""
    step = max(1, values // (right.shape[0] * right.shape[2]))
    turned = left.transpose(1, 2)
    for start in range(0, left.shape[2], step):
        rows = slice(start, min(start + step, left.shape[2]))
        some = turned[:, rows]
        yield rows, torch.bmm(some, right, out=space.take((*some.shape[:2], right.shape[2]), right))


def _normalised(site: Site, value: Tensor) -> Tensor:
    module: Any = site.module
    if site.kind == "rms_norm":
        return normalised_by_rms(module, value)
    return nn.functional.layer_norm(value, module.normalized_shape, eps=module.eps)
