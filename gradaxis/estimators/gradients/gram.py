"""Inner products of the gradients of all (sequence, pattern) pairs: all that probes need of gradients.

Letters: N sequences, B patterns, R = N·B rows, L directions, D sketch columns.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators.gradients.choice import Choice, choose
from gradaxis.estimators.gradients.metric import square_roots, weigh
from gradaxis.estimators.gradients.patterns import Patterns
from gradaxis.estimators.gradients.self_test import self_test
from gradaxis.estimators.gradients.unit_sums import ByParameter, Units
from gradaxis.estimators.gradients.work import Found, GramWork
from gradaxis.estimators.memory import too_little
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
    `covered` names the parameters, `slow` those of them that needed a backward pass a sequence. `choice` tells which
    way was taken and why. `by_parameter` holds, for each parameter and each set of unit gradients that was asked for,
    Σ_j |u_j|² and |Σ_j u_j|² in that parameter: exact where the matrix is, else from sketches, with the reason in
    `no_units` where there was no memory for them.
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
    choice: Choice
    by_parameter: ByParameter = field(default_factory=dict)
    no_units: str = ""


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
    units: Units | None = None,
    metric: Mapping[str, Tensor] | None = None,
) -> Gram:
    """The Gram matrix of the gradients of all (sequence, pattern) pairs.

    Exact needs all R rows in one backward pass. Projected goes through the sequences in micro-batches, one pattern a
    backward pass, and keeps D columns a row.

    Args:
        policy: at whose selected parameters gradients are taken.
        batch: the responses, N.
        patterns: of the same N sequences.
        mode: `auto` is exact where memory and estimated work allow, else projected.
        columns: D.
        generator: of the projection; not used where the result is exact.
        directions: name to a vector in parameter space (parameter name to tensor), such as the exact ∇J.
        test: compare the backend with plain autograd first (`self_test`).
        memory: bytes that may be used beside what is in use; by default what the policy's own limit leaves, or most of
            what is free.
        micro_batch: most sequences a pass, projected only.
        recompute: whether all layers run again in the backward pass to save memory, exact only; by default as many as
            needed.
        units: name to weights [n, N·B] (a sparse matrix of scipy, an array or a tensor) of unit gradients whose part in
            each parameter is wanted.
        metric: weights w of ⟨u, v⟩ = Σ w u v by parameter, such as 1 / (√v̂ + ε) of Adam; all products, energies and
            directions are in it. By default all are 1.

    Raises:
        InputError: patterns, directions, units or a metric that do not fit the batch or the policy, no generator for a
            projection, or memory that was limited to less than one sequence needs.
        GradaxisError: the backend disagrees with autograd, or memory runs out in a mode that was asked for.
    """
    _check(policy, batch, patterns, mode, columns, directions)
    roots = None if metric is None else square_roots(metric, policy.parameters())
    named = {name: weigh(vector, roots) for name, vector in _on_device(directions or {}, policy).items()}
    work = GramWork(policy, batch, patterns, list(named.values()), memory, columns, micro_batch, units, roots)
    chosen, why = choose(mode, work.shape, work.problem, work.exact_way, work.projected_way, work.memory)
    if chosen == "projected" and generator is None:
        raise InputError("generator", "None", "a torch.Generator", "A projection is random; mode='exact' needs none")
    _check_memory(policy, work, chosen, memory)
    if test:
        test_columns = None if chosen == "exact" else columns
        self_test(policy, batch, patterns, test_columns, generator, work.memory)
        if roots is not None:  # beside the plain one, since large weights on a few values would hide all others
            self_test(policy, batch, patterns, test_columns, generator, work.memory, roots)
    if chosen == "exact":
        try:
            return _gram(policy, named, work, work.exact(recompute), _choice(work, patterns, None, why))
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            if mode == "exact" or generator is None:
                remedy = "use mode projected, fewer sequences or shorter answers"
                raise GradaxisError(f"out of memory with {work.rows} gradients in one pass; {remedy}") from error
        why = "memory ran out on the exact way"
        warnings.warn("out of memory: the Gram matrix is projected instead of exact", stacklevel=2)
    assert generator is not None
    return _gram(policy, named, work, work.projected(generator), _choice(work, patterns, columns, why))


def _check_memory(policy: HuggingFacePolicy, work: GramWork, chosen: str, memory: int | None) -> None:
    """Refuse what cannot stay within a limit that was given; without one, estimates are not held against the user."""
    way = work.exact_way if chosen == "exact" else work.projected_way
    if way.bytes <= work.memory or (memory is None and policy.memory is None):
        return
    what = "one sequence" if chosen == "projected" else f"{work.rows} gradients in one pass (mode exact)"
    limit = policy.memory if memory is None and policy.memory is not None else work.memory
    raise too_little(limit, limit - work.memory, way.bytes, what)


def _choice(work: GramWork, patterns: Patterns, columns: int | None, why: str) -> Choice:
    return Choice(
        mode="exact" if columns is None else "projected", why=why, exact=work.exact_way,
        projected=work.projected_way, memory=work.memory, recomputed=work.recomputed, micro_batch=work.micro_batch,
        patterns=work.problem.patterns, mean_rank=float(patterns.rank.double().mean()), tolerance=patterns.tolerance,
        columns=columns, relative_error=0.0 if columns is None else math.sqrt(2 / columns),
    )  # fmt: skip


def _gram(policy: HuggingFacePolicy, named: Directions, work: GramWork, found: Found, choice: Choice) -> Gram:
    names = tuple(policy.parameters())
    missing = [name for name in names if name not in found.energy]
    if missing and bool(found.matrix.ne(0).any()):
        raise GradaxisError(f"no gradients were formed for {', '.join(missing[:4])}; this is a fault, please report it")
    among = found.matrix.new_zeros(len(named), len(named))
    for i, left in enumerate(named.values()):
        for j, right in enumerate(named.values()):
            among[i, j] = torch.stack([(left[name] * right[name]).sum(dtype=torch.float64) for name in names]).sum()
    no_units = "" if work.told_units else "no memory is left for the sketches of unit gradients"
    return Gram(
        matrix=found.matrix, directions=found.directions, direction_names=tuple(named), direction_gram=among,
        energy=found.energy, exact=choice.columns is None, columns=choice.columns,
        relative_error=choice.relative_error, covered=names, slow=found.slow, choice=choice,
        by_parameter=found.by_parameter, no_units=no_units,
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
