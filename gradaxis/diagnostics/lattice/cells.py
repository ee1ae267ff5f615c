"""The gradients of all hybrids of all lattices, each once: many are shared between methods, and many coincide.

Letters: N sequences, T tokens, Q quantities, n units (prompts or groups), C distinct gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gradaxis.diagnostics.candidates import Candidate
from gradaxis.diagnostics.lattice.hybrids import Lattice, build_lattice, identify, identify_reward, mix
from gradaxis.diagnostics.lattice.leave_outs import LeaveOuts, total_of
from gradaxis.diagnostics.lattice.spans import express, extend
from gradaxis.diagnostics.lattice.unit_weights import Index, UnitWeights
from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.units import Groups
from gradaxis.diagnostics.variants import task_part
from gradaxis.errors import GradaxisError, MissingInputError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.estimators.gradients import Patterns
from gradaxis.estimators.quantities import QUANTITIES
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import Method, Registry

ROOT = "reinforce"
AFFORDABLE = 4e8
"""Tokens for which coefficients may be computed anew with a unit left out: half a minute or so."""

OUTSIDE = "its coefficients lie outside those of the methods and would need further backward passes"
TOO_OFTEN = "it couples the batch, and its coefficients would have to be computed anew too often"


@dataclass(frozen=True)
class Entry:
    """One gradient: its coefficients `total` [N, Q·T] and its units, prompts and, where they are wanted, groups."""

    total: Array
    coupled: bool
    prompts: UnitWeights
    groups: UnitWeights | None = None

    def rows(self) -> Array:
        """Everything that a unit is made of, [., N, Q·T]."""
        units = [one for one in (self.prompts, self.groups) if one is not None]
        return np.concatenate([self.total[None], *(one.own[None] for one in units), *(one.shared for one in units)])


@dataclass(frozen=True)
class Cell:
    """The numbers of two entries: of a hybrid's gradient, and of the part of it that declares no objective."""

    whole: int
    task: int


@dataclass(frozen=True)
class Unmade:
    """Why there is no lattice between a method and a base, and the inputs that it lacks."""

    method: str
    base: str
    reason: str
    needs: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class CellPlan:
    """`entries` are the distinct gradients, of the quantities `names`. `cells` are hybrids by name (`identify`),
    `skipped` those that are not measured, with the reason; `methods` are the names of the methods by label.
    """

    names: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    cells: Mapping[str, Cell] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)
    lattices: tuple[Lattice, ...] = ()
    unmade: tuple[Unmade, ...] = ()


def plan_cells(
    candidates: Mapping[str, Candidate], batch: RolloutBatch, registry: Registry, units: Index, groups: Groups | None,
    patterns: Patterns, tolerated: float, short: bool, by_group: bool, lattices: bool,
) -> tuple[CellPlan, Patterns]:  # fmt: skip
    """Coefficients of all hybrids with every unit left out, and patterns that span them.

    Args:
        units: the prompt of each sequence [N].
        groups: are units too, where every prompt has several.
        patterns: of the methods. tolerated: the largest part of coefficients that may lie outside.
        short: whether patterns may be added; else hybrids outside the span are skipped.
        by_group: whether each group may be left out in turn where a method couples the batch.
        lattices: whether hybrids are wanted; without them there are the methods alone.
    """
    found = _Hybrids(candidates, batch, registry)
    if lattices:
        for candidate in candidates.values():
            found.add_lattices(candidate)
    read = {name for estimator in found.estimators.values() for name in estimator.quantities}
    names = tuple(name for name in QUANTITIES if name in read)
    limit = np.inf if short else tolerated

    def inside(rows: Array) -> bool:
        return express(patterns, rows, names)[1] <= limit

    distinct, totals, cells, skipped = _distinct(found.estimators, registry, batch, names, inside)
    methods = {cells[name].whole for name in found.methods.values() if name in cells}
    by_groups = methods | {cell.task for cell in cells.values()}
    entries: dict[int, Entry] = {}
    dropped: dict[int, str] = {}
    work, prompts = 0.0, LeaveOuts(batch, units, 1.0 / (units.max() + 1))
    members = None if groups is None else LeaveOuts(batch, groups.units, groups.strata.share)
    # In an order in which the advantages without each unit are made once for each reward side.
    for number in sorted(range(len(distinct)), key=lambda number: identify_reward(distinct[number].method)):
        estimator, total = distinct[number], totals[number]
        coupled = estimator.couples == "batch"
        grouped = members is not None and number in by_groups and (by_group or not coupled)
        wanted = [prompts, members] if members is not None and grouped else [prompts]
        work += sum(one.work for one in wanted) if coupled else 0.0
        if work > AFFORDABLE:
            dropped[number] = TOO_OFTEN
            continue
        entry = Entry(total, coupled, *(one.units(estimator, total, names) for one in wanted))
        if inside(entry.rows()):
            entries[number] = entry
        else:
            dropped[number] = OUTSIDE
    if short:
        rows = [entry.rows() for entry in entries.values()]
        parts = positions_of(batch.tokens.shape[1]).values()
        rows += [restricted(entries[number].rows(), len(names), at)
                 for number in methods & entries.keys() for at in parts]  # fmt: skip
        patterns = extend(patterns, rows, names, tolerated)
    for name, cell in cells.items():
        for number in (cell.task, cell.whole):
            if number in dropped:
                skipped[name] = dropped[number]
    place = {old: new for new, old in enumerate(entries)}
    kept = {name: Cell(place[cell.whole], place[cell.task]) for name, cell in cells.items() if name not in skipped}
    plan = CellPlan(names, tuple(entries.values()), kept, skipped, found.methods, tuple(found.lattices),
                    tuple(found.unmade))  # fmt: skip
    return plan, patterns


