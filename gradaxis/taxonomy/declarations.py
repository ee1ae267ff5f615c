"""The grammar of `registry/operators/<axis>/<slot>.yaml`: what an operator is, as data, without its function."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Level = Literal["sample", "group", "batch", "state"]
Number = Annotated[int | float, Field(union_mode="left_to_right")]

RESERVED = frozenset({"operator", "as", "where", "over", "stage", "addresses", "why"})
"""The keys of an item that are not parameters; no operator may name a parameter so."""


class Strict(BaseModel):
    """Base of the whole grammar: unknown keys and wrong types are errors, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False)


class Paper(Strict):
    """A publication. `arxiv` is quoted in YAML, since 2402.10 would lose its last digit as a number."""

    title: Text
    arxiv: Annotated[str, StringConstraints(pattern=r"^(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})$")] | None = None
    equation: Text | None = None
    url: Text | None = None
    authors: Text | None = None
    venue: Text | None = None


class ParameterDeclaration(Strict):
    """One parameter. Without `default` it must be given. `exclusive` shuts the bounds themselves out.

    `nullable` admits null (its meaning stands in `meaning`). `not_yet` lists values that the grammar knows and the
    estimators cannot compute.
    """

    type: Literal["number", "integer", "boolean", "choice", "string", "mapping"]
    meaning: Text
    choices: list[Text] = Field(default_factory=list)
    default: Any = None
    minimum: Number | None = None
    maximum: Number | None = None
    exclusive: bool = False
    nullable: bool = False
    not_yet: list[Text] = Field(default_factory=list)

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set


class OverDeclaration(Strict):
    """The peer sets that an operator accepts in `over`."""

    choices: list[Identifier] = Field(min_length=1)
    default: Identifier


class Widens(Strict):
    """The operator's output is token-level when `parameter` has `value`."""

    parameter: Identifier
    value: Any


class CouplesByParameter(Strict):
    """The level depends on a parameter: `{parameter: constant, value: tokens, then: batch, else: sample}`.

    Under `else` may stand another one.
    """

    parameter: Identifier
    value: Any
    then: Level | Literal["over"]
    otherwise: Level | Literal["over"] | CouplesByParameter = Field(alias="else")


class OperatorBody(Strict):
    """One operator as it stands in its file.

    `reads` are the tensor arguments of the function that is bound to it, in order and by the same names. `couples` says
    which rows share a statistic (`over`: those of the item's `over`), and `of_others` the reads that it takes of other
    samples than the one whose result it makes: given exactly where an operator can couple, outside `sampling`, whose
    operators say by their `law` how they draw. `needs` are batch columns, `turns` or
    `companion:<role>`; `{name}` in one is replaced by the parameter's value, and the need falls away when that value is
    null or "none". `requires` are `slot.operator` without which it has no meaning. `not_yet` says why no estimator can
    use it in this version.
    """

    summary: Text
    reads: list[Identifier] = Field(default_factory=list)
    parameters: dict[Identifier, ParameterDeclaration] = Field(default_factory=dict)
    over: OverDeclaration | None = None
    couples: Level | Literal["over"] | CouplesByParameter = "sample"
    of_others: list[Identifier] = Field(default_factory=list)
    widens: bool | Widens = False
    needs: list[Text] = Field(default_factory=list)
    requires: list[Text] = Field(default_factory=list)
    stages: list[Identifier] = Field(default_factory=list)
    law: Identifier | None = None
    paper: Paper | None = None
    notes: list[Text] = Field(default_factory=list)
    not_yet: Text | None = None


class OperatorDeclaration(OperatorBody):
    """A declared operator with its name (the key), axis and slot (folder and file)."""

    name: Identifier
    axis: Literal["trajectory", "reward"]
    slot: Identifier
