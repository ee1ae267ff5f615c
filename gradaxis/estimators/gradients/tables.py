"""Per-row gradients of embeddings and heads, a few vocabulary rows at a time, tied matrices with their cross term.

Letters: R rows, L positions, T response positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.estimators.gradients.blocks import BLOCK_VALUES, Workspace
from gradaxis.estimators.gradients.head import LogitCotangent
from gradaxis.estimators.gradients.sinks import Sink
from gradaxis.estimators.gradients.sites import Table
from gradaxis.estimators.quantities import at_least_float32


@dataclass(frozen=True)
class Looked:
    """What an embedding looked up, `ids` [R, L], and the cotangent of what it returned, [R, L, H]."""

    ids: Tensor
    cotangent: Tensor


def add_table(
    table: Table, sink: Sink, looked: Looked | None, hidden: Tensor | None, logits: LogitCotangent | None,
    space: Workspace,
) -> None:  # fmt: skip
    """Adds the gradients of a table to the sink.

    Args:
        table: which matrix.
        sink: receives them.
        looked: of the embedding; needed when the table has one.
        hidden: input of the head [R, T, H]; needed, with `logits`, when the table has one.
        logits: cotangents of the head's output.
        space: where blocks are formed.
    """
    source = None if looked is None or table.embedding is None else _sources(table, looked)
    if table.head is None:
        if source is not None and table.name is not None:
            _add_embedding(table.name, sink, *source, space)
        return
    assert hidden is not None
    assert logits is not None
    hidden = at_least_float32(hidden)
    rows, length, width = hidden.shape
    size = len(table.head.weight)
    step = max(1, BLOCK_VALUES // (rows * max(width, length)))
    for start in range(0, size, step):
        part = slice(start, min(start + step, size))
        cotangent = at_least_float32(logits(part))
        if table.bias is not None:
            sink.add(table.bias, slice(0, 1), _place(cotangent.sum(dim=1), part, size))
        if table.name is None:
            continue
        shape = (rows, part.stop - part.start, width)
        block = torch.bmm(cotangent.transpose(1, 2), hidden, out=space.take(shape, hidden))
        if source is not None:
            ids, values = source
            row, place = ((ids >= part.start) & (ids < part.stop)).nonzero(as_tuple=True)
            flat = row * (part.stop - part.start) + ids[row, place] - part.start
            block.view(-1, width).index_add_(0, flat, values[row, place])
        sink.add(table.name, part, block)


def _sources(table: Table, looked: Looked) -> tuple[Tensor, Tensor]:
    """Ids and cotangents of the table's rows. Autograd gives the row of `padding_idx` nothing, so neither does this."""
    values = at_least_float32(looked.cotangent) * table.scale
    padding = None if table.embedding is None else table.embedding.padding_idx
    if padding is not None:
        values = values * (looked.ids != padding)[..., None]
    return looked.ids, values


def _add_embedding(name: str, sink: Sink, ids: Tensor, values: Tensor, space: Workspace) -> None:
    rows, _, width = values.shape
    used, compact = ids.unique(return_inverse=True)
    step = max(1, BLOCK_VALUES // (rows * width))
    for start in range(0, len(used), step):
        count = min(step, len(used) - start)
        block = space.take((rows, count, width), values).zero_()
        row, place = ((compact >= start) & (compact < start + count)).nonzero(as_tuple=True)
        block.view(-1, width).index_add_(0, row * count + compact[row, place] - start, values[row, place])
        sink.add(name, used[start : start + count], block)


def _place(value: Tensor, part: slice, size: int) -> Tensor:
    """The values [R, part] of a vector of `size` with zeros elsewhere, [R, 1, size]."""
    whole = value.new_zeros(len(value), 1, size)
    whole[:, 0, part] = value
    return whole
