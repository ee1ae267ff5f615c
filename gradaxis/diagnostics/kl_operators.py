"""The KL that a method itself puts into its gradient: which operators, how strongly, and the gradient without them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradaxis.diagnostics.candidates import Candidate
from gradaxis.diagnostics.units import Key
from gradaxis.diagnostics.variants import replace_slots
from gradaxis.errors import GradaxisError
from gradaxis.estimators import CompiledEstimator, compile
from gradaxis.taxonomy import Method, Placed, Registry

WITHOUT_KL = "without kl"
"""The part of a method that is left when its KL to the reference is taken out."""


@dataclass(frozen=True)
class OwnKL:
    """What a method subtracts: `operators` as "slot.label", the sum of their coefficients β in reward units per nat,
    and the key of the gradient without them.
    """

    operators: tuple[str, ...]
    names: tuple[str, ...]
    coefficient: float
    without: Key


def own_kl(candidate: Candidate) -> OwnKL | None:
    """The operators of a method that compare the policy with its reference; None where none does."""
    found = penalties(candidate.method)
    if not found:
        return None
    operators = tuple(f"{slot}.{placed.label}" for slot, placed in found)
    names = tuple(_describe(slot, placed) for slot, placed in found)
    coefficient = sum(float(placed.parameters.get("coefficient", 0.0)) for _, placed in found)
    part = "task" if set(operators) == set(candidate.declared) else WITHOUT_KL
    return OwnKL(operators, names, coefficient, (candidate.method.label, part))


def penalties(method: Method) -> list[tuple[str, Placed]]:
    """Slot and operator of each comparison with the reference."""
    return [
        (slot, placed) for slot, items in method.slots.items() for placed in items
        if "target_logp" in placed.reads and placed.parameters.get("to") == "ref"
    ]  # fmt: skip


def estimators_without_kl(candidates: Iterable[Candidate], registry: Registry) -> dict[Key, CompiledEstimator]:
    """Estimators without the KL to the reference, of methods that declare other objectives beside it."""
    found: dict[Key, CompiledEstimator] = {}
    for candidate in candidates:
        own, method = own_kl(candidate), candidate.method
        if own is None or own.without[1] != WITHOUT_KL:
            continue
        taken = penalties(method)
        slots = {slot: tuple(p for p in method.slots[slot] if (slot, p) not in taken) for slot, _ in taken}
        try:
            bare = replace_slots(method, f"{method.label} without its KL", registry.methods, **slots)
            found[own.without] = compile(bare)
        except GradaxisError:
            continue  # the probe says that this one is not known
    return found


def _describe(slot: str, placed: Placed) -> str:
    kind = "in the loss" if slot == "terms" else "in the reward"
    unit = placed.parameters.get("unit", "token")
    return f"{placed.parameters.get('value', 'its own estimate')} {kind}, {unit}"
