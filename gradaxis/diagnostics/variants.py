"""Methods made from methods by replacing slots: the unbiased reference, a method's task part, and hybrids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.taxonomy import SLOTS, Method, Placed, Registry, derive, reads_teacher

OWN_LAW = "iid"
"""The sampling law under which rollouts are independent draws from a policy whose log-probabilities are known."""


@dataclass(frozen=True)
class Hybrid:
    """A method with one slot taken from another. `method` is None, with a `reason`, where that makes no estimator."""

    slot: str
    other: str
    method: Method | None
    reason: str = ""


def replace_slots(method: Method, label: str, known: Mapping[str, Method], **slots: tuple[Placed, ...]) -> Method:
    """The method under another label with whole slots replaced, and all that follows from its slots derived anew.

    Streams go with the operator that adds them up: where none is left in credit, they are dropped.
    """
    combined = {**method.slots, **slots}
    summed = any("streams" in placed.declaration.reads for placed in combined["credit"])
    changed = replace(method, label=label, slots=combined, streams=method.streams if summed else {})
    return derive(changed, known)


def place(registry: Registry, operator: str, **parameters: Any) -> Placed:
    """An operator with its defaults and the parameters given, as an entry would place it."""
    declaration = registry.operators[operator]
    defaults = {name: item.default for name, item in declaration.parameters.items() if not item.required}
    return Placed(
        operator=operator, label=operator, parameters={**defaults, **parameters}, where=None,
        over=declaration.over.default if declaration.over else None,
        stage=declaration.stages[0] if declaration.stages else None, addresses=(), why=None, inherited_from=None,
        declaration=declaration,
    )  # fmt: skip


def unbiased_reference(registry: Registry, batch: RolloutBatch, fresh: bool) -> Method:
    """The estimator whose expectation is ∇J, built from slots and from no entry.

    Score function on fresh rollouts, else the full product ratio against the policy that sampled; leave-one-out
    baseline where every prompt has two answers or more; sum over tokens, mean over sequences; no term, no filter.

    Raises:
        InputError: sampling did not follow the policy itself, so that no weight at hand makes the mean right.
    """
    law = str(batch.provenance.get("law", "unknown"))
    if law != OWN_LAW:
        raise InputError(
            "sampling law", repr(law), repr(OWN_LAW),
            "Sample at temperature 1 without top-k, top-p or a repetition penalty, or store `behavior_logp` and "
            "mark the law `iid`: an unbiased reference needs the probabilities that were sampled from",
        )  # fmt: skip
    empty: dict[str, tuple[Placed, ...]] = dict.fromkeys(SLOTS, ())
    if not fresh:
        anchor = "behavior" if "behavior_logp" in batch.columns else "old"
        empty["ratio"] = (place(registry, "form_ratio", unit="sequence", pool="product", anchor=anchor),)
    sizes = batch.group.unique(return_counts=True)[1]
    if int(sizes.min()) > 1:
        empty["baseline"] = (place(registry, "center_rewards", statistic="leave_one_out"),)
    bare = replace(registry.method("reinforce"), streams={})
    return replace_slots(bare, "unbiased reference", registry.methods, **empty)


def task_part(method: Method, known: Mapping[str, Method]) -> tuple[Method, tuple[str, ...]]:
    """The method without the objectives that it declares beside the task reward, and the names of what was taken out.

    Taken out are the terms, and the reward-side operators that compare the policy with a reference or a teacher. What
    they do to the gradient is the method's own declared aim, so it is never counted as bias against ∇J.
    """
    slots, removed = {}, []
    for slot, items in method.slots.items():
        declared = [placed for placed in items if slot == "terms" or _adds_objective(method, slot, placed)]
        if declared:
            slots[slot] = tuple(placed for placed in items if placed not in declared)
            removed += [f"{slot}.{placed.label}" for placed in declared]
    if not removed:
        return method, ()
    return replace_slots(method, f"{method.label}, task part", known, **slots), tuple(removed)


def hybrids(
    method: Method, other: Method, known: Mapping[str, Method], slots: Iterable[str] = tuple(SLOTS)
) -> list[Hybrid]:
    """For each of `slots` in which the two differ, `method` with that slot as `other` has it."""
    found = []
    for slot in slots:
        if same_slot(method, other, slot):
            continue
        if slot == "sampling":
            found.append(Hybrid(slot, other.label, None, "it acts before these rollouts were drawn"))
            continue
        label = f"{method.label} with the {slot} of {other.label}"
        mixed = replace_slots(method, label, known, **{slot: other.slots[slot]})
        reason = mixed.not_executable or _unmet(mixed)
        found.append(Hybrid(slot, other.label, None if reason else mixed, reason))
    return found


def same_slot(method: Method, other: Method, slot: str) -> bool:
    """Whether the slot computes the same in both."""
    return [item.computes for item in method.slots[slot]] == [item.computes for item in other.slots[slot]]


def _adds_objective(method: Method, slot: str, placed: Placed) -> bool:
    return SLOTS[slot].axis == "reward" and ("target_logp" in placed.reads or reads_teacher(method, placed))


def _unmet(method: Method) -> str:
    """Why the slots do not fit together: an operator that requires another which is not there."""
    standing = {f"{key.split('.')[-1]}.{p.operator}" for key, items in method.all_slots().items() for p in items}
    for slot, items in method.all_slots().items():
        for placed in items if slot != "sampling" else ():  # sampling acted before these rollouts were drawn
            for need in placed.declaration.requires:
                if need not in standing:
                    return f"{placed.label} has no meaning without {need}"
    return ""
