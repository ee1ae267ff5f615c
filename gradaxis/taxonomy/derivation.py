"""What follows from the slots of a resolved method. Nothing here is stated in an entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from gradaxis.taxonomy.axes import TEACHER_ENTRY
from gradaxis.taxonomy.comparison import side_of
from gradaxis.taxonomy.consistency import named_teachers
from gradaxis.taxonomy.methods import Method, Need, Placed
from gradaxis.taxonomy.parameters import is_moving

REWARD_QUANTITIES = frozenset({"advantage", "reward", "reward_vector", "turn_reward", "greedy_reward"})
POLICY_QUANTITIES = frozenset({
    "logp", "old_logp", "behavior_logp", "logp_at_sampling", "live_logp", "entropy", "ratio", "weight", "token_weight",
    "kl",
})  # fmt: skip
"""What an operator of the other axis reads when the two factors are coupled."""

GATES = frozenset({"sign", "group", "role", "source", "truncated"})
COMPANIONS = frozenset({"companion:greedy"})


def derive(method: Method, known: Mapping[str, Method]) -> Method:
    """The method with its sides, couplings, needs, teacher entry points and executability filled in.

    `known` holds every resolved method of the registry, since sides are relative to others.
    """
    parent = known.get(method.extends) if method.extends else None
    relative = {"parent": side_of(method, parent)}
    for reference in ("grpo", "reinforce"):
        if reference in known:
            relative[reference] = side_of(method, known[reference])
    return replace(
        method, relative=relative, couplings=tuple(_couplings(method)), addresses=_addresses(method),
        teacher_entries=_teacher_entries(method), needs=_needs(method),
        not_executable="; ".join(dict.fromkeys(_not_yet(method))) or None,
    )  # fmt: skip


def _placements(method: Method) -> Iterator[tuple[str, Placed]]:
    for key, items in method.all_slots().items():
        for placed in items:
            yield key, placed


def _couplings(method: Method) -> Iterator[dict[str, Any]]:
    for key, placed in _placements(method):
        other = REWARD_QUANTITIES if placed.declaration.axis == "trajectory" else POLICY_QUANTITIES
        reads = [quantity for quantity in placed.reads if quantity in other]
        if reads:
            yield {"slot": key, "operator": placed.label, "reads": reads}


def _addresses(method: Method) -> tuple[str, ...]:
    failures = [failure for _, placed in _placements(method) for failure in placed.addresses]
    failures += [failure for removed in method.removed for failure in removed.addresses]
    return tuple(sorted(set(failures)))


def reads_teacher(method: Method, placed: Placed) -> bool:
    """Whether an operator reads a quantity of a teacher."""
    columns = {f"{name}_logp" for name in (*method.teachers, "teacher")}
    read = {*placed.needs, *placed.declaration.reads}
    return bool(named_teachers(placed) or read & columns)


def _teacher_entries(method: Method) -> tuple[str, ...]:
    found = set()
    for key, placed in _placements(method):
        if reads_teacher(method, placed):
            found.add(TEACHER_ENTRY.get(key.split(".")[-1], "gate"))
    return tuple(sorted(found))


def _needs(method: Method) -> tuple[Need, ...]:
    found = [Need(column, key, placed.label) for key, placed in _placements(method) for column in placed.needs]
    return tuple(dict.fromkeys(found))


def _not_yet(method: Method) -> Iterator[str]:
    if method.link != "linear":
        yield f"not yet: link {method.link}"
    if method.mixed:
        yield "not yet: mix of compiled entries"
    if method.state:
        yield "not yet: an estimator that keeps state between steps"
    for key, placed in _placements(method):
        place = f"{key}.{placed.label}"
        if placed.declaration.not_yet:
            yield f"not yet: {place} ({placed.declaration.not_yet})"
        if placed.couples == "state":
            yield f"not yet: {place} keeps state between steps"
        for name, value in placed.parameters.items():
            if is_moving(value):
                yield f"not yet: {place}.{name} is a {'schedule' if 'schedule' in value else 'controller'}"
            elif isinstance(value, str) and value in placed.declaration.parameters[name].not_yet:
                yield f"not yet: {place}.{name} = {value}"
        if isinstance(placed.over, tuple):
            yield f"not yet: {place} over {' and '.join(placed.over)}"
        for column, value in (placed.where or {}).items():
            if column not in GATES or isinstance(value, Mapping):
                yield f"not yet: {place} gated on {column}"
        for need in placed.needs:
            if need.startswith("companion:") and need not in COMPANIONS:
                yield f"not yet: {place} needs {need}"
