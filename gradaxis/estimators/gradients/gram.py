"""Inner products of the gradients of all (sequence, pattern) pairs: all that probes need of gradients.

Letters: N sequences, B patterns, R = N·B rows, L directions, D sketch columns.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators.gradients.patterns import Patterns
from gradaxis.estimators.gradients.self_test import self_test
from gradaxis.estimators.gradients.work import Found, GramWork
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.micro_batches import ran_out_of_memory

Mode = Literal["auto", "exact", "projected"]
Directions = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Gram:
    """Inner products over all selected parameters. Row i·B + b is pattern b of sequence i; padding rows are zero.

    `matrix` [R, R], `directions` [R, L] (inner products with the given directions, always exact) and `direction_gram`
    [L, L] are float64. `energy` maps each parameter to the squared norm of every row's gradient in it [R], always
    exact. Where `exact` is false the matrix is estimated without bias from `columns` sketch columns, and
    `relative_error` is the standard error of a squared norm, √(2/D); that of ⟨u, v⟩ is at most |u| |v| √((1 + cos²)/D).
    `covered` names the parameters, `slow` those of them that needed a backward pass a sequence.
    """

    matrix: Tensor
    directions: Tensor
    direction_names: tuple[str, ...]
    direction_gram: Tensor
    energy: Mapping[str, Tensor]
    exact: bool
    columns: int | None
    relative_error: float
    covered: tuple[str, ...]
    slow: tuple[str, ...]


def compute_gram(
    policy: HuggingFacePolicy,
    batch: RolloutBatch,
    patterns: Patterns,
    mode: Mode = "auto",
    columns: int = 8192,
    generator: torch.Generator | None = None,
    directions: Directions | None = None,
    test: bool = True,
    memory: int | None = None,
    micro_batch: int | None = None,
    recompute: bool | None = None,
) -> Gram:
    """The Gram matrix of the gradients of all (sequence, pattern) pairs.

    Exact needs all R rows in one backward pass. Projected goes through the sequences in micro-batches, one pattern a
    backward pass, and keeps D columns a row.

    Args:
        policy: at whose selected parameters gradients are taken.
        batch: the responses, N.
        patterns: of the same N sequences.
        mode: `auto` is exact where memory and work allow, else projected.
        columns: D.
        generator: of the projection; not used where the result is exact.
        directions: name to a vector in parameter space (parameter name to tensor), such as the exact ∇J.
        test: compare the backend with plain autograd first (`self_test`).
        memory: bytes that may be used; by default most of what is free.
        micro_batch: sequences a pass, projected only.
        recompute: whether layers run again in the backward pass to save memory, exact only; by default as needed.

    Raises:
        InputError: patterns or directions that do not fit the batch or the policy, or no generator for a projection.
        GradaxisError: the backend disagrees with autograd, or memory runs out in a mode that was asked for.
    """
    _check(policy, batch, patterns, mode, columns, directions)
    named = _on_device(directions or {}, policy)
    work = GramWork(policy, batch, patterns, list(named.values()), memory)
    exact = mode == "exact" or (mode == "auto" and work.exact_fits())
    if not exact and generator is None:
        raise InputError("generator", "None", "a torch.Generator", "A projection is random; mode='exact' needs none")
    if test:
        self_test(policy, batch, patterns, None if exact else columns, generator)
    if exact:
        try:
            return _gram(policy, named, work.exact(recompute), None)
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            if mode == "exact" or generator is None:
                remedy = "use mode projected, fewer sequences or shorter answers"
                raise GradaxisError(f"out of memory with {work.rows} gradients in one pass; {remedy}") from error
        warnings.warn("out of memory: the Gram matrix is projected instead of exact", stacklevel=2)
    assert generator is not None
    return _gram(policy, named, work.projected(columns, generator, micro_batch), columns)


def _gram(policy: HuggingFacePolicy, named: Directions, found: Found, columns: int | None) -> Gram:
    names = tuple(policy.parameters())
    missing = [name for name in names if name not in found.energy]
    if missing and bool(found.matrix.ne(0).any()):
        raise GradaxisError(f"no gradients were formed for {', '.join(missing[:4])}; this is a fault, please report it")
    among = found.matrix.new_zeros(len(named), len(named))
    for i, left in enumerate(named.values()):
        for j, right in enumerate(named.values()):
            among[i, j] = torch.stack([(left[name] * right[name]).sum(dtype=torch.float64) for name in names]).sum()
    return Gram(
        matrix=found.matrix, directions=found.directions, direction_names=tuple(named), direction_gram=among,
        energy=found.energy, exact=columns is None, columns=columns,
        relative_error=0.0 if columns is None else math.sqrt(2 / columns), covered=names, slow=found.slow,
    )  # fmt: skip


def _on_device(directions: Directions, policy: HuggingFacePolicy) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: value.detach().to(policy.device) for key, value in vector.items()}
        for name, vector in directions.items()
    }


def _check(
    policy: HuggingFacePolicy,
    batch: RolloutBatch,
    patterns: Patterns,
    mode: str,
    columns: int,
    directions: Directions | None,
) -> None:
    got, expected = (len(patterns.vectors), patterns.vectors.shape[3]), tuple(batch.tokens.shape)
    if got != expected:
        raise InputError("patterns", f"sequences and positions {got}", f"those of the batch, {expected}")
    if mode not in ("auto", "exact", "projected"):
        raise InputError("mode", repr(mode), "auto, exact or projected")
    if columns < 1:
        raise InputError("columns", str(columns), "one or more")
    for name, vector in (directions or {}).items():
        for key, value in policy.parameters().items():
            if key not in vector or vector[key].shape != value.shape:
                found = "nothing" if key not in vector else f"shape {tuple(vector[key].shape)}"
                raise InputError(f"direction {name!r}", f"{found} for {key}", f"a tensor of shape {tuple(value.shape)}")
