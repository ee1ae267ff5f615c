"""Method cards: what the registry said of each method when it was measured."""

from __future__ import annotations

from typing import Any

from gradaxis.errors import GradaxisError
from gradaxis.reports.results import Results
from gradaxis.taxonomy import load_registry

Card = dict[str, Any]


def method_cards(results: Results) -> dict[str, Card]:
    """A card for every method in the rows, by label. What neither results nor registry know gets an empty card."""
    missing = [label for label in results.methods if label not in results.cards]
    return {**results.cards, **(_from_registry(missing) if missing else {})}


def _from_registry(labels: list[str]) -> dict[str, Card]:
    registry = load_registry()
    found: dict[str, Card] = {}
    for label in labels:
        try:
            method = registry.select(label)[0]
        except GradaxisError:
            found[label] = {}
            continue
        found[label] = {
            "id": method.id,
            "name": method.name,
            "status": method.status,
            "extends": method.extends,
            "relative": {
                key: {"side": side.side, "relative_to": side.relative_to, "slots": list(side.slots)}
                for key, side in method.relative.items()
            },
            "couplings": [dict(coupling) for coupling in method.couplings],
            "coincides_with": list(method.coincides_with),
        }
    return found


def side_text(card: Card, reference: str = "parent") -> str:
    """The side with its reference, `reward, relative to ppo`; `origin` for a root; empty when the card has none."""
    side = (card.get("relative") or {}).get(reference)
    if not side:
        return str(card.get("side") or "") if reference == "parent" else ""
    text = str(side["side"])
    if side.get("relative_to"):
        text += f", relative to {side['relative_to']}"
    return f"{text}; parameters only" if side.get("parameters_only") else text


def changed_slots(card: Card, reference: str = "parent") -> list[str]:
    """The slots in which the method differs from its reference."""
    side = (card.get("relative") or {}).get(reference) or {}
    return [str(slot) for slot in side.get("slots") or card.get("slots") or []]
