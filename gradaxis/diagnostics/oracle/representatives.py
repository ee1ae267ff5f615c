"""Groups of representatives that have given numbers of members of each type.

A group with n_k members of type k has room for n_k different trajectories of that type at once, so that few groups show
the contribution of every trajectory under every count vector.

Letters: B groups that are judged together, G members of each, S = B·G places, n count vectors, K types of all groups
together, Y the largest number of trajectories of a type, R tables of places, E entries to be read off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.diagnostics.oracle.counts import JointCounts


@dataclass(frozen=True)
class Members:
    """The trajectories of every type of B groups: `rows` int64 [K, Y], `size` [K] of them. Types of one group follow
    those of another; a prompt with two groups has its types twice."""

    rows: Tensor
    size: Tensor


@dataclass(frozen=True)
class Entries:
    """Places of tables at which a trajectory stands for the first time in its type and count vector, [E] each.

    `table` and `place` say where, `row` which trajectory, `owner` under which count vector, `kind` of which type, and
    `count` how many members of that type there are.
    """

    table: Tensor
    place: Tensor
    row: Tensor
    owner: Tensor
    kind: Tensor
    count: Tensor


@dataclass(frozen=True)
class Packed:
    """Tables of trajectories [R, S], and what is to be read off them."""

    tables: Tensor
    entries: Entries
    kind: Tensor
    copy: Tensor
    count: Tensor


def list_members(types: Sequence[Tensor], rows: Sequence[Tensor]) -> Members:
    """The trajectories of each type.

    Args:
        types: the type of each trajectory of a group's prompt, [N_b] for every group, numbered from 0.
        rows: the trajectories themselves.
    """
    found = [own[kinds == kind] for kinds, own in zip(types, rows, strict=True) for kind in range(int(kinds.max()) + 1)]
    size = torch.tensor([len(one) for one in found], device=rows[0].device)
    padded = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
    return Members(padded, size)


def pack(joint: JointCounts, members: Members, chosen: Tensor) -> Packed:
    """Tables in which every trajectory stands once under each of the `chosen` count vectors [n].

    Under one count vector there are as many tables as the fullest type needs; others go round.
    """
    counts = torch.cat([counts[chosen] for counts in joint.counts], dim=1)
    vectors, kinds = counts.shape
    numbers = torch.arange(kinds, device=counts.device).expand(vectors, -1)
    kind = numbers.reshape(-1).repeat_interleave(counts.reshape(-1)).reshape(vectors, -1)
    count = counts.gather(1, kind)
    ends = counts.cumsum(dim=1)
    within = torch.arange(kind.shape[1], device=kind.device) - (ends - counts).gather(1, kind)
    needed = torch.div(members.size[kind] + count - 1, count, rounding_mode="floor").amax(dim=1)
    owner = torch.arange(vectors, device=kind.device).repeat_interleave(needed)
    copy = torch.arange(len(owner), device=kind.device) - (needed.cumsum(0) - needed)[owner]
    kind, count, within = kind[owner], count[owner], within[owner]
    number = copy[:, None] * count + within
    tables = members.rows[kind, number % members.size[kind]]
    table, place = torch.nonzero(number < members.size[kind], as_tuple=True)
    entries = Entries(table, place, tables[table, place], chosen[owner[table]], kind[table, place], count[table, place])
    return Packed(tables, entries, kind, copy, count)


def swap(packed: Packed, members: Members) -> Tensor:
    """For every entry another table [E, S] of the same counts, in which all others are as different as can be.

    The trajectory itself takes every place of its type; in each other type one trajectory takes all places, and where
    the type has one that did not stand in the first table, it is that one.
    """
    entries = packed.entries
    kind, count = packed.kind[entries.table], packed.count[entries.table]
    after = (packed.copy[entries.table][:, None] + 1) * count
    others = members.rows[kind, after % members.size[kind]]
    return torch.where(kind == entries.kind[:, None], entries.row[:, None], others)