class _Hybrids:
    """The methods, their lattices, and the estimators of all hybrids by name, each compiled once."""

    def __init__(self, candidates: Mapping[str, Candidate], batch: RolloutBatch, registry: Registry) -> None:
        self._batch, self._known = batch, registry.methods
        self._compiled: dict[str, CompiledEstimator | str] = {}
        self.methods: dict[str, str] = {}
        self.lattices: list[Lattice] = []
        self.unmade: list[Unmade] = []
        for label, candidate in candidates.items():
            alone = mix(candidate.method, candidate.method, (), self._known)
            self.methods[label] = identify(alone)
            self._compile(alone)

    @property
    def estimators(self) -> dict[str, CompiledEstimator]:
        """Of the methods and of the hybrids that the lattices name."""
        hybrids = (name for lattice in self.lattices for name in (*lattice.hybrids, *(lattice.sides or ())))
        named = [*self.methods.values(), *hybrids]
        return {name: one for name in named if isinstance(one := self._compiled[name], CompiledEstimator)}

    def add_lattices(self, candidate: Candidate) -> None:
        """Between the method and its parent (or the entry behind overrides), and the root of all methods."""
        method = candidate.method
        parent = method.id if method.label != method.id else method.extends
        for name in dict.fromkeys((parent, ROOT)):
            if name is None or name == method.label or name not in self._known:
                continue
            base = self._known[name]
            problem = self._problem(base)
            if problem is None:
                self.lattices.append(build_lattice(method, base, self._known, self._compile))
                continue
            lacking = isinstance(problem, MissingInputError)
            needs, remedy = ((problem.column,), problem.remedy) if lacking else ((), "")
            self.unmade.append(Unmade(method.label, name, f"{name} cannot be computed here: {problem}", needs, remedy))

    def _problem(self, base: Method) -> GradaxisError | None:
        try:
            missing = compile(base).missing(self._batch)
        except GradaxisError as error:
            return error
        return missing[0] if missing else None

    def _compile(self, hybrid: Method) -> str:
        """Why a hybrid makes no estimator, or the empty string."""
        name = identify(hybrid)
        if name not in self._compiled:
            try:
                self._compiled[name] = compile(hybrid)
            except GradaxisError as error:
                self._compiled[name] = str(error)
        found = self._compiled[name]
        return found if isinstance(found, str) else ""


def _distinct(
    estimators: Mapping[str, CompiledEstimator], registry: Registry, batch: RolloutBatch, names: Sequence[str],
    inside: Callable[[Array], bool],
) -> tuple[list[CompiledEstimator], list[Array], dict[str, Cell], dict[str, str]]:  # fmt: skip
    """The distinct gradients of hybrids on this batch, which of them each hybrid is, and why some are none.

    Two that couple the batch are one where they also agree with the first prompt left out.
    """
    rest = batch.rows(torch.nonzero(batch.prompt != batch.prompt[0]).squeeze(1))
    distinct: list[CompiledEstimator] = []
    totals: list[Array] = []
    signatures: dict[tuple[bytes, ...], int] = {}
    numbers: dict[str, int] = {}

    def number_of(name: str, estimator: CompiledEstimator) -> int:
        if name not in numbers:
            total, coupled = total_of(estimator, batch, names), estimator.couples == "batch"
            if not inside(total[None]):
                raise GradaxisError(OUTSIDE)
            parts = [total, total_of(estimator, rest, names)] if coupled else [total]
            key = (str(coupled).encode(), *(_signature(part) for part in parts))
            numbers[name] = signatures.setdefault(key, len(distinct))
            if numbers[name] == len(distinct):
                distinct.append(estimator)
                totals.append(total)
        return numbers[name]

    cells, skipped, bare = {}, {}, dict(estimators)
    for name, estimator in estimators.items():
        try:
            stripped, declared = task_part(estimator.method, registry.methods)
            task = identify(stripped) if declared else name
            if task not in bare:
                bare[task] = compile(stripped)
            cells[name] = Cell(number_of(name, estimator), number_of(task, bare[task]))
        except GradaxisError as error:
            skipped[name] = str(error)
    return distinct, totals, cells, skipped


def _signature(total: Array) -> bytes:
    """Equal for coefficients that agree to six digits."""
    scale = float(np.abs(total).max(initial=0.0))
    rounded = np.round(total / scale, 6) + 0.0 if scale > 0 else total  # + 0.0 makes of -0.0 plain zero
    return f"{scale:.6e}".encode() + rounded.tobytes()


def positions_of(length: int) -> dict[str, slice]:
    """Ranges of response positions by name, at most four of them, counted from 1."""
    edges = np.unique(np.round(np.linspace(0, length, min(length, 4) + 1)).astype(int))
    return {
        f"position {low + 1}" if high == low + 1 else f"positions {low + 1} to {high}": slice(low, high)
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    }


def restricted(rows: Array, quantities: int, at: slice) -> Array:
    """Coefficients [..., Q·T] at some positions alone."""
    split = rows.reshape(*rows.shape[:-1], quantities, rows.shape[-1] // quantities)
    kept = np.zeros_like(split)
    kept[..., at] = split[..., at]
    return kept.reshape(rows.shape)
