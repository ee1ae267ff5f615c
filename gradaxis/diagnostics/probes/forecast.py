"""Forecast: what one step of each method does to numbers of the policy that somebody cares about, to first order.

<∇Φ, E g> is the slope of Φ(θ + η g) at η = 0: a step of a small learning rate η changes Φ by η times as much. Per unit
of reward gained it is free of the learning rate and of the method's scale.
"""

from __future__ import annotations

from dataclasses import replace

from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.functionals import ANSWER_ENTROPY, FORWARD_KL, PASS_AT, REWARD, SEQUENCE_ENTROPY, Functional
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.first_order import WILSON, change_of, knows_exactly, problem_of, rows_of, value_of
from gradaxis.diagnostics.probes.rows import fill, start, without_products

PROBE = "forecast"
METRICS = ("forecast", "forecast_per_reward")
SHOWN_ELSEWHERE = (SEQUENCE_ENTROPY, ANSWER_ENTROPY, FORWARD_KL)
"""Functionals of the probes `entropy` and `kl`."""


def measure(evidence: Evidence) -> list[Measurement]:
    """Every functional as it is, with its law in `reason`; and for each method what a step does to it.

    `part` names the functional. A change whose interval holds zero is `unresolved`: not even its sign is known.
    """
    if not evidence.functionals.functionals:
        if evidence.products is None:
            return without_products(evidence, PROBE, METRICS)
        reason = evidence.no_target or "no functional could be computed"
        return [not_assessed(start(evidence, PROBE, METRICS[0], label), reason) for label in evidence.candidates]
    rows = []
    for name, functional in evidence.functionals.functionals.items():
        if name in SHOWN_ELSEWHERE:
            continue
        base = start(evidence, PROBE, "functional_value", part=name, unit=functional.unit)
        lacking = evidence.functionals.lacking.get(name)
        if lacking is not None:
            rows.append(not_assessed(base, lacking.reason, lacking.needs, lacking.remedy))
            continue
        rows.append(_value(evidence, functional, base))
        for label in evidence.candidates:
            rows += _of_method(evidence, label, functional)
    return rows


def _value(evidence: Evidence, functional: Functional, row: Measurement) -> Measurement:
    exact = evidence.exact_values.get("functionals", {}).get(functional.name)
    if exact is not None:
        found = replace(row, estimate=float(exact), interval="none: exact by enumeration", exact=True)
    else:
        how = WILSON if functional.name.startswith(PASS_AT) else "95 %, jackknife over prompts"
        found = fill(row, value_of(evidence, functional), how)
    return replace(found, reason=f"{found.reason}. {functional.law}" if found.reason else functional.law)


def _of_method(evidence: Evidence, label: str, functional: Functional) -> list[Measurement]:
    base = start(evidence, PROBE, METRICS[0], label, part=functional.name,
                 unit=f"{functional.unit} for each unit of learning rate")  # fmt: skip
    price = replace(base, metric=METRICS[1], unit=f"{functional.unit} for each unit of reward gained")
    if evidence.products is None:
        reason = evidence.no_products or "no inner products of gradients"
        return [not_assessed(row, reason, ("model",), "give the policy (--model)") for row in (base, price)]
    problem = problem_of(evidence, label, knows_exactly(evidence, functional))
    found = problem or change_of(evidence, label, functional)
    rows = rows_of(base, price, found, problem, evidence.no_target)
    return rows[:1] if functional.name == REWARD else rows
