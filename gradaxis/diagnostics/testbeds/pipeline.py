"""From a listing to rollouts, and from rollouts to the evidence that probes read, without a model.

Letters: n prompts drawn, N rollouts, T response positions, B patterns a rollout, A atoms, L directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradaxis.diagnostics.complete import DIRECTION_ENTROPY, PROMPT, GramNumbers, complete_evidence
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.plan import plan_evidence
from gradaxis.errors import InputError
from gradaxis.estimators.gradients import Patterns
from gradaxis.estimators.policies import Listing, expected_reward, silent_group_probability
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Registry


def draw(
    listing: Listing, prompts: int | Sequence[int], groups: int, group_size: int, generator: torch.Generator
) -> RolloutBatch:
    """Independent rollouts of the law that samples.

    Args:
        listing: everything that can be drawn.
        prompts: n, for prompts drawn one by one with equal chances, or the numbers of those wanted. One that is drawn
            twice is two prompts of the batch, with its greedy answer twice.
        groups: of each prompt. group_size: G.
        generator: draws; of the CPU, so that the same is drawn on every device.

    Raises:
        InputError: no prompts, groups or answers asked for.
    """
    if isinstance(prompts, int):
        chosen = torch.randint(listing.prompts, (max(prompts, 0),), generator=generator)
    else:
        chosen = torch.tensor(list(prompts), dtype=torch.int64)
    n, each = len(chosen), groups * group_size
    if min(n, groups, group_size) < 1:
        raise InputError("draw", f"{n} prompts, {groups} groups of {group_size}", "one or more of each")
    batch = listing.batch
    rows, chance, owners = torch.empty(n, each, dtype=torch.int64), listing.probability.cpu(), batch.prompt.cpu()
    for prompt in chosen.unique().tolist():
        own = torch.nonzero(owners == prompt).squeeze(1)
        wanted = chosen == prompt
        size = int(wanted.sum()) * each
        picked = torch.multinomial(chance[own], size, replacement=True, generator=generator)
        rows[wanted] = own[picked].reshape(-1, each)
    number = torch.arange(n, device=batch.device)
    owner = number.repeat_interleave(each)
    named = tuple(batch.prompts[prompt] for prompt in chosen.tolist())
    greedy = batch.companions["greedy"].rows(chosen)
    greedy = replace(greedy, prompts=named, prompt=number, group=number, trajectory=number)
    return replace(
        batch.rows(rows.flatten()), prompts=named, prompt=owner, trajectory=torch.arange(n * each, device=batch.device),
        group=torch.arange(n * groups, device=batch.device).repeat_interleave(group_size),
        companions={"greedy": greedy}, provenance={**batch.provenance, "law": "iid"},
    )  # fmt: skip


def gram_numbers(
    listing: Listing, batch: RolloutBatch, patterns: Patterns, directions: Mapping[str, Tensor] | None = None
) -> GramNumbers:
    """What a backward pass through a model would give, exactly, from the inner products of the atoms.

    Args:
        listing: of the policy at which gradients are taken.
        batch: rollouts drawn from it.
        patterns: of these rollouts.
        directions: name to weights of the atoms [A].
    """
    rows, count = listing.locate(batch), patterns.size
    total = {name: patterns.vectors[:, :, place].flatten(0, 1) for place, name in enumerate(patterns.quantities)}
    weights = listing.rows_to_vectors(total, rows.repeat_interleave(count))
    named = directions or {}
    along = torch.stack(list(named.values())) if named else weights.new_zeros(0, weights.shape[1])
    mapped = weights @ listing.inner
    return GramNumbers(
        matrix=(mapped @ weights.T).cpu().numpy(),
        exact=True,
        names=tuple(named),
        along=(mapped @ along.T).cpu().numpy(),
        among=(along @ listing.inner @ along.T).cpu().numpy(),
    )


def exact_directions(listing: Listing, batch: RolloutBatch) -> dict[str, Tensor]:
    """∇J of each prompt of the batch alone, and the gradient of the entropy a token over them, as weights of atoms [A].

    The names are those by which evidence knows them.
    """
    source = _sources(listing, batch)
    parts = {prompt: listing.gradient(expected_reward, prompt) for prompt in set(source)}
    found = {f"{PROMPT}{number}": parts[prompt] for number, prompt in enumerate(source)}
    share = torch.bincount(torch.tensor(source), minlength=listing.prompts).to(listing.inner) / len(source)
    found[DIRECTION_ENTROPY] = listing.token_entropy(share)[1]
    return found


def exact_numbers(listing: Listing, batch: RolloutBatch) -> dict[str, Any]:
    """J of the prompts of the batch, and the expected share of silent groups under the law that samples."""
    source = torch.tensor(_sources(listing, batch))
    size = int(batch.group.unique(return_counts=True)[1].max())
    silent = silent_group_probability(listing.sampled_outcomes(), size)
    return {
        "objective": float(listing.value(expected_reward)[source].mean()),
        "silent groups": float(silent[source].mean()),
    }


def evidence(
    listing: Listing,
    batch: RolloutBatch,
    methods: Sequence[Method],
    registry: Registry,
    point: str,
    slots: bool = True,
    exact: bool = True,
    directions: Mapping[str, Tensor] | None = None,
    attribution: bool = False,
) -> Evidence:
    """The evidence of rollouts drawn from a listing: the whole way of a probe, but for the model.

    Args:
        listing: everything that could have been drawn.
        batch: what was (`draw`).
        methods: resolved. registry: where parents are looked up.
        point: "fresh" where the policy itself samples, else "stale".
        slots: whether hybrids are made.
        exact: whether exact directions and numbers are given; without them bias is measured against the reference.
        directions: further ones by name, as weights of the atoms [A].
        attribution: whether the hybrids of the attribution probe are made, and the parts of the noise.
    """
    numbers = exact_numbers(listing, batch) if exact else {}
    plan = plan_evidence(point, batch, methods, registry, slots=slots, exact_values=numbers,
                         attribution=attribution, shares=attribution)  # fmt: skip
    assert plan.patterns is not None, "no method could be computed"
    named = {**(exact_directions(listing, batch) if exact else {}), **(directions or {})}
    return complete_evidence(plan, gram_numbers(listing, batch, plan.patterns, named))


def _sources(listing: Listing, batch: RolloutBatch) -> list[int]:
    """The listing's number of each prompt that has rollouts in the batch, in the order of units."""
    known = {prompt.tokens: number for number, prompt in enumerate(listing.batch.prompts)}
    return [known[batch.prompts[number].tokens] for number in batch.prompt.unique().tolist()]
