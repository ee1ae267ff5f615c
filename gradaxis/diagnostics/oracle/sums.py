"""Exact moments of the gradient of some groups together, by the law of total covariance over count vectors.

    E[g] = Σ_n P(n) Σ_k n_k E_k[f(y; n)]
    Cov[g] = Cov_n( E[g|n] ) + Σ_n P(n) Σ_k n_k Cov_k[ f(y; n) ]

f(y; n) is the whole contribution of member y when the counts are n, normaliser and all.

Letters: B groups, G members of each, K types of all groups together, n count vectors, M methods, E entries, A atoms
that the groups can reach, Q quantities, T response positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.diagnostics.oracle.counts import JointCounts
from gradaxis.diagnostics.oracle.reading import Read, agree
from gradaxis.diagnostics.oracle.representatives import Members, pack, swap
from gradaxis.estimators.policies import Listing

MOST_NUMBERS = 20_000_000
"""Of float64 numbers at once: count vectors are gone through in parts."""

MOST_SEQUENCES = 100_000
"""Sequences in one call of an estimator."""

CHECKED = 300
"""Entries that are read off a second time, with other representatives."""


@dataclass(frozen=True)
class Block:
    """Groups that are judged together: `rows` the trajectories of each group, `share` [N] the probability of each
    trajectory of the listing within its type."""

    rows: tuple[Tensor, ...]
    joint: JointCounts
    members: Members
    share: Tensor

    @property
    def size(self) -> int:
        """Trajectories of all groups together."""
        return sum(len(own) for own in self.rows)

    @property
    def group_size(self) -> int:
        return int(self.joint.counts[0][0].sum())


@dataclass(frozen=True)
class Sums:
    """Moments in terms of the atoms that can be reached: `atoms` int64 [A] names them, `mean` [M, A],
    `covariance` [M, A, M, A] or None, `trace` [M, M] of the covariance in parameter space."""

    atoms: Tensor
    mean: Tensor
    covariance: Tensor | None
    trace: Tensor


class Reach:
    """The atoms that a block can reach, and the contributions of its trajectories in their terms."""

    def __init__(self, listing: Listing, rows: Tensor, quantities: Sequence[str]) -> None:
        self.quantities = tuple(quantities)
        laid = torch.cat([listing.atoms[name] for name in self.quantities], dim=1)
        found = laid[rows].unique()
        self.atoms = found[found >= 0]
        number = torch.full((len(listing.inner) + 1,), len(self.atoms), device=laid.device)
        number[self.atoms] = torch.arange(len(self.atoms), device=laid.device)
        self.place = number[laid]  # off the mask −1 names the last, which is no atom
        inner = listing.inner[self.atoms][:, self.atoms]
        self.inner = torch.nn.functional.pad(inner, (0, 1, 0, 1))

    def contributions(self, reads: Sequence[Read], tables: Tensor, table: Tensor, place: Tensor) -> Tensor:
        """The coefficients [E, M, Q·T] at the places of some tables."""
        found = []
        for read in reads:
            total = read(tables)
            parts = [total[name][table, place].double() if name in total else None for name in self.quantities]
            width = next(part.shape[1] for part in parts if part is not None)
            found.append(torch.cat([p if p is not None else self.inner.new_zeros(len(table), width) for p in parts], 1))
        return torch.stack(found, dim=1)

    def dense(self, values: Tensor, rows: Tensor) -> Tensor:
        """Weights of the atoms [E, M, A] of contributions [E, M, Q·T]."""
        laid = values.new_zeros(*values.shape[:2], len(self.atoms) + 1)
        return laid.scatter_add_(2, self.place[rows][:, None].expand_as(values), values)[:, :, :-1]

    def products(self, values: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """Σ_e weight_e ⟨v_e,m, v_e,m'⟩ over contributions [E, M, Q·T], [M, M]."""
        places = self.place[rows]
        gram = self.inner[places[:, :, None], places[:, None, :]]
        return torch.einsum("eni,emi,e->mn", values, torch.einsum("eij,emj->emi", gram, values), weight)


