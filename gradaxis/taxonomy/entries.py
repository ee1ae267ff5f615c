"""The grammar of the YAML files under `registry/methods`, `registry/failures` and `registry/compounds`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag

from gradaxis.taxonomy.declarations import Identifier, Number, Paper, Slug, Strict, Text

Family = Literal[
    "foundations", "grpo", "post-grpo", "agentic", "grpo-opd", "distillation", "preference", "library"
]  # fmt: skip
FAMILIES: tuple[str, ...] = get_args(Family)
LIBRARY = "library"
"""The family of presets: what a training library computes under a name of its own, written as an entry."""
Status = Literal["preview", "checked", "stable"]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Text], BeforeValidator(_listed)]
"""One text or a list of them."""


class Schedule(Strict):
    """A parameter that moves with the step, `{schedule: linear, start: 1, end: 0, steps: 500}`: not yet computed."""

    schedule: Literal["linear", "cosine", "exponential", "stages"]
    start: Number | None = None
    end: Number | None = None
    steps: int | None = None
    values: list[Number] = Field(default_factory=list)


class Controller(Strict):
    """A parameter that follows a measured quantity, `{controller: pi, on: entropy, target: 0.3}`: not yet computed."""

    controller: Literal["proportional", "pi", "dual", "threshold"]
    on: Identifier
    target: Number
    start: Number | None = None
    rate: Number | None = None
    minimum: Number | None = None
    maximum: Number | None = None


class _Placing(BaseModel):
    """What an item says beside its parameters; every other key is a parameter of the operator."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    where: dict[Identifier, Any] | None = None
    over: Identifier | Annotated[list[Identifier], Field(min_length=2)] | None = None
    stage: Identifier | None = None
    addresses: list[Slug] = Field(default_factory=list)
    why: Text | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Item(_Placing):
    """One operator in a slot. Its label is `as`, or else its name."""

    operator: Identifier
    alias: Label | None = Field(None, alias="as")

    @property
    def label(self) -> str:
        return self.alias or self.operator


class Patch(_Placing):
    """Changes to one operator of the parent, by label: the keys that are given replace, all others are inherited."""


class Drop(Strict):
    """The removal of an operator of the parent, with the failure that this addresses."""

    operator: Label
    addresses: list[Slug] = Field(default_factory=list)
    why: Text | None = None


def _drop(value: Any) -> Any:
    return {"operator": value} if isinstance(value, str) else value


def _set_form(value: Any) -> str:
    return "patches" if isinstance(value, dict) else "items"


class Change(Strict):
    """What an entry does to one slot of its parent.

    `set: [items]` replaces the slot's whole list. `set: {label: {key: value}}` changes one operator of the parent and
    keeps its other keys. `drop` removes by label. `add` appends. The order is set, drop, add.
    """

    replace: (
        Annotated[
            Annotated[list[Item], Tag("items")] | Annotated[dict[Label, Patch], Tag("patches")],
            Discriminator(_set_form),
        ]
        | None
    ) = Field(None, alias="set")
    add: list[Item] = Field(default_factory=list)
    drop: list[Annotated[Drop, BeforeValidator(_drop)]] = Field(default_factory=list)


class TrajectoryBlock(Strict):
    """Changes of the six trajectory slots."""

    sampling: Change | None = None
    ratio: Change | None = None
    trust_region: Change | None = None
    token_weight: Change | None = None
    aggregation: Change | None = None
    terms: Change | None = None


class RewardBlock(Strict):
    """Changes of the six reward slots."""

    signal: Change | None = None
    shaping: Change | None = None
    selection: Change | None = None
    baseline: Change | None = None
    scale: Change | None = None
    credit: Change | None = None


class Teacher(Strict):
    """A second policy that operators refer to by name. Where it enters is derived from the slots that read it."""

    weights: Literal["model", "ema", "lag", "live"] = "model"
    context: Literal["none", "answer", "hint", "feedback", "sibling", "skill"] = "none"
    support: Literal["sampled", "student_top_k", "teacher_top_k", "full"] = "sampled"
    meaning: Text | None = None


class Link(Strict):
    """How the two factors meet. Any form but linear leaves J and makes a boundary entry."""

    form: Literal[
        "linear", "rank_pairs", "weigh_by_utility", "match_target", "classify_groups", "split_policy",
        "estimate_f_divergence",
    ] = "linear"  # fmt: skip
    parameters: dict[Identifier, Any] = Field(default_factory=dict)
    why: Text | None = None


def _link(value: Any) -> Any:
    return {"form": value} if isinstance(value, str) else value


class MixPart(Strict):
    """One part of a weighted sum of compiled entries."""

    of: Slug
    weight: Number


class Outside(Strict):
    """What the paper changes that no estimator sees, and the quantity that it disturbs."""

    what: Text
    effect: Text | None = None


def _outside(value: Any) -> Any:
    return {"what": value} if isinstance(value, str) else value


class ClaimedSide(Strict):
    """The side that a source claims, and what it compares with."""

    side: Literal["trajectory", "reward", "both", "none"]
    relative_to: Slug
    source: Text


class Implementation(Strict):
    """The method in another project, and how it deviates from this entry."""

    project: Text
    version: Text | None = None
    config: Text | None = None
    deviates: Texts = Field(default_factory=list)


class Named(Strict):
    """What every registry entry has."""

    id: Slug
    name: Text
    aliases: list[Slug] = Field(default_factory=list)
    summary: Text
    notes: Texts = Field(default_factory=list)


class Entry(Named):
    """One method.

    `sources` gives the source of a value by key: `trust_region.low`, `trust_region` (every parameter of the slot),
    `trust_region.clip_ratio.low` where two operators have it, `step.credit.gamma` in a stream. `verified` says what was
    checked and how. `coincides_with` names entries with the same gradient.
    """

    extends: Slug | None = None
    family: Family
    status: Status = "preview"
    year: Annotated[int, Field(ge=1950, le=2100)]
    paper: Paper | None = None
    trajectory: TrajectoryBlock = TrajectoryBlock()
    reward: RewardBlock = RewardBlock()
    streams: dict[Label, RewardBlock | None] = Field(default_factory=dict)
    teachers: dict[Label, Teacher] = Field(default_factory=dict)
    link: Annotated[Link, BeforeValidator(_link)] | None = None
    mix: list[MixPart] = Field(default_factory=list)
    state: dict[Label, Text] = Field(default_factory=dict)
    outside: list[Annotated[Outside, BeforeValidator(_outside)]] = Field(default_factory=list)
    claimed_side: ClaimedSide | None = None
    sources: dict[str, Text] = Field(default_factory=dict)
    implementations: list[Implementation] = Field(default_factory=list)
    verified: Texts = Field(default_factory=list)
    coincides_with: list[Slug] = Field(default_factory=list)


class Evidence(Strict):
    """A finding about a failure and where it was reported."""

    finding: Text
    paper: Paper | None = None


class Failure(Named):
    """A way in which training goes wrong that methods say they address. `probes` name what measures it."""

    axis: Literal["trajectory", "reward", "both"]
    slots: list[Identifier] = Field(min_length=1)
    status: Status = "preview"
    mechanism: Text | None = None
    symptoms: Texts = Field(default_factory=list)
    probes: Texts = Field(default_factory=list)
    evidence: list[Evidence] = Field(default_factory=list)
    paper: Paper | None = None


class Compound(Failure):
    """A failure that no strength of a fix on one side resolves. `demonstration` is null until it was measured."""

    failures: list[Slug] = Field(default_factory=list)
    demonstration: dict[str, Any] | None = None
