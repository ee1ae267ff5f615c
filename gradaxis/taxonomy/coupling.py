"""Whether an operator can couple samples, and whether it says what it reads of the others."""

from __future__ import annotations

from gradaxis.taxonomy.declarations import CouplesByParameter, OperatorBody
from gradaxis.taxonomy.problems import Problem
from gradaxis.taxonomy.yaml_nodes import Document

SAMPLING = "sampling"
"""The slot whose operators act before there are samples that others could read; their `law` says what they do."""


def can_couple(body: OperatorBody) -> bool:
    """Whether some placement of the operator makes the result of one sample depend on others."""
    couples = body.couples
    levels = (couples.then, couples.otherwise) if isinstance(couples, CouplesByParameter) else (couples,)
    return any(level != "sample" for level in levels)


def check_of_others(name: str, slot: str, body: OperatorBody, document: Document) -> list[Problem]:
    """`of_others` is given exactly where an operator can couple, and names some of its `reads`."""
    due = can_couple(body) and slot != SAMPLING
    if due and not body.of_others:
        message = f"{name} can couple samples: `of_others` must say which of its reads it takes of other samples"
        return [document.problem((name,), message, body.reads, key=True)]
    if body.of_others and not due:
        message = f"{name} reads nothing of other samples: " + (
            "in sampling, `law` says how it draws" if slot == SAMPLING else "it couples none"
        )
        return [document.problem((name, "of_others"), message, key=True)]
    return [
        document.problem((name, "of_others", i), f"{name} does not read {read!r}", body.reads, read)
        for i, read in enumerate(body.of_others)
        if read not in body.reads
    ]