def moments_of(block: Block, reach: Reach, reads: Sequence[Read], full: bool) -> Sums:
    """Mean and covariance of the gradient of a block, over all that its groups may hold.

    Args:
        block: the groups. reach: their atoms. reads: the methods.
        full: whether the covariance is kept, and not its trace alone.
    """
    methods, atoms, vectors = len(reads), len(reach.atoms), len(block.joint.probability)
    kinds = len(block.members.size)
    given, scatter = [], reach.inner.new_zeros(methods * atoms, methods * atoms) if full else None
    trace = reach.inner.new_zeros(methods, methods)
    inner = reach.inner[:-1, :-1]
    for chosen in torch.arange(vectors, device=inner.device).split(_vectors_at_once(block, methods * atoms)):
        packed = pack(block.joint, block.members, chosen)
        entries = packed.entries
        values = reach.contributions(reads, packed.tables, entries.table, entries.place)
        weights = reach.dense(values, entries.row)
        share = block.share[entries.row]
        index = (entries.owner - chosen[0]) * kinds + entries.kind
        means = weights.new_zeros(len(chosen) * kinds, methods, atoms)
        means = means.index_add(0, index, weights * share[:, None, None])
        counts = torch.cat([part[chosen] for part in block.joint.counts], dim=1).double()
        probability = block.joint.probability[chosen]
        given.append(torch.einsum("nk,nkma->nma", counts, means.reshape(len(chosen), kinds, methods, atoms)))
        mass = probability[entries.owner - chosen[0]] * entries.count
        if scatter is not None:
            away = (weights - means[index]) * (mass * share).sqrt()[:, None, None]
            scatter += away.flatten(1).T @ away.flatten(1)
        else:
            trace += reach.products(values, entries.row, mass * share)
            trace -= _traces(means, inner, (probability[:, None] * counts).reshape(-1))
    conditional, probability = torch.cat(given), block.joint.probability
    mean = torch.einsum("n,nma->ma", probability, conditional)
    away = conditional - mean
    if scatter is None:
        return Sums(reach.atoms, mean, None, trace + _traces(away, inner, probability))
    spread = (away * probability.sqrt()[:, None, None]).flatten(1)
    covariance = (scatter + spread.T @ spread).reshape(methods, atoms, methods, atoms)
    return Sums(reach.atoms, mean, covariance, torch.einsum("manb,ab->mn", covariance, inner))


def doubted(block: Block, reach: Reach, reads: Sequence[Read]) -> list[int]:
    """The methods whose coefficients change when members are exchanged for others of their types.

    Some count vectors, evenly spread, are read off again with other representatives in every type that has more than
    one trajectory. An empty list says that the types tell all that matters.
    """
    if int(block.members.size.max()) == 1:
        return []
    vectors = len(block.joint.probability)
    chosen = _spread(vectors, max(1, CHECKED // block.size)).to(reach.inner.device)
    packed = pack(block.joint, block.members, chosen)
    entries, tables = packed.entries, swap(packed, block.members)
    every = torch.arange(len(tables), device=tables.device)
    first = reach.contributions(reads, packed.tables, entries.table, entries.place)
    again = reach.contributions(reads, tables, every, entries.place)
    return [place for place in range(len(reads)) if not agree(again[:, place], first[:, place])]


def sample_tables(block: Block, number: int) -> Tensor:
    """A few tables that differ as far as a block's tables can [R, S].

    Some have given counts; in the others one trajectory takes all places of a group.
    """
    device = block.joint.probability.device
    packed = pack(block.joint, block.members, _spread(len(block.joint.probability), number).to(device)).tables
    mixed = packed[_spread(len(packed), number).to(device)]
    same = [own[_spread(len(own), number)][torch.arange(number) % min(number, len(own))] for own in block.rows]
    return torch.cat([mixed, torch.stack(same, dim=1).repeat_interleave(block.group_size, dim=1)])


def _spread(size: int, number: int) -> Tensor:
    """At most `number` indices below `size`, evenly spread."""
    number = min(number, size)
    return (2 * torch.arange(number) + 1) * size // (2 * number)


def _vectors_at_once(block: Block, width: int) -> int:
    places = block.group_size * len(block.rows)
    return max(1, min(MOST_NUMBERS // (block.size * width), MOST_SEQUENCES // (int(block.members.size.max()) * places)))


def _traces(vectors: Tensor, inner: Tensor, weight: Tensor) -> Tensor:
    """Σ_n weight_n ⟨v_n,m, v_n,m'⟩ of weights [n, M, A], [M, M]."""
    return torch.einsum("nma,npa,n->mp", vectors @ inner, vectors, weight)
