"""KL to the reference: how far the policy is from it, and what each choice of a penalty really pulls toward.

The table of choices is that of `kl_choices`; beside it stands the pull of every method's own operator, which is its
gradient without the operator minus its gradient with it, per unit of the coefficient.
"""

from __future__ import annotations

from dataclasses import replace

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.functional_plan import exact_key, piece_key
from gradaxis.diagnostics.functionals import FORWARD_KL, KL, log_ratio
from gradaxis.diagnostics.kl_choices import CHOICES, Choice
from gradaxis.diagnostics.kl_operators import own_kl
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.kl_values import estimates
from gradaxis.diagnostics.probes.pull import Mix, Pull, Target, pull_of
from gradaxis.diagnostics.probes.rows import fill, start
from gradaxis.errors import MissingInputError
from gradaxis.taxonomy import SLOTS

PROBE = "kl"
METRICS = ("kl_pull_gain", "kl_pull_cosine", "kl_pull_size")
UNITS = ("ratio", "cosine", "ratio")
TARGETS = {
    "gradient of the reverse KL(policy ‖ reference)": Target(exact_key(KL), piece_key(KL)),
    "gradient of the forward KL(reference ‖ policy)": Target(exact_key(FORWARD_KL), piece_key(FORWARD_KL)),
}
HIDDEN = "noise hides the direction at this number of rollouts"


def measure(evidence: Evidence) -> list[Measurement]:
    """Estimates of the KL with their spread; for every choice, and for every method that has one, the component along
    the reverse and the forward gradient (`kl_pull_gain`, 1 where it does what it says), the cosine, and the size.

    `part` names the choice, or the method's operators; `reason` what the choice has as its expectation on the policy's
    own answers.
    """
    base = start(evidence, PROBE, METRICS[0], unit=UNITS[0])
    try:
        difference = log_ratio(evidence.batch)
    except MissingInputError as error:
        return [not_assessed(base, str(error), (error.column,), error.remedy)]
    rows = estimates(evidence, difference)
    if not bool(difference.ne(0).any()):
        same = "the policy is the reference on every token of these rollouts: there is nothing to pull toward"
        return [*rows, replace(base, verdict="not applicable", reason=same)]
    if evidence.products is None:
        reason = evidence.no_products or "no inner products of gradients"
        return [*rows, not_assessed(base, reason, ("model",), "give the policy (--model)")]
    for choice in CHOICES:
        rows += _of_choice(evidence, choice)
    for label in evidence.candidates:
        rows += _of_method(evidence, label)
    return rows


def _of_choice(evidence: Evidence, choice: Choice) -> list[Measurement]:
    base = start(evidence, PROBE, "", part=choice.name, slot="shaping" if "reward" in choice.name else "terms")
    if not evidence.has(choice.key):
        reason = evidence.outside.get(choice.key) or evidence.no_target or "its gradient is not among the products"
        return [not_assessed(replace(base, metric=METRICS[0], unit=UNITS[0]), reason)]
    expects = f"expected on the policy's own answers: {choice.expects}"
    return _compare(evidence, base, {choice.key: 1.0}, expects)


def _of_method(evidence: Evidence, label: str) -> list[Measurement]:
    own = own_kl(evidence.candidates[label])
    if own is None:
        return []
    slots = {name.split(".")[0] for name in own.operators}
    slot = slots.pop() if len(slots) == 1 else ""
    base = start(evidence, PROBE, "", label, part="; ".join(own.names), slot=slot,
                 axis=SLOTS[slot].axis if slot else "")  # fmt: skip
    first = replace(base, metric=METRICS[0], unit=UNITS[0])
    if own.coefficient == 0:
        return [replace(first, verdict="not applicable", reason="its coefficient is zero")]
    problem = evidence.too_few_units(label)
    if problem:
        return [replace(first, verdict="unresolved", reason=problem)]
    pull = {(label, "whole"): -1.0 / own.coefficient, own.without: 1.0 / own.coefficient}
    if not all(evidence.has(key) for key in pull):
        return [not_assessed(first, "its gradient without the operator is not among the products")]
    return _compare(evidence, base, pull, f"{', '.join(own.operators)}, per unit of its coefficient")


def _compare(evidence: Evidence, base: Measurement, pull: Mix, expects: str) -> list[Measurement]:
    rows = []
    for name, target in TARGETS.items():
        row = replace(base, compared_with=name)
        found = pull_of(evidence, pull, target)
        if found is None:
            reason = evidence.no_target or "the gradient of the KL is not among the products"
            rows.append(not_assessed(replace(row, metric=METRICS[0], unit=UNITS[0]), reason))
            continue
        rows += _rows(row, found, expects)
    return rows


def _rows(base: Measurement, found: Pull, expects: str) -> list[Measurement]:
    rows = []
    for metric, unit, estimate in zip(METRICS, UNITS, found[:3], strict=True):
        row = fill(replace(base, metric=metric, unit=unit, n=found.n), estimate, found.how, HIDDEN)
        reason = f"{row.reason}; {expects}" if row.reason else expects
        rows.append(replace(row, reason=reason))
    return rows
