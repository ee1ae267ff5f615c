"""The lattice of hybrids between a method and a base: every way to take some slots from the one and the rest from the
other that still makes an estimator.

Letters: k players, 2^k hybrids. A player is a set of slots that only make sense together, and moves as one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial

import numpy as np

from gradaxis.diagnostics.statistics.moments import Array
from gradaxis.diagnostics.variants import replace_slots, same_slot
from gradaxis.taxonomy import AXES, SLOTS, Method, Placed

MOST_PLAYERS = 6
"""Players up to which all 2^k hybrids are measured."""

MOST_TRIED = 8
"""Players up to which hybrids are compiled to find which slots have to move together."""

Player = tuple[str, ...]
Valid = Callable[[Method], str]
"""Why a hybrid makes no estimator, or the empty string."""


@dataclass(frozen=True)
class Lattice:
    """All hybrids between a method and a base, by the names that `identify` gives.

    `players` are the slots in which they differ, in the order of the slots. `hybrids` [2^k]: in hybrid S player i
    stands as in the method where bit i of S is set, so that the first is the base and the last the method; empty with a
    reason in `no_hybrids`. `sides` are base, trajectory side of the method, reward side of the method, and method;
    None with a reason in `no_sides`. `sampling` tells that they differ in it too, which stored rollouts hold fixed.
    """

    method: str
    base: str
    players: tuple[Player, ...]
    hybrids: tuple[str, ...] = ()
    sides: tuple[str, str, str, str] | None = None
    no_hybrids: str = ""
    no_sides: str = ""
    sampling: bool = False


def build_lattice(method: Method, base: Method, known: Mapping[str, Method], valid: Valid) -> Lattice:
    """The lattice between two methods that can both be computed.

    Args:
        known: all methods of the registry.
        valid: is told of each hybrid that the lattice names, and of others that were tried.
    """
    differing = differing_slots(method, base)
    made: dict[frozenset[str], tuple[str, str]] = {}

    def at(taken: Iterable[str]) -> tuple[str, str]:
        """The name of a hybrid, and why it makes no estimator."""
        chosen = frozenset(taken)
        if chosen not in made:
            mixed = mix(method, base, chosen, known)
            made[chosen] = identify(mixed), mixed.not_executable or valid(mixed)
        return made[chosen]

    sides = [[slot for slot in differing if SLOTS[slot].axis == axis] for axis in AXES]
    reasons = [at(side)[1] for side in sides]
    if not all(sides):
        no_sides = _one_side(sides, base)
    elif any(reasons):
        no_sides = f"the two sides do not fit together in another way: {next(filter(None, reasons))}"
    else:
        no_sides = ""
    players = _join_until_valid(_join_required(method, base, differing), lambda taken: not at(taken)[1])
    no_hybrids = ""
    if len(players) > MOST_PLAYERS:
        no_hybrids = f"{len(players)} choices of it move alone; all hybrids are measured for up to {MOST_PLAYERS}"
    return Lattice(
        method=method.label,
        base=base.label,
        players=players,
        hybrids=() if no_hybrids else tuple(at(taken)[0] for taken in subsets(players)),
        sides=None if no_sides else (at(())[0], at(sides[0])[0], at(sides[1])[0], at(differing)[0]),
        no_hybrids=no_hybrids,
        no_sides=no_sides,
        sampling=not same_slot(method, base, "sampling"),
    )


def differing_slots(method: Method, base: Method) -> tuple[str, ...]:
    """The slots, but `sampling`, in which two methods compute something else; `credit` with the streams it adds up."""
    found = [slot for slot in SLOTS if slot != "sampling" and not same_slot(method, base, slot)]
    if _streams(method) != _streams(base) and "credit" not in found:
        found.append("credit")
    return tuple(slot for slot in SLOTS if slot in found)


def mix(method: Method, base: Method, taken: Iterable[str], known: Mapping[str, Method]) -> Method:
    """The base with the slots of `taken` as the method has them. Streams go with credit, and sampling is left out."""
    taken = set(taken)
    owner = {slot: method if slot in taken else base for slot in SLOTS}
    label = f"{base.label} with {', '.join(slot for slot in SLOTS if slot in taken) or 'nothing'} of {method.label}"
    teachers = {**base.teachers, **method.teachers}
    start = replace(method, streams=owner["credit"].streams, teachers=teachers)
    slots = {slot: owner[slot].slots[slot] for slot in SLOTS if slot != "sampling"}
    return replace_slots(start, label, known, sampling=(), **slots)


def identify(method: Method) -> str:
    """A name that two methods share when they compute the same on given rollouts, whatever they are called."""
    slots = [(slot, _computes(items)) for slot, items in method.all_slots().items() if slot != "sampling" and items]
    return json.dumps(slots, sort_keys=True, default=str)


def identify_reward(method: Method) -> str:
    """A name that two methods share when their reward sides compute the same, `sampling` apart."""
    rewards = [(slot, _computes(items)) for slot, items in method.all_slots().items()
               if slot.split(".")[-1] in AXES["reward"] and items]  # fmt: skip
    return json.dumps(rewards, sort_keys=True, default=str)


def subsets(players: Iterable[Player]) -> list[frozenset[str]]:
    """The slots of each of the 2^k sets of players; bit i of a set's number says whether player i is in it."""
    named = tuple(players)
    return [
        frozenset(slot for i, player in enumerate(named) if number >> i & 1 for slot in player)
        for number in range(2 ** len(named))
    ]


