"""Gram matrices on disk, with the patterns that their rows stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradaxis.diagnostics.complete import GramNumbers
from gradaxis.diagnostics.evidence import ByParameter
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.storage import atomic_path
from gradaxis.diagnostics.units import Key
from gradaxis.estimators.gradients import Gram, Patterns

SEPARATOR = "\t"
"""Between the two parts of a key in the name of a set of unit gradients; labels hold none."""


def write_gram(
    path: Path, gram: Gram, patterns: Patterns, numbers: dict[str, Any], inner_product: Mapping[str, Any]
) -> None:
    """Store a Gram matrix, its patterns, its directions, which inner product it is of, and further plain numbers."""
    facts = {
        "exact": gram.exact, "columns": gram.columns, "relative_error": gram.relative_error,
        "parameters": len(gram.covered), "patterns": patterns.size, "slow": list(gram.slow),
        "quantities": list(patterns.quantities), "directions": list(gram.direction_names), "numbers": numbers,
        "inner_product": dict(inner_product),
        "backend": gram.choice.facts(), "tolerance": patterns.tolerance, "no_layers": gram.no_units,
        "unit_parameters": list(gram.by_parameter),
        "units": [name.split(SEPARATOR) for name in next(iter(gram.by_parameter.values()), {})],
    }  # fmt: skip
    arrays = {
        "matrix": gram.matrix, "along": gram.directions, "among": gram.direction_gram,
        "vectors": patterns.vectors, "rank": patterns.rank,
    }  # fmt: skip
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        stored: dict[str, Any] = {name: value.cpu().numpy() for name, value in arrays.items()}
        sums = [list(of_units.values()) for of_units in gram.by_parameter.values()]
        stored["by_parameter"] = np.array(sums, dtype=np.float64)
        np.savez(file, facts=np.array(json.dumps(facts)), **stored)


def read_gram(path: Path) -> tuple[GramNumbers, Patterns, dict[str, Any]]:
    """What `write_gram` stored: the numbers, the patterns, and the facts."""
    with np.load(path, allow_pickle=False) as stored:
        facts = _facts_of(stored)
        numbers = GramNumbers(
            stored["matrix"], facts["exact"], tuple(facts["directions"]), stored["along"], stored["among"],
            _by_parameter(facts, stored["by_parameter"]), facts["no_layers"],
        )  # fmt: skip
        patterns = Patterns(
            torch.from_numpy(stored["vectors"]), tuple(facts["quantities"]), torch.from_numpy(stored["rank"]),
            facts["tolerance"],
        )  # fmt: skip
    return numbers, patterns, facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone; the matrix stays on disk."""
    with np.load(path, allow_pickle=False) as stored:
        return _facts_of(stored)


def names_of(units: Mapping[Key, Any]) -> dict[str, Any]:
    """Weights of unit gradients by a name instead of a key, as the backend takes them and this file stores them."""
    return {SEPARATOR.join(key): weights for key, weights in units.items()}


def _by_parameter(facts: Mapping[str, Any], values: Array) -> ByParameter:
    keys = [(label, part) for label, part in facts["units"]]
    return {
        parameter: {key: (float(each), float(whole)) for key, (each, whole) in zip(keys, sums, strict=True)}
        for parameter, sums in zip(facts["unit_parameters"], values, strict=True)
    }


def _facts_of(stored: Any) -> dict[str, Any]:
    return json.loads(str(stored["facts"]))
