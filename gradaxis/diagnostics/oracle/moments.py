"""The exact mean and covariance of compiled group estimators on a policy whose trajectories are all listed.

Letters: M methods, P prompts, G rollouts a group, K types of a prompt, A atoms, D parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gradaxis.diagnostics.oracle.counts import MOST_COUNTS, joint_counts, number_of_counts
from gradaxis.diagnostics.oracle.keys import coupling_operators, number_types
from gradaxis.diagnostics.oracle.reading import choose_reading
from gradaxis.diagnostics.oracle.representatives import list_members
from gradaxis.diagnostics.oracle.sums import Block, Reach, Sums, doubted, moments_of, sample_tables
from gradaxis.errors import InputError
from gradaxis.estimators.compile import CompiledEstimator
from gradaxis.estimators.policies import Listing

MOST_ENTRIES = 50_000_000
"""Of a covariance in parameter space: 400 MB."""

OWN_LAWS = (None, "iid")
"""Laws of `sampling` operators under which rollouts of a prompt are independent draws."""


@dataclass(frozen=True)
class Moments:
    """Exact moments of one update's gradient: every prompt of a listing with the same number of groups.

    `weights` [M, A] is E[g] as weights of the atoms and `mean` [M, D] as a vector, None where the listing has no
    vectors. `covariance` [M, M, D, D] holds Cov(g_m, g_m'), None where only `trace` [M, M] was asked for. `types` is K
    of each prompt and `count_vectors` how many were gone through. `held_fixed` names sampling operators that were taken
    to draw nothing anew. `prompts` are the moments of each prompt's own groups alone; none where the batch is coupled.
    """

    methods: tuple[str, ...]
    weights: Tensor
    mean: Tensor | None
    covariance: Tensor | None
    trace: Tensor
    types: tuple[int, ...]
    count_vectors: int
    held_fixed: tuple[str, ...] = ()
    prompts: tuple[Moments, ...] = ()

    def law(self, place: int = 0) -> tuple[Tensor, Tensor]:
        """Mean [D] and covariance [D, D] of one method. Raises InputError where only the trace was asked for."""
        if self.mean is None or self.covariance is None:
            raise InputError("moments", "traces only", "covariance='full'")
        return self.mean[place], self.covariance[place, place]


def group_moments(
    estimators: Sequence[CompiledEstimator],
    listing: Listing,
    group_size: int,
    *,
    groups: int = 1,
    covariance: Literal["full", "trace"] = "full",
    hold_sampling: bool = False,
    types: Tensor | None = None,
    limit: int = MOST_COUNTS,
) -> Moments:
    """Exact mean and covariance of some methods' gradients, and the covariance of any two of them on the same rollouts.

    The update has each prompt of the listing once, with `groups` independent groups of G rollouts drawn by
    `listing.probability`. Where no method couples the batch, groups are judged one by one and combined; otherwise all
    groups together, by joint counts.

    Args:
        estimators: M of them, which share the rollouts.
        listing: every trajectory.
        group_size: G.
        groups: of each prompt.
        covariance: `full`, which needs the atoms as vectors, or `trace`, which needs only their inner products.
        hold_sampling: whether operators that draw otherwise than independently are held fixed, so that what is measured
            is the estimator on rollouts drawn once; the result names them.
        types: of the trajectories [N], in place of those that follow from the declarations.
        limit: the most count vectors that are gone through.

    Raises:
        InputError: there are more count vectors than `limit`; a sampling law that is not independent draws and not held
            fixed; a type key that leaves out something which matters, with the operators of the method; full covariance
            of too many parameters; no method, or no group.
    """
    if not estimators or min(group_size, groups) < 1:
        raise InputError("group_moments", f"{len(estimators)} methods, {groups} groups of {group_size}", "one or more")
    full = covariance == "full"
    if full:
        _check_size(len(estimators), listing)
    held = _held(estimators, hold_sampling)
    kinds = number_types(estimators, listing.batch) if types is None else types
    label = ", ".join(one.label for one in estimators)
    quantities = tuple(dict.fromkeys(name for one in estimators for name in one.quantities))
    every = [int(prompt) for prompt in listing.batch.prompt.unique()]
    together = any(one.couples == "batch" for one in estimators)
    units = [[prompt for prompt in every for _ in range(groups)]] if together else [[prompt] for prompt in every]
    blocks = [_block(listing, kinds, unit, group_size, limit, label) for unit in units]
    samples = torch.cat([sample_tables(block, 2) for block in blocks[:3]])
    reads = [choose_reading(one, listing, group_size, samples) for one in estimators]
    found: list[Sums] = []
    for block in blocks:
        reach = Reach(listing, torch.cat(block.rows), quantities)
        for place in doubted(block, reach, reads):
            raise _too_coarse(estimators[place])
        found.append(moments_of(block, reach, reads, full))
    number = [int(kinds[listing.batch.prompt == prompt].unique().numel()) for prompt in every]
    names = tuple(one.label for one in estimators)
    vectors = [len(block.joint.probability) for block in blocks]

    def describe(sums: Sequence[Sums], scale: float, own: tuple[int, ...], count: int, kept: tuple[Moments, ...]):
        return _combine(sums, listing, scale, groups if not together else 1, names, own, count, held, kept)

    if together:
        return describe(found, 1.0, tuple(number), vectors[0], ())
    alone = tuple(describe([s], 1.0, (k,), n, ()) for s, k, n in zip(found, number, vectors, strict=True))
    if len(alone) == 1:
        return describe(found, 1.0, tuple(number), vectors[0], alone)
    return describe(found, 1 / len(found), tuple(number), sum(vectors), alone)


def count_vectors_needed(
    estimators: Sequence[CompiledEstimator], listing: Listing, group_size: int, groups: int = 1
) -> int:
    """How many count vectors the exact moments of these methods would go through at once.

    Arguments as for `group_moments`. It is the product over groups for methods that couple the batch, and the largest
    of the prompts for others.
    """
    kinds = number_types(estimators, listing.batch)
    number = [number_of_counts(int(kinds[listing.batch.prompt == prompt].unique().numel()), group_size)
              for prompt in listing.batch.prompt.unique()]  # fmt: skip
    if any(one.couples == "batch" for one in estimators):
        return int(torch.tensor(number, dtype=torch.float64).prod()) ** groups
    return max(number)


def of_a_random_prompt(moments: Moments, listing: Listing) -> Moments:
    """The moments of one unit: the groups of one prompt, which is drawn from the listing's with equal chances.

        Cov = E_x Cov(g | x) + Cov_x E[g | x]

    Args:
        moments: of `group_moments`, of methods that do not couple the batch. listing: theirs.

    Raises:
        InputError: the methods couple the batch, so that prompts are no units.
    """
    if not moments.prompts:
        raise InputError("moments", "methods that couple the batch", "methods whose prompts are independent units")
    weights = torch.stack([one.weights for one in moments.prompts]) - moments.weights
    trace = torch.stack([one.trace for one in moments.prompts]).mean(dim=0)
    trace = trace + torch.einsum("pma,pna->mn", weights @ listing.inner, weights) / len(moments.prompts)
    covariance = None
    if moments.covariance is not None and listing.vectors is not None:
        away = weights @ listing.vectors
        within = torch.stack([one.covariance for one in moments.prompts if one.covariance is not None]).mean(dim=0)
        covariance = within + torch.einsum("pmd,pne->mnde", away, away) / len(moments.prompts)
    return replace(moments, covariance=covariance, trace=trace, prompts=())


def _block(listing: Listing, kinds: Tensor, prompts: Sequence[int], group_size: int, limit: int, label: str) -> Block:
    """The groups of some prompts, one for each time a prompt is named, with the probabilities of their types."""
    rows = [torch.nonzero(listing.batch.prompt == prompt).squeeze(1) for prompt in prompts]
    types = [kinds[own].unique(return_inverse=True)[1] for own in rows]
    share, within = [], torch.zeros_like(listing.probability)
    for own, kind in zip(rows, types, strict=True):
        probability = listing.probability[own]
        mass = probability.new_zeros(int(kind.max()) + 1).index_add(0, kind, probability)
        share.append(mass)
        within[own] = probability / mass[kind]
    joint = joint_counts(share, group_size, limit, label)
    return Block(tuple(rows), joint, list_members(types, rows), within)


def _combine(
    sums: Sequence[Sums], listing: Listing, scale: float, groups: int, names: tuple[str, ...], types: tuple[int, ...],
    count: int, held: tuple[str, ...], prompts: tuple[Moments, ...],
) -> Moments:  # fmt: skip
    """The moments of `scale` times the sum of independent parts, each the mean of as many groups."""
    size, vectors = len(listing.inner), listing.vectors
    weights = torch.zeros(len(names), size, dtype=torch.float64, device=listing.inner.device)
    for one in sums:
        weights = weights.index_add(1, one.atoms, scale * one.mean)
    trace = sum((one.trace for one in sums), start=torch.zeros_like(sums[0].trace)) * (scale**2 / groups)
    covariance = None
    if sums[0].covariance is not None and vectors is not None:
        parts = [torch.einsum("manb,ad,be->mnde", one.covariance, vectors[one.atoms], vectors[one.atoms])
                 for one in sums if one.covariance is not None]  # fmt: skip
        covariance = torch.stack(parts).sum(dim=0) * (scale**2 / groups)
    mean = None if vectors is None else weights @ vectors
    return Moments(names, weights, mean, covariance, trace, types, count, held, prompts)


def _check_size(methods: int, listing: Listing) -> None:
    if listing.vectors is None:
        raise InputError("covariance", "full, of atoms known by their inner products only", "trace")
    entries = (methods * listing.vectors.shape[1]) ** 2
    if entries > MOST_ENTRIES:
        raise InputError("covariance", f"full, of {entries} entries", f"at most {MOST_ENTRIES}", "Ask for the trace")


def _held(estimators: Sequence[CompiledEstimator], hold_sampling: bool) -> tuple[str, ...]:
    """The sampling operators that do not draw independently; an error unless they are held fixed."""
    found = {
        f"sampling.{placed.label}": (one.label, placed.declaration.law)
        for one in estimators for placed in one.method.slots["sampling"] if placed.declaration.law not in OWN_LAWS
    }  # fmt: skip
    if found and not hold_sampling:
        name, (label, law) = next(iter(found.items()))
        raise InputError(f"{label}: {name}", f"the law {law!r}", "rollouts drawn independently",
                         "Hold sampling fixed to measure the estimator on rollouts that are drawn once")  # fmt: skip
    return tuple(found)


def _too_coarse(estimator: CompiledEstimator) -> InputError:
    operators = coupling_operators(estimator.method)
    return InputError(
        f"{estimator.label}: types of trajectories", "other coefficients with other representatives of the same types",
        "types that hold all that a sample tells the others",
        f"Correct `of_others` of {', '.join(operators)}" if operators else
        "No operator declares that it reads other samples: correct `couples` and `of_others`",
    )  # fmt: skip
