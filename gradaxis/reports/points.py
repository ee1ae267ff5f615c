"""Points in the update, in words."""

from __future__ import annotations

FRESH = "fresh"


def name_point(point: str) -> str:
    """`fresh rollouts`, `stale rollouts`, `inner step 2`."""
    if point.startswith("inner-step"):
        return f"inner step {point.removeprefix('inner-step').strip('-')}"
    return f"{point} rollouts"


def at_point(point: str) -> str:
    """`on fresh rollouts`, `at inner step 2`."""
    return f"{'at' if point.startswith('inner-step') else 'on'} {name_point(point)}"


def sentence(text: str) -> str:
    """The text with its first letter in upper case; a name inside stays as it is."""
    return text[:1].upper() + text[1:]
