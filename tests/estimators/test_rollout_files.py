"""Rollout files: what is written is read back, and what is wrong with a file is said with its place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators import compile, contract_batch
from gradaxis.estimators.rollouts import RolloutBatch, check_batch, read_rollouts, write_rollouts
from gradaxis.taxonomy import Registry

PER_TOKEN = ("tokens", "mask", "logp", "old_logp", "behavior_logp", "ref_logp", "teacher_logp", "value", "entropy")


def assert_same(one: RolloutBatch, other: RolloutBatch) -> None:
    """All that a batch says, over the positions that its responses cover."""
    width = int(one.response.sum(dim=1).max())
    for name in ("prompt", "group", "trajectory", "rewards", "truncated", "policy_version"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("tokens", "mask", "response"):
        assert torch.equal(getattr(one, name)[:, :width], getattr(other, name)), name
    assert set(one.columns) == set(other.columns)
    for name, column in one.columns.items():
        assert other.columns[name].dtype == column.dtype
        seen = [torch.where(one.response[:, :width], c[:, :width], 0.0) for c in (column, other.columns[name])]
        torch.testing.assert_close(*seen, rtol=0, atol=0, equal_nan=True)
    for name in ("prompts", "reward_names", "completions", "labels", "missing", "provenance"):
        assert getattr(one, name) == getattr(other, name), name
    assert (one.turns is None) == (other.turns is None)
    if one.turns is not None and other.turns is not None:
        for name in ("sequence", "start", "end", "reward", "anchor"):
            assert torch.equal(getattr(one.turns, name), getattr(other.turns, name)), name
    assert set(one.companions) == set(other.companions)
    for role, companion in one.companions.items():
        assert_same(companion, other.companions[role])


@pytest.fixture
def batch() -> RolloutBatch:
    batch = contract_batch()
    tokens = torch.where(batch.response, batch.tokens, 11)
    return replace(batch, tokens=tokens, labels={"source": ("policy", "expert", "π'\"\n") * 7},
                   missing={"judge_logp": "nobody judged"})  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_trip(batch: RolloutBatch, dtype: torch.dtype, tmp_path: Path) -> None:
    batch = batch.to(dtype=dtype)
    assert_same(batch, read_rollouts(write_rollouts(batch, tmp_path / "deep" / "rollouts.parquet")))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["rollouts.parquet"]


@pytest.mark.parametrize("seed", range(3))
def test_round_trip_of_ragged_batches(
    seed: int, tmp_path: Path, ragged_batch: Callable[..., RolloutBatch], registry: Registry
) -> None:
    """NaN off the mask survives, and so do the coefficients."""
    batch = ragged_batch(seed)
    again = read_rollouts(write_rollouts(batch, tmp_path / "x.parquet"))
    estimator = compile("gigpo", registry=registry)
    width = again.tokens.shape[1]
    assert estimator.coefficients(batch).total["logp"][:, :width].equal(estimator.coefficients(again).total["logp"])


def test_rows_in_another_order_keep_their_turns(batch: RolloutBatch, tmp_path: Path) -> None:
    picked = batch.rows([13, 0, 13, 7])
    again = read_rollouts(write_rollouts(picked, tmp_path / "x.parquet"))
    assert again.turns is not None
    assert batch.turns is not None
    for row, original in enumerate([13, 0, 13, 7]):
        mine, theirs = again.turns.sequence == row, batch.turns.sequence == original
        assert again.turns.reward[mine].equal(batch.turns.reward[theirs])
    assert [prompt.text for prompt in again.prompts] == [prompt.text for prompt in batch.prompts]


def test_columns_that_only_the_rollouts_have(batch: RolloutBatch, tmp_path: Path) -> None:
    assert set(batch.companions["greedy"].columns) == set()
    again = read_rollouts(write_rollouts(batch, tmp_path / "x.parquet"))
    assert again.companions["greedy"].columns == {}
    assert again.companions["greedy"].turns is None


def edited(path: Path, change: Callable[[dict[str, list[Any]]], None]) -> Path:
    """The file with its rows changed as Python lists; types and metadata are kept."""
    table = pq.read_table(path)
    rows = table.to_pydict()
    change(rows)
    fields = [field for field in table.schema if field.name in rows]
    pq.write_table(pa.table(rows, schema=pa.schema(fields, metadata=table.schema.metadata)), path)
    return path


@pytest.fixture
def path(batch: RolloutBatch, tmp_path: Path) -> Path:
    return write_rollouts(batch, tmp_path / "rollouts.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop("mask"), r"rollouts\.parquet: column 'mask'"),
        (lambda rows: rows["rewards"].__setitem__(3, [float("nan")]), r"rewards, row 3.*NaN"),
        (lambda rows: rows["rewards"].__setitem__(3, [1.0, 2.0]), r"'rewards', row 3: got 2 rewards, expected 1"),
        (lambda rows: rows["mask"].__setitem__(2, [False]), r"completion, row 2.*no policy token"),
        (lambda rows: [rows[name].__setitem__(2, []) for name in PER_TOKEN], r"completion, row 2.*no policy token"),
        (lambda rows: rows["old_logp"].__setitem__(5, [-1.0]), r"'old_logp', row 5: got 1 values, expected 5"),
        (lambda rows: rows["old_logp"].__setitem__(5, None), r"'old_logp', row 5: got nothing"),
        (lambda rows: rows["old_logp"][5].__setitem__(0, float("-inf")), r"'old_logp', row 5: got NaN or infinity"),
        (lambda rows: rows["old_logp"][5].__setitem__(0, 0.5), r"'old_logp', row 5: got a value above 0"),
        (lambda rows: rows["role"].__setitem__(0, "nobody"), r"'role': got 'nobody'"),
        (lambda rows: rows.__setitem__("role", ["greedy"] * len(rows["role"])), r"'role': got only greedy"),
        (lambda rows: rows.pop("turn_anchor"), r"turns: got turn_start, turn_end, turn_reward without turn_anchor"),
        (lambda rows: rows["turn_start"].__setitem__(4, [0, 1]), r"turns, row 4: got lists of 1, 2 turns"),
        (lambda rows: rows["turn_end"][4].__setitem__(0, 9), r"turns, row 4.*outside its response"),
        (lambda rows: rows["turn_end"][4].__setitem__(0, 2), r"turns, row 4: got policy tokens outside every turn"),
        (lambda rows: rows["turn_reward"][4].__setitem__(0, float("nan")), r"turns, row 4: got a reward of NaN"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(path: Path, change: Callable[[dict[str, list[Any]]], None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_rollouts(edited(path, change))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no entry 'gradaxis'"),
        ({"schema_version": 99, "roles": {}}, "schema version 99, expected 1"),
        ({"roles": {}}, "does not parse"),
    ],
)
def test_other_schema_versions_are_refused(path: Path, metadata: dict[str, Any] | None, message: str) -> None:
    table = pq.read_table(path).replace_schema_metadata({b"gradaxis": json.dumps(metadata)} if metadata else None)
    pq.write_table(table, path)
    with pytest.raises(InputError, match=message):
        read_rollouts(path)


def test_optional_columns_have_stated_defaults(path: Path) -> None:
    def change(rows: dict[str, list[Any]]) -> None:
        keep = [i for i, role in enumerate(rows["role"]) if role == "rollout"]
        for name in rows:
            rows[name] = [rows[name][i] for i in keep]
        for name in ("role", "trajectory", "policy_version", "prompt_data"):
            rows.pop(name)

    again = read_rollouts(edited(path, change))
    assert again.trajectory.tolist() == list(range(21))
    assert again.policy_version.tolist() == [0] * 21
    assert again.companions == {}


def test_a_group_of_one_and_equal_rewards_are_fine(batch: RolloutBatch, tmp_path: Path) -> None:
    alone = batch.rows([0, 4, 5, 6])
    again = read_rollouts(write_rollouts(alone, tmp_path / "x.parquet"))
    assert again.group.tolist() == [0, 1, 1, 1]


def test_no_file_and_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_rollouts(tmp_path / "nothing.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_text("this is not Parquet", encoding="utf-8")
    with pytest.raises(InputError, match="not readable as Parquet"):
        read_rollouts(broken)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    batch: RolloutBatch, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step before the move fails as it does on a full disk."""
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GradaxisError, match="No space left"):
        write_rollouts(batch.rows([0, 1]), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_responses_with_holes_are_refused(batch: RolloutBatch, tmp_path: Path) -> None:
    response = batch.response.clone()
    response[3, 2] = False
    with pytest.raises(InputError, match="holes"):
        write_rollouts(replace(batch, response=response, turns=None), tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"group": b.group[:3]}, r"group: got shape \(3,\), expected shape \(21,\)"),
        (lambda b: {"completions": ("one",)}, "completions: got 1 texts"),
        (lambda b: {"prompt": b.prompt + 1}, "prompt: got numbers 1 to 6"),
        (lambda b: {"columns": {"logp": b.columns["logp"][:, :2]}}, r"column 'logp': got shape \(21, 2\)"),
        (lambda b: {"mask": b.mask | True}, "a policy token outside the response"),
        (lambda b: {"turns": replace(b.turns, sequence=b.turns.sequence.flip(0))}, "turns, row"),
    ],
)
def test_batches_that_contradict_themselves(
    batch: RolloutBatch, change: Callable[[Any], dict[str, Any]], message: str
) -> None:
    check_batch(batch)
    with pytest.raises(InputError, match=message):
        check_batch(replace(batch, **change(batch)))
