"""Coefficients of many batches at once, each as if it were the only one.

A batch here is a table of trajectories, one in each of its S places, B groups of G. Calls of an estimator cost the same
for a few sequences and for thousands, so that tables are put behind one another wherever the method's couplings allow,
and taken apart again. Whether that was right is checked on tables that are evaluated alone.

Letters: R tables, S = B·G places, T response positions, M methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.compile import CompiledEstimator
from gradaxis.estimators.flow import evaluate_reward
from gradaxis.estimators.inputs import prepare
from gradaxis.estimators.operators import find_operator
from gradaxis.estimators.policies import Listing
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Placed

Read = Callable[[Tensor], dict[str, Tensor]]
"""From tables [R, S] to the coefficients of each quantity [R, S, T]."""

AGREE = 1e-9
"""How far coefficients may differ, relative to the largest: orders of summation differ, methods by much more."""


def choose_reading(estimator: CompiledEstimator, listing: Listing, group_size: int, tables: Tensor) -> Read:
    """The fastest way to read a method's coefficients that gives on these tables what they have alone.

    Args:
        estimator: the method.
        listing: whose trajectories stand in tables.
        group_size: G.
        tables: on which the ways are compared [R, S]; a few, of different kinds.

    Raises:
        InputError: the method says that it couples no more than groups, and other groups matter all the same.
    """
    alone = _one_by_one(estimator, listing, group_size)
    if len(tables) < 2:
        return alone
    coupled = estimator.couples == "batch"
    together = _side_by_side(estimator, listing, group_size) if coupled else _stacked(estimator, listing, group_size)
    if together is None:
        return alone
    expected, found = alone(tables), together(tables)
    if all(agree(found[name], expected[name]) for name in expected):
        return together
    if coupled:
        return alone
    raise InputError(
        estimator.label, "coefficients that depend on other groups of the batch",
        f"operators that couple no more than a {estimator.couples}, as they are declared",
        "Correct `couples` and `of_others` in the declarations of its operators",
    )  # fmt: skip


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors of coefficients are the same but for rounding."""
    size = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(((found - expected).abs() <= AGREE * size).all())


def _take(listing: Listing, tables: Tensor, group: Tensor) -> RolloutBatch:
    """The trajectories of tables as one batch, with a group number at every place."""
    rows = listing.batch.rows(tables.reshape(-1))
    return replace(rows, group=group.reshape(-1), trajectory=torch.arange(rows.size, device=rows.device),
                   provenance={**rows.provenance, "law": "iid"})  # fmt: skip


def _groups(tables: Tensor, group_size: int) -> Tensor:
    """The number of the group that each place of some tables lies in, all different, [R, S]."""
    return torch.arange(tables.numel(), device=tables.device).reshape(tables.shape) // group_size


def _apart(total: dict[str, Tensor], tables: Tensor) -> dict[str, Tensor]:
    return {name: value.reshape(*tables.shape, -1) for name, value in total.items()}


def _one_by_one(estimator: CompiledEstimator, listing: Listing, group_size: int) -> Read:
    def read(tables: Tensor) -> dict[str, Tensor]:
        group = _groups(tables[:1], group_size)
        found = [estimator.coefficients(_take(listing, table[None], group)).total for table in tables]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    return read


def _stacked(estimator: CompiledEstimator, listing: Listing, group_size: int) -> Read:
    """For methods that couple no more than groups: only the mean over sequences sees how many tables there are."""

    def read(tables: Tensor) -> dict[str, Tensor]:
        total = estimator.coefficients(_take(listing, tables, _groups(tables, group_size))).total
        return _apart({name: value * len(tables) for name, value in total.items()}, tables)

    return read


def _side_by_side(estimator: CompiledEstimator, listing: Listing, group_size: int) -> Read | None:
    """For methods that couple the batch: statistics over the batch become statistics over a table, and the divisor of
    the aggregation is asked for again for each table. None where the couplings are of other kinds."""
    method = estimator.method
    placed = [p for key, items in method.all_slots().items() for p in items if key != "sampling"]
    wide = any(p.over == "batch" for p in placed)
    counted = any(p.couples == "batch" for p in method.slots["selection"])
    elsewhere = any(
        p.couples == "batch" and p.over != "batch" and slot not in ("selection", "aggregation")
        for slot, items in method.all_slots().items() for p in items if slot != "sampling"
    )  # fmt: skip
    grouped = any(p.couples == "group" or ("peers" in p.declaration.reads and p.over != "batch") for p in placed)
    dividing = method.slots["aggregation"]
    if elsewhere or (wide and grouped) or (counted and not dividing):
        return None
    narrow = replace(estimator, method=_narrow(method)) if wide else estimator

    def read(tables: Tensor) -> dict[str, Tensor]:
        rows, places = tables.shape
        group = _groups(tables, places if wide else group_size)
        batch = _take(listing, tables, group)
        total = narrow.coefficients(batch).total
        factor = _divisors(narrow, dividing[0], batch, places) if dividing else float(rows)
        return _apart({name: value * factor for name, value in total.items()}, tables)

    return read


def _narrow(method: Method) -> Method:
    """The method whose statistics over the batch run over groups."""

    def narrowed(items: tuple[Placed, ...]) -> tuple[Placed, ...]:
        return tuple(replace(placed, over="group") if placed.over == "batch" else placed for placed in items)

    slots = {slot: narrowed(items) for slot, items in method.slots.items()}
    streams = {name: {slot: narrowed(items) for slot, items in slots.items()} for name, slots in method.streams.items()}
    return replace(method, slots=slots, streams=streams)


def _divisors(estimator: CompiledEstimator, placed: Placed, batch: RolloutBatch, places: int) -> Tensor:
    """By what the aggregation's coefficient of each sequence changes when its table is alone, [N, 1].

    The operator is called once for each table that differs from all others in what it reads.
    """
    columns = {name: batch.column(name) for name in estimator.quantities}
    inputs = prepare(batch, columns, estimator.quantities)
    method = estimator.method
    counted = evaluate_reward(method.slots, method.streams, inputs).counted
    weight = batch.mask.to(inputs.quantities["logp"].dtype)
    flowing = {"token_weight": weight, "counted": counted, "counted_tokens": batch.mask}
    given = [flowing[name] if name in flowing else inputs.read(name, placed) for name in placed.declaration.reads]
    function, size = find_operator(placed.operator), batch.size
    laid = [value.reshape(size // places, -1) for value in given if isinstance(value, Tensor) and len(value) == size]
    rows = torch.cat([value.double() for value in laid], dim=1).cpu().numpy()
    first_with: dict[bytes, int] = {}
    same = [first_with.setdefault(row.tobytes(), place) for place, row in enumerate(rows)]
    number = {place: index for index, place in enumerate(first_with.values())}

    def at(part: slice) -> Tensor:
        chosen = [value[part] if isinstance(value, Tensor) and len(value) == size else value for value in given]
        return function(*chosen, **placed.parameters)

    different = torch.stack([at(slice(place * places, (place + 1) * places)) for place in number])
    alone = different[[number[place] for place in same]].reshape(size, -1)
    together = at(slice(size))
    first = batch.mask.to(torch.int64).argmax(dim=1, keepdim=True)
    return alone.gather(1, first) / together.gather(1, first)
