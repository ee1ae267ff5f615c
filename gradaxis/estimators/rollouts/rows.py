"""Between a rollout batch and plain rows: one row a sequence, lists for what is per token or per turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch, Turns

MAIN = "rollout"
"""The role of the rows that are no companion's."""

COLUMNS = ("prompt", "prompt_text", "prompt_tokens", "group", "rewards", "truncated", "tokens", "mask", "completion")
"""The columns that every file has."""

_TURN = ("turn_start", "turn_end", "turn_reward", "turn_anchor")
_OPTIONAL = ("role", "trajectory", "policy_version", "prompt_data", *_TURN)
_LABEL = "label_"

Rows = Mapping[str, Sequence[Any]]


def rows_from_batch(batch: RolloutBatch, role: str) -> dict[str, Any]:
    """The rows of one batch, companions left out. A token column is a pair (lists, dtype).

    Raises InputError when a response does not start at the first position or has a hole.
    """
    lengths = batch.response.sum(dim=1)
    positions = torch.arange(batch.tokens.shape[1], device=batch.device)
    if not bool((batch.response == (positions < lengths.unsqueeze(1))).all()):
        raise InputError("response", "responses with holes or padding in front", "right-padded responses")
    counts = lengths.tolist()
    prompts = [batch.prompts[number] for number in batch.prompt.tolist()]
    rows: dict[str, Any] = {
        "role": [role] * batch.size,
        "prompt": batch.prompt.tolist(),
        "prompt_text": [prompt.text for prompt in prompts],
        "prompt_tokens": [list(prompt.tokens) for prompt in prompts],
        "prompt_data": [json.dumps(dict(prompt.data), default=str) for prompt in prompts],
        "group": batch.group.tolist(),
        "trajectory": batch.trajectory.tolist(),
        "rewards": (batch.rewards.tolist(), batch.rewards.dtype),
        "truncated": batch.truncated.tolist(),
        "policy_version": batch.policy_version.tolist(),
        "completion": list(batch.completions),
        "tokens": _cut(batch.tokens, counts),
        "mask": _cut(batch.mask, counts),
    }
    for name, values in batch.labels.items():
        rows[_LABEL + name] = list(values)
    for name, column in batch.columns.items():
        rows[name] = (_cut(column, counts), column.dtype)
    if batch.turns is not None:
        sizes = torch.bincount(batch.turns.sequence, minlength=batch.size).tolist()
        for name in ("start", "end", "anchor"):
            rows[f"turn_{name}"] = _split(getattr(batch.turns, name), sizes)
        rows["turn_reward"] = (_split(batch.turns.reward, sizes), batch.turns.reward.dtype)
    return rows


def batch_from_rows(
    rows: Rows, dtypes: Mapping[str, torch.dtype], described: Mapping[str, Mapping[str, Any]], source: str
) -> RolloutBatch:
    """The batch with its companions.

    Args:
        rows: columns by name, those of COLUMNS among them; None stands for absent.
        dtypes: the precision of each column of numbers.
        described: by role, `reward_names`, `missing`, `provenance` and `filler`.
        source: the file, for messages.

    Raises:
        InputError: a role that is not described, or lists whose lengths differ.
    """
    size = len(rows["prompt"])
    roles = rows.get("role", [MAIN] * size)
    for role in dict.fromkeys(roles):
        if role not in described:
            raise InputError(
                f"{source}: column 'role'", repr(role), f"one of {', '.join(described)}, as the metadata says"
            )
    if MAIN not in roles:
        raise InputError(
            f"{source}: column 'role'", f"only {', '.join(sorted(set(roles)))}", f"rows of the role {MAIN!r}"
        )
    numbers = {number: place for place, number in enumerate(sorted(set(rows["prompt"])))}
    prompts = _read_prompts(rows, numbers)
    parts = {}
    for role, about in described.items():
        chosen = [i for i in range(size) if roles[i] == role]
        if not chosen:
            continue
        own = {name: [values[i] for i in chosen] for name, values in rows.items()}
        parts[role] = _read_role(own, chosen, dtypes, about, prompts, numbers, source)
    main = parts.pop(MAIN)
    return replace(main, companions=parts)


def _read_prompts(rows: Rows, numbers: Mapping[int, int]) -> tuple[Prompt, ...]:
    found: dict[int, Prompt] = {}
    data = rows.get("prompt_data", [None] * len(rows["prompt"]))
    for number, text, tokens, json_text in zip(
        rows["prompt"], rows["prompt_text"], rows["prompt_tokens"], data, strict=True
    ):
        found.setdefault(numbers[number], Prompt(text, tuple(tokens), json.loads(json_text) if json_text else {}))
    return tuple(found[place] for place in range(len(numbers)))


