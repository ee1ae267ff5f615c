"""Rollouts as Parquet files: one row a sequence, list columns for its tokens, companions as rows with another role.

The schema version and what belongs to the batch as a whole (reward names, reasons for absent columns, provenance) stand
in the file's metadata under the key `gradaxis`, as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.checks import check_batch
from gradaxis.estimators.rollouts.rows import COLUMNS, MAIN, batch_from_rows, rows_from_batch

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
_KEY = b"gradaxis"


def write_rollouts(batch: RolloutBatch, path: str | Path) -> Path:
    """Write a batch with its companions and turns. The file is complete or not there at all.

    Token columns keep their precision (float32 or float64; others are widened to float32). Positions behind a response
    are not stored.

    Raises:
        InputError: the batch is not valid (see `check_batch`), a response has holes, or a companion has companions.
        GradaxisError: the file cannot be written, for instance because the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    check_batch(batch)
    parts = {MAIN: batch, **batch.companions}
    tables, described = [], {}
    for role, part in parts.items():
        if role != MAIN and part.companions:
            raise InputError(f"companion {role!r}", "companions of its own", "none")
        tables.append(pa.table(_to_arrow(rows_from_batch(part, role))))
        described[role] = {
            "reward_names": list(part.reward_names), "missing": dict(part.missing), "provenance": dict(part.provenance),
            "filler": _find_filler(part),
        }  # fmt: skip
    table = pa.concat_tables(tables, promote_options="default")
    metadata = {"schema_version": SCHEMA_VERSION, "roles": described}
    table = table.replace_schema_metadata({_KEY: json.dumps(metadata, default=_refuse).encode()})
    _write_atomically(lambda target: pq.write_table(table, target, compression="zstd"), path)
    return path


def read_rollouts(path: str | Path, device: str | torch.device = "cpu") -> RolloutBatch:
    """Read a file that `write_rollouts` made, or one of the same columns and metadata.

    Prompts are numbered anew, in the order of their numbers in the file, over all roles together. `role` (all rows are
    rollouts), `trajectory` (the row), `policy_version` (0) and `prompt_data` (empty) may be left out.

    Raises:
        InputError: no such file, no Parquet, another schema version, a missing column, lists whose lengths differ, or a
        value that `check_batch` refuses; each names the file, the column and the row.
    """
    path = Path(path)
    table = _open(path)
    described = _describe(table, path)
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r}", f"columns {', '.join(table.column_names)}",
                         f"the columns {', '.join(COLUMNS)}")  # fmt: skip
    rows = {name: table.column(name).to_pylist() for name in table.column_names}
    single = {name: _is_single(table.schema.field(name).type) for name in table.column_names}
    dtypes = {name: torch.float32 if narrow else torch.float64 for name, narrow in single.items()}
    batch = batch_from_rows(rows, dtypes, described, str(path))
    check_batch(batch, str(path))
    return batch.to(device)


def _to_arrow(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as arrow arrays; a tuple (values, dtype) is a list column of numbers in that precision."""
    import pyarrow as pa

    floats = {torch.float64: pa.float64()}
    arrays = {}
    for name, values in rows.items():
        if isinstance(values, tuple):
            values, dtype = values
            arrays[name] = pa.array(values, pa.list_(floats.get(dtype, pa.float32())))
        elif name in _LISTS:
            arrays[name] = pa.array(values, pa.list_(pa.bool_() if name == "mask" else pa.int64()))
        else:
            arrays[name] = pa.array(values)
    return arrays


_LISTS = frozenset({"prompt_tokens", "tokens", "mask", "turn_start", "turn_end", "turn_anchor"})


def _is_single(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) and pa.types.is_float32(kind.value_type)


def _open(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(str(path), "no such file", "a Parquet file of rollouts")
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            str(path), f"a file that is not readable as Parquet ({error})", "a Parquet file of rollouts"
        ) from error


def _describe(table: pa.Table, path: Path) -> dict[str, Any]:
    """What the metadata says about each role."""
    expected = f"schema version {SCHEMA_VERSION}"
    remedy = "Write the file with gradaxis.estimators.rollouts.write_rollouts of this version."
    found = (table.schema.metadata or {}).get(_KEY)
    if found is None:
        raise InputError(f"{path}: metadata", "no entry 'gradaxis'", expected, remedy)
    try:
        metadata = json.loads(found)
        version, roles = metadata["schema_version"], metadata["roles"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: metadata", "an entry that does not parse", expected, remedy) from error
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: metadata", f"schema version {version}", str(SCHEMA_VERSION), remedy)
    return roles


def _find_filler(batch: RolloutBatch) -> int:
    """The id that stands behind responses, 0 where all have one length."""
    behind = batch.tokens[~batch.response]
    return int(behind[0]) if behind.numel() else 0


def _refuse(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    raise InputError("provenance", f"a value of type {type(value).__name__}", "what JSON can hold")


def _write_atomically(write: Any, path: Path) -> None:
    """Write beside the target, flush to the disk, and move into place; leave nothing behind on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise GradaxisError(f"{path}: cannot be written ({error}); free space or choose another folder") from error
    finally:
        partial.unlink(missing_ok=True)
