"""From a registry entry, and nothing else, to an estimator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError, MissingInputError, NotYetError, UsageError
from gradaxis.estimators.coefficients import Coefficients, differentiate, evaluate
from gradaxis.estimators.contract import contract_batch
from gradaxis.estimators.flow import evaluate_reward
from gradaxis.estimators.gates import LABELS
from gradaxis.estimators.gradients.instrumented import Policy, gradient_of
from gradaxis.estimators.inputs import Inputs, need_column, prepare
from gradaxis.estimators.local_scope import MICRO_BATCH, missing_micro_batches, number_micro_batches
from gradaxis.estimators.quantities import QUANTITIES
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import AXES, Method, Need, Placed, Registry, load_registry

_WIDENING = {"sample": 0, "group": 1, "batch": 2}
_UNGATED = ("ratio", "aggregation")


@dataclass(frozen=True)
class CompiledEstimator:
    """A policy-gradient estimator: L, its coefficients and its gradient, for any batch that has what it needs.

    L is ascended. `method` is the resolved entry that it was built from.
    """

    method: Method

    @property
    def label(self) -> str:
        """What the user typed, overrides included."""
        return self.method.label

    @cached_property
    def needs(self) -> tuple[Need, ...]:
        """Columns, companions and `turns` that a batch must have, with the operator that asks for each."""
        found = (
            Need(column, slot, placed.label)
            for slot, items in self.method.all_slots().items()
            for placed in items
            for column in placed.needs
        )
        return tuple(dict.fromkeys(found))

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """What the policy has to compute at every token: `logp`, and `entropy` where an operator reads it."""
        read = {name for placed in _trajectory_operators(self.method) for name in placed.declaration.reads}
        return tuple(name for name in QUANTITIES if name == "logp" or name in read)

    @cached_property
    def couples(self) -> str:
        """Which samples share a statistic: `sample` (none), `group` or `batch`."""
        return max((placed.couples for placed in _operators(self.method)), key=_WIDENING.__getitem__, default="sample")

    def missing(self, batch: RolloutBatch, given: Iterable[str] = ()) -> list[MissingInputError]:
        """Every need that the batch does not meet, with its remedy. `given` names quantities from elsewhere."""
        given = tuple(given)
        names = dict.fromkeys([*self.quantities, *(need.column for need in self.needs)])
        found = [need_column(batch, name, given) for name in names]
        for placed in _operators(self.method):
            if placed.parameters.get("constant") == "max_length" and "max_new_tokens" not in batch.provenance:
                remedy = "store the sampler's max_new_tokens in the provenance of the rollouts"
                found.append(MissingInputError("max_new_tokens", remedy))
            if placed.parameters.get("scope") == "local" and number_micro_batches(batch) is None:
                found.append(missing_micro_batches())
            for label in set(placed.where or {}) & set(LABELS) - set(batch.labels):
                found.append(MissingInputError(label, f"add the label {label!r} to the rollouts"))
        return [error for error in found if error is not None]

    def objective(self, quantities: Mapping[str, Tensor], batch: RolloutBatch) -> Tensor:
        """L, a scalar to be ascended, differentiable in the quantities.

        Args:
            quantities: the policy's `logp` (nats), and `entropy` (nats) where needed, [N, T].
            batch: the rollouts; their own `logp` column is not read.

        Raises:
            MissingInputError: the batch lacks a column or companion. InputError: a quantity has another shape or
            device, or a group is too small for an operator.
        """
        parts = evaluate(self.method, self._prepare(batch, quantities))
        return parts.policy + parts.terms

    def loss(self, quantities: Mapping[str, Tensor], batch: RolloutBatch) -> Tensor:
        """−L, for an optimiser that descends. Arguments and errors as for `objective`."""
        return -self.objective(quantities, batch)

    def coefficients(self, batch: RolloutBatch, quantities: Mapping[str, Tensor] | None = None) -> Coefficients:
        """The gradient of L as coefficients on tokens; no model is involved.

        Args:
            batch: the rollouts.
            quantities: as for `objective`; by default the batch's own columns of the same names.

        Raises:
            as `objective`; InputError also where a coefficient is not finite.
        """
        columns = {name: batch.columns[name] for name in self.quantities if name in batch.columns}
        found = differentiate(self.method, self._prepare(batch, columns if quantities is None else quantities))
        if not batch.tokens.is_meta:
            _refuse_infinite(self.label, found, batch)
        return found

    def kept(self, batch: RolloutBatch) -> Tensor:
        """True for the sequences that the method's selection leaves in, bool [N]. Errors as for `coefficients`."""
        columns = {name: batch.columns[name] for name in self.quantities if name in batch.columns}
        return evaluate_reward(self.method.slots, self.method.streams, self._prepare(batch, columns)).kept

    def gradient(self, policy: Policy, batch: RolloutBatch, micro_batch: int | None = None) -> dict[str, Tensor]:
        """∇L by parameter name: the coefficients of one forward pass, pulled back through a second one in parts.

        Args:
            policy: at whose parameters the gradient is taken; their `.grad` is left alone.
            batch: the rollouts; their own `logp` column is not read.
            micro_batch: sequences a pass. It changes memory and not the result.
        """
        values = policy.quantities(batch, self.quantities, micro_batch=micro_batch)
        return gradient_of(policy, batch, self.coefficients(batch, values).total, micro_batch)

    def _prepare(self, batch: RolloutBatch, quantities: Mapping[str, Tensor]) -> Inputs:
        missing = self.missing(batch, quantities)
        if missing:
            raise missing[0]
        return prepare(batch, quantities, self.quantities)


