"""Resolved methods: every slot filled, every default in place, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gradaxis.taxonomy.axes import AXES
from gradaxis.taxonomy.declarations import OperatorDeclaration
from gradaxis.taxonomy.entries import Entry

WHERE_READS = {"sign": "advantage", "group": "reward"}
"""What a gate on a column reads of the other axis."""


@dataclass(frozen=True)
class Placed:
    """An operator in a slot, with all its parameters. `inherited_from` names the ancestor that placed it."""

    operator: str
    label: str
    parameters: Mapping[str, Any]
    where: Mapping[str, Any] | None
    over: str | tuple[str, ...] | None
    stage: str | None
    addresses: tuple[str, ...]
    why: str | None
    inherited_from: str | None
    declaration: OperatorDeclaration = field(repr=False, compare=False)

    @property
    def computes(self) -> tuple[Any, ...]:
        """What the operator computes: all of it but the reasons. Equal for two placements that do the same."""
        return self.operator, self.label, dict(self.parameters), self.where, self.over, self.stage

    @property
    def reads(self) -> tuple[str, ...]:
        """The quantities that the operator reads, those of its gate included."""
        gates = [WHERE_READS[column] for column in self.where or {} if column in WHERE_READS]
        return tuple(dict.fromkeys([*self.declaration.reads, *gates]))

    @property
    def needs(self) -> tuple[str, ...]:
        """The batch columns and companions that it needs, with parameter values put in."""
        found = []
        for need in self.declaration.needs:
            used = [name for name in self.parameters if f"{{{name}}}" in need]
            if any(self.parameters[name] in (None, "none") for name in used):
                continue
            for name in used:
                need = need.replace(f"{{{name}}}", str(self.parameters[name]))
            found.append(need)
        return tuple(dict.fromkeys(found))

    @property
    def couples(self) -> str:
        """Which rows share a statistic: `sample`, `group`, `batch` or `state`."""
        level = self._level
        if level == "over":
            level = "batch" if self.over == "batch" else "group"
        return "group" if level == "sample" and self._gated_by_group else level

    @property
    def of_others(self) -> tuple[str, ...]:
        """What it reads of other samples as it is placed here, its gate included; nothing where it couples none."""
        own = () if self._level == "sample" else self.declaration.of_others
        return tuple(dict.fromkeys([*own, *(("outcome",) if self._gated_by_group else ())]))

    @property
    def _level(self) -> str:
        """The level that the declaration gives with these parameters; `over` where the peer set decides."""
        level = self.declaration.couples
        while not isinstance(level, str):
            level = level.then if self.parameters.get(level.parameter) == level.value else level.otherwise
        return level

    @property
    def _gated_by_group(self) -> bool:
        """Whether its gate asks how the whole group came out: then even a sample's own operator couples the group."""
        return "group" in (self.where or {})

    def inherited(self, ancestor: str) -> Placed:
        """The same placement as a child sees it."""
        return self if self.inherited_from else replace(self, inherited_from=ancestor)


@dataclass(frozen=True)
class Removed:
    """An operator of an ancestor that a method dropped, and why. `by` is the method that dropped it."""

    slot: str
    label: str
    addresses: tuple[str, ...]
    why: str | None
    by: str


@dataclass(frozen=True)
class Need:
    """A batch column, `turns` or `companion:<role>` that a method needs, and the operator that needs it."""

    column: str
    slot: str
    operator: str


@dataclass(frozen=True)
class Side:
    """The axis on which a method differs from a reference: trajectory, reward, both, none, or origin for a root.

    `parameters_only` says that the same operators stand in every slot, with other numbers.
    """

    side: str
    relative_to: str | None
    slots: tuple[str, ...] = ()
    parameters_only: bool = False

    def __str__(self) -> str:
        reference = f", relative to {self.relative_to}" if self.relative_to else ""
        return f"{self.side}{reference}{'; parameters only' if self.parameters_only else ''}"


Slots = Mapping[str, tuple[Placed, ...]]


@dataclass(frozen=True)
class Method:
    """One method, resolved against its ancestors. `label` is what the user typed, overrides included.

    `slots` has all twelve keys; `streams` maps a name to the six reward slots. `side`, `side_vs_grpo` and
    `side_vs_reinforce` are words; `relative` holds the same with the slots that differ. `not_executable` says why no
    estimator can be compiled in this version.
    """

    entry: Entry = field(repr=False)
    file: str
    label: str
    slots: Slots
    streams: Mapping[str, Slots]
    teachers: Mapping[str, Any]
    link: str
    removed: tuple[Removed, ...] = ()
    relative: Mapping[str, Side] = field(default_factory=dict)
    couplings: tuple[Mapping[str, Any], ...] = ()
    addresses: tuple[str, ...] = ()
    teacher_entries: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    not_executable: str | None = None
    mixed: tuple[tuple[str, float], ...] = ()
    state: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(self.entry.aliases)

    @property
    def family(self) -> str:
        return self.entry.family

    @property
    def status(self) -> str:
        return self.entry.status

    @property
    def year(self) -> int:
        return self.entry.year

    @property
    def arxiv(self) -> str | None:
        return self.entry.paper.arxiv if self.entry.paper else None

    @property
    def paper(self) -> Any:
        return self.entry.paper

    @property
    def extends(self) -> str | None:
        return self.entry.extends

    @property
    def summary(self) -> str:
        return self.entry.summary

    @property
    def outside(self) -> tuple[Any, ...]:
        return tuple(self.entry.outside)

    @property
    def claimed_side(self) -> Any:
        return self.entry.claimed_side

    @property
    def coincides_with(self) -> tuple[str, ...]:
        return tuple(self.entry.coincides_with)

    @property
    def trajectory(self) -> Slots:
        """The six trajectory slots."""
        return {slot: self.slots[slot] for slot in AXES["trajectory"]}

    @property
    def reward(self) -> Slots:
        """The six reward slots of the main stream."""
        return {slot: self.slots[slot] for slot in AXES["reward"]}

    @property
    def side(self) -> str:
        return self.relative["parent"].side

    @property
    def side_vs_grpo(self) -> str | None:
        return self.relative["grpo"].side if "grpo" in self.relative else None

    @property
    def side_vs_reinforce(self) -> str | None:
        return self.relative["reinforce"].side if "reinforce" in self.relative else None

    @property
    def parameters_only(self) -> bool:
        """Whether the method differs from its parent in numbers only."""
        return self.relative["parent"].parameters_only

    @property
    def executable(self) -> bool:
        return self.not_executable is None

    def all_slots(self) -> dict[str, tuple[Placed, ...]]:
        """Slots of the method and of its streams by key: `baseline`, `step.baseline`."""
        named = {f"{stream}.{slot}": items for stream, slots in self.streams.items() for slot, items in slots.items()}
        return {**self.slots, **named}
