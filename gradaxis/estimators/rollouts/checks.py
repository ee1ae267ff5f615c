"""Checks of a rollout batch at public doors: shapes, finite numbers, and turns that fit."""

from __future__ import annotations

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import RolloutBatch

_TOLERANCE = 1e-3
"""Log-probabilities may exceed zero by this much, in nats: half precision rounds."""


def check_batch(batch: RolloutBatch, source: str = "rollouts") -> None:
    """Refuse a batch that would give a wrong number.

    Raises InputError, which names `source`, the column and the first row at fault, for: tensors whose lengths differ;
    rewards or token columns that are not finite at a policy token; log-probabilities above zero; a completion without
    policy tokens; turns outside their response, out of order, overlapping, or leaving policy tokens out. Groups of one
    and groups with equal rewards are fine: operators that need more say so themselves.
    """
    _check_shapes(batch, source)
    _check_rows(torch.isfinite(batch.rewards).all(dim=1), f"{source}: rewards", "NaN or infinity", "finite numbers",
                "Score the answer, or leave the row out.")  # fmt: skip
    _check_rows(batch.mask.any(dim=1), f"{source}: completion", "no policy token", "at least one",
                "The token that ends an answer is an action; leave out rows without any.")  # fmt: skip
    _check_rows(~(batch.mask & ~batch.response).any(dim=1), f"{source}: mask", "a policy token outside the response",
                "policy tokens inside it")  # fmt: skip
    for name, column in batch.columns.items():
        fine = torch.isfinite(column) | ~batch.mask
        _check_rows(
            fine.all(dim=1), f"{source}: column {name!r}", "NaN or infinity at a policy token", "finite numbers"
        )
        if name.endswith("logp"):
            fine = (column <= _TOLERANCE) | ~batch.mask
            _check_rows(fine.all(dim=1), f"{source}: column {name!r}", "a value above 0",
                        "log-probabilities in nats, at most 0")  # fmt: skip
    _check_turns(batch, source)
    for role, companion in batch.companions.items():
        check_batch(companion, f"{source}: companion {role!r}")


def _check_shapes(batch: RolloutBatch, source: str) -> None:
    size, shape = batch.size, tuple(batch.tokens.shape)
    expected = dict.fromkeys(("prompt", "group", "trajectory", "truncated", "policy_version"), (size,))
    expected |= {"mask": shape, "response": shape, "rewards": (size, len(batch.reward_names))}
    for name, wanted in expected.items():
        got = tuple(getattr(batch, name).shape)
        if got != wanted:
            raise InputError(f"{source}: {name}", f"shape {got}", f"shape {wanted}")
    for name, column in batch.columns.items():
        if tuple(column.shape) != shape:
            raise InputError(f"{source}: column {name!r}", f"shape {tuple(column.shape)}", f"shape {shape}")
    texts = {"completions": batch.completions, **{f"label {name!r}": values for name, values in batch.labels.items()}}
    for name, values in texts.items():
        if len(values) != size:
            raise InputError(f"{source}: {name}", f"{len(values)} texts", f"{size}, one for each sequence")
    if size and not 0 <= int(batch.prompt.min()) <= int(batch.prompt.max()) < len(batch.prompts):
        raise InputError(f"{source}: prompt", f"numbers {int(batch.prompt.min())} to {int(batch.prompt.max())}",
                         f"numbers of the {len(batch.prompts)} prompts, from 0")  # fmt: skip


def _check_turns(batch: RolloutBatch, source: str) -> None:
    turns = batch.turns
    if turns is None:
        return
    where = f"{source}: turns"
    sizes = {name: tuple(getattr(turns, name).shape) for name in ("sequence", "start", "end", "reward", "anchor")}
    if len(set(sizes.values())) != 1:
        raise InputError(where, ", ".join(f"{name} {size}" for name, size in sizes.items()), "tensors of one length")
    rows, (_, width) = turns.sequence, batch.tokens.shape
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < batch.size:
        raise InputError(where, f"sequences {int(rows.min())} to {int(rows.max())}", f"rows of {batch.size} sequences")
    fine = (turns.start >= 0) & (turns.end > turns.start) & (turns.end <= batch.response.sum(dim=1)[rows])
    _check_rows(
        fine,
        where,
        "an empty turn or one outside its response",
        "0 <= start < end <= length of the response",
        rows=rows,
    )
    together = rows[1:] == rows[:-1]
    fine = (rows[1:] > rows[:-1]) | (together & (turns.start[1:] >= turns.end[:-1]))
    _check_rows(
        fine, where, "turns out of order or overlapping", "turns in order of sequence and position", rows=rows[1:]
    )
    _check_rows(torch.isfinite(turns.reward), where, "a reward of NaN or infinity", "finite numbers", rows=rows)
    edges = torch.zeros(batch.size * (width + 1), dtype=torch.int64, device=batch.device)
    edges = edges.index_add(0, rows * (width + 1) + turns.start, torch.ones_like(rows))
    edges = edges.index_add(0, rows * (width + 1) + turns.end, -torch.ones_like(rows))
    inside = edges.reshape(batch.size, width + 1).cumsum(1)[:, :width] > 0
    _check_rows((inside | ~batch.mask).all(dim=1), where, "policy tokens outside every turn",
                "turns that hold every policy token")  # fmt: skip


def _check_rows(fine: Tensor, what: str, got: str, expected: str, remedy: str = "", rows: Tensor | None = None) -> None:
    """Raise InputError for the first entry that is not fine; `rows` gives the sequence of each entry."""
    if bool(fine.all()):
        return
    first = int((~fine).nonzero()[0, 0])
    row = first if rows is None else int(rows[first])
    raise InputError(f"{what}, row {row}", got, expected, remedy)