def compile(
    entry: Method | str | Path, overrides: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> CompiledEstimator:
    """Build the estimator of a registry entry.

    Args:
        entry: an id or alias, a YAML file, either with overrides (`dapo[trust_region.high=0.3]`), or a resolved method.
        overrides: further parameters by `slot.parameter`.
        registry: where entries are looked up; the shipped one by default.

    Raises:
        UsageError: no such entry or parameter, or more than one entry named. RegistryError: a file does not validate.
        NotYetError: this version cannot compute the entry.
    """
    if not isinstance(entry, Method) or overrides:
        registry = registry or load_registry()
    method = entry if isinstance(entry, Method) else _select(str(entry), registry)  # type: ignore[arg-type]
    if overrides:
        method = registry.override(method, overrides)  # type: ignore[union-attr]
    _check(method)
    estimator = CompiledEstimator(method)
    _rehearse(estimator)
    return estimator


def _select(text: str, registry: Registry) -> Method:
    found = registry.select(text)
    if len(found) != 1:
        raise UsageError(f"{text!r} names {len(found)} methods; compile takes one")
    return found[0]


def _operators(method: Method) -> list[Placed]:
    return [placed for items in method.all_slots().values() for placed in items]


def _trajectory_operators(method: Method) -> list[Placed]:
    return [placed for slot in AXES["trajectory"] for placed in method.slots[slot]]


def _check(method: Method) -> None:
    """Refuse what would be computed wrongly or only in part."""
    if not method.executable:
        raise NotYetError(f"{method.label}: {method.not_executable}")
    if len(method.slots["aggregation"]) > 1:
        raise NotYetError(f"{method.label}: several operators in aggregation are not computed yet")
    for placed in method.slots["ratio"][1:]:
        if "weight" not in placed.declaration.reads:
            raise InputError(f"{method.label}: ratio.{placed.label}", "a ratio before it, which it would discard",
                             "one operator that forms the ratio, first in its slot")  # fmt: skip
    for slot in _UNGATED:
        for placed in method.slots[slot]:
            if placed.where:
                raise NotYetError(f"{method.label}: `where` on {slot}.{placed.label} is not computed yet")
    summed = any("streams" in placed.declaration.reads for placed in method.slots["credit"])
    if method.streams and not summed:
        raise InputError(
            f"{method.label}: streams", ", ".join(method.streams), "an operator in credit that adds them up"
        )
    for name, slots in {"": method.slots, **method.streams}.items():
        _check_discarded(f"{method.label}{' ' + name if name else ''}", slots)


def _check_discarded(label: str, slots: Mapping[str, tuple[Placed, ...]]) -> None:
    """An operator of credit that starts again from the reward throws away what stands before it, unless it says so."""
    before = [("baseline", placed) for placed in slots["baseline"]] + [("scale", placed) for placed in slots["scale"]]
    for placed in slots["credit"]:
        if placed.stage == "accrue":
            continue
        reads = placed.declaration.reads
        if "reward" in reads and "advantage" not in reads:
            lost = [
                f"{slot}.{p.label}" for slot, p in before if f"{slot}.{p.operator}" not in placed.declaration.requires
            ]
            if lost:
                raise InputError(f"{label}: credit.{placed.label}", f"{', '.join(lost)} before it",
                                 "none: it starts again from the reward and would discard them")  # fmt: skip
        before.append(("credit", placed))


def _rehearse(estimator: CompiledEstimator) -> None:
    """Run once on a batch without samples, so that what cannot be computed is refused now and not after sampling."""
    batch = contract_batch().rows([])
    columns = [need.column for need in estimator.needs if need.column.endswith("_logp")]
    batch = batch.with_columns({name: batch.columns["logp"] for name in columns if name not in batch.columns})
    estimator.coefficients(replace(batch, labels=dict.fromkeys((*LABELS, MICRO_BATCH), ())))


def _refuse_infinite(label: str, found: Coefficients, batch: RolloutBatch) -> None:
    """A ratio that overflows makes coefficients infinite; that is an error and not a result."""
    for name, total in found.total.items():
        broken = ~torch.isfinite(total).all(dim=1)
        if bool(broken.any()):
            row = int(broken.nonzero()[0, 0])
            cause = "A reward or a log-probability is not finite, or a ratio overflows."
            got = f"a value that is not finite in sequence {row}"
            raise InputError(f"{label}: the coefficient of {name}", got, "finite ones", cause)
