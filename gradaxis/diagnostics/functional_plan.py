"""What a plan holds of functionals: the gradients of their pieces as coefficients, and why some are left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from gradaxis.diagnostics.functionals import PASS_AT, Functional, Piece, Source, right, standard_functionals
from gradaxis.diagnostics.units import Key
from gradaxis.errors import MissingInputError
from gradaxis.estimators.rollouts.batch import RolloutBatch

PREFIX = "functional:"
"""Begins the names of directions and of keys that belong to functionals."""


def piece_key(piece: str) -> Key:
    """The key of the gradient of a piece, as the rollouts estimate it."""
    return "", f"{PREFIX}{piece}"


def direction_name(functional: str) -> str:
    """The name of the exact gradient of a functional among the directions."""
    return f"{PREFIX}{functional}"


def exact_key(functional: str) -> Key:
    """The key of the exact gradient of a functional."""
    return "", f"exact {direction_name(functional)}"


def exact_keys(names: Iterable[str]) -> dict[Key, int]:
    """The key of each direction that belongs to a functional, with its place among the names of directions."""
    return {("", f"exact {name}"): place for place, name in enumerate(names) if name.startswith(PREFIX)}


@dataclass(frozen=True)
class Lacking:
    """Why a functional is not assessed, the inputs that it lacks, and the remedy."""

    reason: str
    needs: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class FunctionalPlan:
    """The functionals of these rollouts by name, their pieces by name, and those left out with the reason."""

    functionals: Mapping[str, Functional] = field(default_factory=dict)
    pieces: Mapping[str, Piece] = field(default_factory=dict)
    lacking: Mapping[str, Lacking] = field(default_factory=dict)
    totals: Mapping[Key, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def known(self) -> list[Functional]:
        """The functionals that are not left out."""
        return [one for name, one in self.functionals.items() if name not in self.lacking]


def plan_functionals(batch: RolloutBatch, fresh: bool, own: Sequence[Functional] = ()) -> FunctionalPlan:
    """The pieces of all functionals that the rollouts can tell of.

    Args:
        batch: scored rollouts of independent answers. fresh: whether the policy itself sampled.
        own: the user's functionals.
    """
    functionals = {one.name: one for one in (*standard_functionals(batch), *own)}
    source = Source.of_rollouts(batch, fresh)
    pieces: dict[str, Piece] = {}
    lacking: dict[str, Lacking] = {}
    for name, functional in functionals.items():
        reason = _unknown(functional, batch)
        if reason is not None:
            lacking[name] = reason
            continue
        for piece, make in functional.pieces.items():
            if piece not in pieces:
                pieces[piece] = make(source)
    totals = {piece_key(name): source.totals(piece) for name, piece in pieces.items()}
    return FunctionalPlan(functionals, pieces, lacking, totals)


def _unknown(functional: Functional, batch: RolloutBatch) -> Lacking | None:
    """Why the rollouts cannot tell of the functional; None where they can."""
    for column in functional.needs:
        try:
            batch.column(column)
        except MissingInputError as error:
            return Lacking(str(error), (column,), error.remedy)
    good = right(batch)
    if functional.name.startswith(PASS_AT) and not bool(good.any()):
        return Lacking("no answer among these rollouts is right: nothing tells which way more of them lie", (),
                       "use easier prompts or more answers")  # fmt: skip
    if functional.bottom == "wrong" and bool(good.all()):
        return Lacking("every answer among these rollouts is right", (), "use harder prompts or more answers")
    return None
