"""Methods made ready to be measured: their estimators, their task parts, and their hybrids with a parent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradaxis.diagnostics.units import Key, Totals
from gradaxis.diagnostics.variants import Hybrid, hybrids, same_slot, task_part
from gradaxis.errors import GradaxisError, InputError, NotYetError
from gradaxis.estimators import Coefficients, CompiledEstimator, compile
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import SLOTS, Method, Registry

Place = tuple[str, str]
"""A slot, and the method that it is taken from."""


@dataclass(frozen=True)
class Candidate:
    """One method with all that is measured about it.

    `task` is the estimator without declared terms (`estimator` itself when there are none, or None with `no_task`), and
    `declared` names what was taken out. `swaps` holds, by (slot, other method), the estimators with that slot replaced,
    and `swapped_tasks` their task parts, but for those whose task part is that of the method itself; `skipped` says why
    one that makes an estimator could not be measured, `impossible` why one makes none. `coefficients` are those of the
    whole batch.
    """

    method: Method
    estimator: CompiledEstimator
    task: CompiledEstimator
    declared: tuple[str, ...] = ()
    swaps: dict[Place, CompiledEstimator] = field(default_factory=dict)
    swapped_tasks: dict[Place, CompiledEstimator] = field(default_factory=dict)
    skipped: dict[Place, str] = field(default_factory=dict)
    impossible: dict[Place, str] = field(default_factory=dict)
    coefficients: Coefficients | None = None

    @property
    def couples(self) -> str:
        return self.estimator.couples

    def parts(self) -> dict[Key, CompiledEstimator]:
        """The estimators behind every gradient of the method, by key."""
        label = self.method.label
        found: dict[Key, CompiledEstimator] = {(label, "whole"): self.estimator}
        if self.declared:
            found[label, "task"] = self.task
        for (slot, other), estimator in self.swaps.items():
            found[swap_key(label, slot, other)] = estimator
        for (slot, other), estimator in self.swapped_tasks.items():
            found[self.task_key(slot, other)] = estimator
        return found

    def task_key(self, slot: str, other: str) -> Key:
        """The key of a hybrid's task part: that of the hybrid itself where it declares no terms."""
        whole = swap_key(self.method.label, slot, other)
        declares = self.swapped_tasks.get((slot, other)) is not self.swaps[slot, other]
        return (whole[0], f"task, {whole[1]}") if declares else whole


def swap_key(label: str, slot: str, other: str) -> Key:
    """The key of a method's gradient with one slot as another method has it."""
    return label, f"{slot} of {other}"


def prepare(method: Method, registry: Registry, batch: RolloutBatch, slots: bool = True) -> Candidate:
    """Compile a method and its variants, and compute its coefficients once.

    Args:
        slots: whether to make the hybrids of the slot probe.

    Raises:
        GradaxisError: the method lacks an input, is not computable yet, or its coefficients are not finite.
    """
    estimator = compile(method)
    missing = estimator.missing(batch)
    if missing:
        raise missing[0]
    coefficients = estimator.coefficients(batch)
    check_finite(coefficients.total, method.label)
    stripped, declared = task_part(method, registry.methods)
    task = compile(stripped) if declared else estimator
    swaps, tasks, skipped, impossible = {}, {}, {}, {}
    for hybrid in all_hybrids(method, registry) if slots else ():
        place = (hybrid.slot, hybrid.other)
        if hybrid.method is None:
            impossible[place] = hybrid.reason
            continue
        try:
            swapped = compile(hybrid.method)
        except NotYetError as error:
            skipped[place] = str(error)
            continue
        except GradaxisError as error:  # parts that contradict one another
            impossible[place] = str(error)
            continue
        try:
            lacking = swapped.missing(batch)
            if lacking:
                raise lacking[0]
            check_finite(swapped.coefficients(batch).total, hybrid.method.label)
            bare, its_own = task_part(hybrid.method, registry.methods)
            if not all(same_slot(bare, stripped, slot) for slot in SLOTS):
                tasks[place] = compile(bare) if its_own else swapped
            swaps[place] = swapped
        except GradaxisError as error:
            skipped[place] = str(error)
    return Candidate(method, estimator, task, declared, swaps, tasks, skipped, impossible, coefficients)


def all_hybrids(method: Method, registry: Registry) -> list[Hybrid]:
    """The method with every slot undone that differs from the methods it is compared with, one at a time.

    A slot that is as the parent has it was still chosen by somebody: it is undone as the nearest ancestor has it that
    has another.
    """
    others = compared_with(method, registry)
    found = [hybrid for other in others for hybrid in hybrids(method, other, registry.methods)]
    parents = ancestors(method, registry)
    settled = {slot for slot in SLOTS if not parents or not same_slot(method, parents[0], slot)}
    for other in parents[1:]:
        changed = [slot for slot in SLOTS if slot not in settled and not same_slot(method, other, slot)]
        if other not in others:
            found += hybrids(method, other, registry.methods, changed)
        settled.update(changed)
    return found


def ancestors(method: Method, registry: Registry) -> list[Method]:
    """The method's parent, the parent's parent, and so on."""
    found: list[Method] = []
    while (parent := (found[-1] if found else method).extends) is not None:
        found.append(registry.method(parent))
    return found


def compared_with(method: Method, registry: Registry) -> list[Method]:
    """The method that a method is measured against slot by slot: the entry behind overrides, its parent, and GRPO."""
    names = [method.id if method.label != method.id else "", method.extends or "", "grpo"]
    found = {name: registry.methods[name] for name in names if name in registry.methods and name != method.label}
    return list(found.values())


def totals_of(parts: dict[Key, CompiledEstimator], batch: RolloutBatch) -> dict[Key, Totals]:
    """Derivatives of every gradient on a batch; of a task part the policy-gradient part ω·A only."""
    found: dict[Key, Totals] = {}
    for key, estimator in parts.items():
        coefficients = estimator.coefficients(batch)
        task = key[1].startswith("task")
        found[key] = {"logp": coefficients.omega * coefficients.advantage} if task else coefficients.total
    return found


def check_finite(totals: Totals, label: str) -> None:
    """Raises InputError when a coefficient is NaN or infinite: no number may be made of it."""
    values: Iterable[Tensor] = totals.values()
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise InputError(f"coefficients of {label}", "NaN or infinite numbers", "finite numbers",
                         "Look for NaN in the rewards or log-probabilities of the rollouts")  # fmt: skip
