"""The exact bias and variance of one entry on one small policy, as a document that anybody can check.

It holds all that the numbers follow from: logits, rewards, probabilities, gradients of single tokens, and the entry
with its parameters. Nothing but arithmetic is needed to compute it again.

Letters: P prompts, N trajectories, T positions, S rows of logits, V tokens, A atoms, D parameters, G rollouts a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradaxis.diagnostics.oracle.moments import Moments, group_moments
from gradaxis.diagnostics.variants import task_part
from gradaxis.errors import InputError
from gradaxis.estimators.compile import CompiledEstimator, compile
from gradaxis.estimators.policies import Listing, expected_reward
from gradaxis.taxonomy import Method, Placed, Registry

SCHEMA = 1
KIND = "exact moments of one update's gradient"
UNIT = "one update: every prompt once, with its groups of group_size rollouts, all drawn independently"
POLICIES = {"policy": "logp", "old": "old_logp", "behavior": "behavior_logp", "reference": "ref_logp",
            "teacher": "teacher_logp"}  # fmt: skip
"""The policies of a testbed by the column that holds their log-probabilities."""

Document = dict[str, Any]


def exact_document(
    method: Method,
    registry: Registry,
    listing: Listing,
    testbed: Mapping[str, Any],
    group_size: int,
    groups: int = 1,
    hold_sampling: bool = False,
) -> Document:
    """The document of one entry on one listing of a table.

    Args:
        method: resolved. registry: where its task part is derived.
        listing: of a tabular policy.
        testbed: how it is called and what it was made with; kept as it is.
        group_size, groups, hold_sampling: as for `group_moments`.

    Raises:
        InputError: as `group_moments`; also for a policy that is no table, since the document could not hold it.
    """
    task, removed = task_part(method, registry.methods)
    whole = group_moments([compile(method)], listing, group_size, groups=groups, hold_sampling=hold_sampling)
    own = whole
    if removed:
        own = group_moments([compile(task)], listing, group_size, groups=groups, hold_sampling=hold_sampling)
    gradient = listing.to_parameters(listing.gradient(expected_reward))
    mean, own_mean = whole.law()[0], own.law()[0]
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "unit": UNIT,
        "entry": describe_entry(compile(method)),
        "update": {"prompts": listing.prompts, "groups": groups, "group_size": group_size, "law": "iid",
                   "held_fixed": list(whole.held_fixed)},
        "testbed": {**testbed, **describe_testbed(listing)},
        "exact": {"objective": float(listing.value(expected_reward).mean()), "gradient": gradient.tolist()},
        "whole": _moments(whole),
        "task": {"without": list(removed), **_moments(own), **compare_with(own_mean, gradient)},
        "declared": {"operators": list(removed), "shift": (mean - own_mean).tolist()},
    }  # fmt: skip


def compare_with(mean: Tensor, gradient: Tensor) -> Document:
    """Bias of an expected gradient [D] against ∇J [D]; None where a direction is missing.

    gain c = ⟨E g, ∇J⟩ / |∇J|²          orthogonal relative bias = |E g − c ∇J| / |c ∇J|
    """
    length, own = float(gradient.norm()), float(mean.norm())
    bias = mean - gradient
    found: Document = {"bias": bias.tolist(), "relative_bias": None, "gain": None, "cosine": None,
                       "orthogonal_relative_bias": None}  # fmt: skip
    if length == 0:
        return found
    gain = float(mean @ gradient) / length**2
    found |= {"gain": gain, "relative_bias": float(bias.norm()) / length}
    if own > 0:
        found["cosine"] = float(mean @ gradient) / (own * length)
    if gain != 0:
        found["orthogonal_relative_bias"] = float((mean - gain * gradient).norm()) / (abs(gain) * length)
    return found


def describe_entry(estimator: CompiledEstimator) -> Document:
    """The entry with every slot and parameter resolved."""
    method = estimator.method

    def items(placed: Sequence[Placed]) -> list[Document]:
        return [{"operator": p.operator, "label": p.label, "parameters": dict(p.parameters), "where": p.where,
                 "over": p.over, "stage": p.stage} for p in placed]  # fmt: skip

    return {
        "id": method.id, "label": method.label, "link": method.link, "couples": estimator.couples,
        "slots": {slot: items(placed) for slot, placed in method.slots.items()},
        "streams": {name: {slot: items(placed) for slot, placed in slots.items() if placed}
                    for name, slots in method.streams.items()},
    }  # fmt: skip


def describe_testbed(listing: Listing) -> Document:
    """Everything that can happen on a table, and with what probability.

    `logits` [S, V] are normalised: log-probabilities. A trajectory lists its tokens, who chose each (`mask`), from
    which row, and which atoms its log-probability and its entropy have there; −1 where the policy does not choose.
    `atom_gradients` [A, D] are gradients in the logits of `policy`, row after row.
    """
    batch, vectors = listing.batch, listing.vectors
    states = listing.atoms["entropy"][batch.mask].unique()
    size = 0 if vectors is None else vectors.shape[1]
    if vectors is None or size % len(states):
        raise InputError("testbed", "a policy that is no table of logits", "a table: the document holds its logits")
    number = torch.zeros(len(listing.inner) + 1, dtype=torch.int64)
    number[states] = torch.arange(len(states))
    number[-1] = -1
    rows = number[torch.where(batch.mask, listing.atoms["entropy"], -1)]
    columns = {name: batch.columns[column] for name, column in POLICIES.items() if column in batch.columns}
    tables = {name: _table(rows, batch.tokens, value, (len(states), size // len(states)))
              for name, value in columns.items()}  # fmt: skip
    return {
        "vocabulary": size // len(states),
        "max_new_tokens": batch.provenance["max_new_tokens"],
        "prompts": [list(prompt.tokens) for prompt in batch.prompts],
        "logits": {name: table.tolist() for name, table in tables.items()},
        "trajectories": [_trajectory(listing, rows, place) for place in range(batch.size)],
        "greedy_reward": batch.companion("greedy").reward.tolist(),
        "atom_gradients": vectors.tolist(),
    }


def _table(rows: Tensor, tokens: Tensor, logp: Tensor, shape: tuple[int, int]) -> Tensor:
    """The log-probabilities of all tokens in all rows [S, V], which trajectories between them visit."""
    table = torch.full(shape, torch.nan, dtype=torch.float64)
    chosen = rows >= 0
    table[rows[chosen], tokens[chosen]] = logp[chosen]
    return table


def _trajectory(listing: Listing, rows: Tensor, place: int) -> Document:
    batch = listing.batch
    width = int(batch.response[place].sum())
    found: Document = {
        "prompt": int(batch.prompt[place]),
        "tokens": batch.tokens[place, :width].tolist(),
        "mask": batch.mask[place, :width].tolist(),
        "rows": rows[place, :width].tolist(),
        "atoms": {name: value[place, :width].tolist() for name, value in listing.atoms.items()},
        "reward": float(batch.reward[place]),
        "truncated": bool(batch.truncated[place]),
        "value": batch.column("value")[place, :width].tolist(),
        "environment_logp": float(listing.environment_logp[place]),
        "probability": float(listing.probability[place]),
        "policy_probability": float(listing.policy_probability[place]),
    }
    if batch.turns is not None:
        own = batch.turns.sequence == place
        names = ("start", "end", "reward", "anchor")
        found["turns"] = {name: getattr(batch.turns, name)[own].tolist() for name in names}
    return found


def _moments(found: Moments) -> Document:
    (mean, covariance), trace = found.law(), float(found.trace[0, 0])
    square = float(mean @ mean)
    return {
        "mean": mean.tolist(), "covariance": covariance.tolist(), "trace": trace,
        "b_simple": trace / square if square > 0 else None,
        "types": list(found.types), "count_vectors": found.count_vectors,
    }  # fmt: skip