def shapley_weights(players: int) -> Array:
    """The weights [k, 2^k] by which Shapley values are read off the values v of all hybrids.

        φᵢ = Σ over S without i of |S|! (k − |S| − 1)! / k! · ( v(S ∪ i) − v(S) )

    What player i changes, averaged over all orders in which the players can enter (Shapley, 1953). The rows add up to
    the difference between the last hybrid and the first.

    >>> shapley_weights(2).tolist()  # columns: nobody, 0, 1, both
    [[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]]
    """
    weights = np.zeros((players, 2**players))
    for player in range(players):
        for number in range(2**players):
            if not number >> player & 1:
                size = number.bit_count()
                weight = factorial(size) * factorial(players - size - 1) / factorial(players)
                weights[player, number] -= weight
                weights[player, number | 1 << player] += weight
    return weights


def _join_required(method: Method, base: Method, differing: tuple[str, ...]) -> tuple[Player, ...]:
    """Slots joined with those that an operator of theirs `requires`, where the other of the two lacks that operator."""
    players: list[set[str]] = [{slot} for slot in differing]
    for owner, other in ((method, base), (base, method)):
        for slot in differing:
            for need in (need for placed in owner.slots[slot] for need in placed.declaration.requires):
                place, operator = need.split(".")
                if place in differing and operator not in {placed.operator for placed in other.slots[place]}:
                    joined = {slot, place}.union(*(player for player in players if player & {slot, place}))
                    players = [player for player in players if not player & joined] + [joined]
    return _ordered(players)


def _join_until_valid(players: tuple[Player, ...], valid: Callable[[frozenset[str]], bool]) -> tuple[Player, ...]:
    """Players joined, two at a time and so that most hybrids become valid, until all are."""

    def broken(some: tuple[Player, ...]) -> int:
        return sum(not valid(taken) for taken in subsets(some))

    while 1 < len(players) <= MOST_TRIED and broken(players):
        merges = [
            _ordered([{*first, *second}, *(set(player) for player in players if player not in (first, second))])
            for first, second in combinations(players, 2)
        ]
        players = min(merges, key=broken)
    return players


def _ordered(players: Iterable[set[str]]) -> tuple[Player, ...]:
    place = list(SLOTS).index
    return tuple(sorted((tuple(sorted(player, key=place)) for player in players), key=lambda player: place(player[0])))


def _one_side(sides: list[list[str]], base: Method) -> str:
    axis = next((axis for axis, slots in zip(AXES, sides, strict=True) if slots), "")
    return f"it differs from {base.label} on the {axis} side only" if axis else f"it differs from {base.label} nowhere"


def _streams(method: Method) -> dict[str, list[object]]:
    return {
        f"{stream}.{slot}": _computes(items)
        for stream, slots in method.streams.items() for slot, items in slots.items() if items
    }  # fmt: skip


def _computes(items: Iterable[Placed]) -> list[object]:
    return [list(placed.computes) for placed in items]
