"""Gram matrices on disk, with the patterns that their rows stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradaxis.diagnostics.build import GramNumbers
from gradaxis.diagnostics.storage import atomic_path
from gradaxis.estimators.gradients import Gram, Patterns


def write_gram(path: Path, gram: Gram, patterns: Patterns, numbers: dict[str, Any]) -> None:
    """Store a Gram matrix, its patterns, its directions and further plain numbers."""
    facts = {
        "exact": gram.exact, "columns": gram.columns, "relative_error": gram.relative_error,
        "parameters": len(gram.covered), "patterns": patterns.size, "slow": list(gram.slow),
        "quantities": list(patterns.quantities), "directions": list(gram.direction_names), "numbers": numbers,
    }  # fmt: skip
    arrays = {
        "matrix": gram.matrix, "along": gram.directions, "among": gram.direction_gram,
        "vectors": patterns.vectors, "rank": patterns.rank,
    }  # fmt: skip
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        stored: dict[str, Any] = {name: value.cpu().numpy() for name, value in arrays.items()}
        np.savez(file, facts=np.array(json.dumps(facts)), **stored)


def read_gram(path: Path) -> tuple[GramNumbers, Patterns, dict[str, Any]]:
    """What `write_gram` stored: the numbers, the patterns, and the facts."""
    with np.load(path, allow_pickle=False) as stored:
        facts = _facts_of(stored)
        numbers = GramNumbers(
            stored["matrix"], facts["exact"], tuple(facts["directions"]), stored["along"], stored["among"]
        )
        patterns = Patterns(
            torch.from_numpy(stored["vectors"]), tuple(facts["quantities"]), torch.from_numpy(stored["rank"])
        )
    return numbers, patterns, facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone; the matrix stays on disk."""
    with np.load(path, allow_pickle=False) as stored:
        return _facts_of(stored)


def _facts_of(stored: Any) -> dict[str, Any]:
    return json.loads(str(stored["facts"]))