def _read_role(
    rows: Rows, places: Sequence[int], dtypes: Mapping[str, torch.dtype], about: Mapping[str, Any],
    prompts: tuple[Prompt, ...], numbers: Mapping[int, int], source: str,
) -> RolloutBatch:  # fmt: skip
    counts = [len(tokens) for tokens in rows["tokens"]]
    width = max(counts, default=0)

    def pad(name: str, filler: Any, dtype: torch.dtype) -> Tensor:
        for place, values, count in zip(places, rows[name], counts, strict=True):
            if values is None or len(values) != count:
                got = "nothing" if values is None else f"{len(values)} values"
                raise InputError(f"{source}: column {name!r}, row {place}", got, f"{count}, one for each token")
        lists = [[*values, *[filler] * (width - len(values))] for values in rows[name]]
        return torch.tensor(lists, dtype=dtype).reshape(len(lists), width)

    def integers(name: str, default: Sequence[int]) -> Tensor:
        return torch.tensor(rows.get(name, default), dtype=torch.int64)

    names = tuple(about["reward_names"])
    for place, rewards in zip(places, rows["rewards"], strict=True):
        if rewards is None or len(rewards) != len(names):
            got = "nothing" if rewards is None else f"{len(rewards)} rewards"
            raise InputError(f"{source}: column 'rewards', row {place}", got, f"{len(names)} ({', '.join(names)})")
    core = {*COLUMNS, *_OPTIONAL}
    others = [name for name in rows if name not in core and any(values is not None for values in rows[name])]
    size = len(places)
    return RolloutBatch(
        prompts=prompts,
        prompt=torch.tensor([numbers[number] for number in rows["prompt"]], dtype=torch.int64),
        group=integers("group", ()),
        trajectory=integers("trajectory", places),
        rewards=torch.tensor(rows["rewards"], dtype=dtypes["rewards"]).reshape(size, len(names)),
        reward_names=names,
        truncated=torch.tensor(rows["truncated"], dtype=torch.bool),
        policy_version=integers("policy_version", [0] * size),
        tokens=pad("tokens", about.get("filler", 0), torch.int64),
        mask=pad("mask", False, torch.bool),
        response=(torch.arange(width) < torch.tensor(counts, dtype=torch.int64).unsqueeze(1)),
        completions=tuple(rows["completion"]),
        columns={name: pad(name, 0.0, dtypes[name]) for name in others if not name.startswith(_LABEL)},
        turns=_read_turns(rows, places, dtypes, source),
        labels={name.removeprefix(_LABEL): tuple(rows[name]) for name in others if name.startswith(_LABEL)},
        missing=dict(about["missing"]),
        provenance=dict(about["provenance"]),
    )


def _read_turns(rows: Rows, places: Sequence[int], dtypes: Mapping[str, torch.dtype], source: str) -> Turns | None:
    given = [name for name in _TURN if name in rows and any(values is not None for values in rows[name])]
    if not given:
        return None
    if len(given) < len(_TURN):
        lacking = ", ".join(name for name in _TURN if name not in given)
        raise InputError(f"{source}: turns", f"{', '.join(given)} without {lacking}", "all four columns, or none")
    sequence: list[int] = []
    for row, (place, *lists) in enumerate(zip(places, *(rows[name] for name in _TURN), strict=True)):
        sizes = {len(values or ()) for values in lists}
        if len(sizes) != 1:
            raise InputError(f"{source}: turns, row {place}", f"lists of {', '.join(map(str, sorted(sizes)))} turns",
                             "lists of one length")  # fmt: skip
        sequence += [row] * sizes.pop()
    flat = {name: [value for values in rows[name] for value in values or ()] for name in _TURN}
    whole = {name: torch.tensor(flat[name], dtype=torch.int64) for name in ("turn_start", "turn_end", "turn_anchor")}
    reward = torch.tensor(flat["turn_reward"], dtype=dtypes["turn_reward"])
    return Turns(
        torch.tensor(sequence, dtype=torch.int64), whole["turn_start"], whole["turn_end"], reward, whole["turn_anchor"]
    )


def _cut(values: Tensor, counts: Sequence[int]) -> list[list[Any]]:
    return [row[:count] for row, count in zip(values.tolist(), counts, strict=True)]


def _split(values: Tensor, sizes: Sequence[int]) -> list[list[Any]]:
    return [part.tolist() for part in values.split(list(sizes))]
