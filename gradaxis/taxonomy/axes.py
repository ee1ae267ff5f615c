"""The two axes and their twelve slots, in the order in which data passes them within an axis."""

from __future__ import annotations

from dataclasses import dataclass

from gradaxis.errors import UsageError
from gradaxis.taxonomy.problems import closest_match


@dataclass(frozen=True)
class Slot:
    """One slot: its axis, the question that its operators answer, and what an empty slot means."""

    name: str
    axis: str
    question: str
    empty: str


_ROWS = (
    Slot("sampling", "trajectory", "which trajectories are drawn, by which policy, under which law?",
         "on-policy, independent, G per prompt"),
    Slot("ratio", "trajectory", "how does the policy enter against the one that sampled?", "score function"),
    Slot("trust_region", "trajectory", "how far may that weight move the update?", "unbounded"),
    Slot("token_weight", "trajectory", "which positions carry gradient, and how much?", "every policy token, 1"),
    Slot("aggregation", "trajectory", "how do tokens add up to one number?", "sum over tokens, mean over sequences"),
    Slot("terms", "trajectory", "which other terms are added, on which data, under which gate?", "none"),
    Slot("signal", "reward", "where does the reward come from?", "the outcome reward"),
    Slot("shaping", "reward", "how is the reward transformed before samples are compared?", "identity"),
    Slot("selection", "reward", "which samples or groups are kept once rewards are known?", "all"),
    Slot("baseline", "reward", "what is subtracted?", "nothing"),
    Slot("scale", "reward", "what is it divided or multiplied by?", "one"),
    Slot("credit", "reward", "how is the advantage changed after the comparison, and at which unit?",
         "copied to every token"),
)  # fmt: skip

SLOTS: dict[str, Slot] = {slot.name: slot for slot in _ROWS}
"""Slot name -> Slot, trajectory side first."""

AXES: dict[str, tuple[str, ...]] = {
    axis: tuple(slot.name for slot in _ROWS if slot.axis == axis) for axis in ("trajectory", "reward")
}
"""Axis -> its six slot names."""

TEACHER_ENTRY: dict[str, str] = {
    "sampling": "T_S", "ratio": "T_A", "trust_region": "T_M", "token_weight": "T_M", "terms": "T_D",
    "signal": "T_C", "shaping": "T_C", "baseline": "T_V", "scale": "T_B", "credit": "T_B",
}  # fmt: skip
"""Slot -> the name of the place where a teacher enters when an operator of that slot reads it."""


def axis_of(slot: str) -> str:
    """The axis of a slot. Raises UsageError with the closest match for another name."""
    if slot in SLOTS:
        return SLOTS[slot].axis
    raise UsageError(f"unknown slot {slot!r}{closest_match(slot, SLOTS)}; the slots are {', '.join(SLOTS)}")
