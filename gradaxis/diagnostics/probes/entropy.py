"""Entropy: how much there is, where it stands in the answer, and what each method would do to it.

There are several mean entropies, and a step may raise one and lower another. Each has a name:

    frozen_prefix   the mean over all tokens at the contexts of these rollouts: what an entropy bonus sees
    as_logged       E[Σ_t H_t] / E[L]: with what a step changes in which contexts are met and how long answers are
    per_sequence    E[(1/L) Σ_t H_t], with both too
    of_answer       E[Σ_t H_t], the entropy of the whole answer

`entropy_change` and `entropy_price` are those of `as_logged` where its gradient is known exactly, else of
`frozen_prefix`; `part` says which.
"""

from __future__ import annotations

from dataclasses import replace

from gradaxis.diagnostics.evidence import EXACT, Evidence
from gradaxis.diagnostics.functionals import ANSWER_ENTROPY, SEQUENCE_ENTROPY, TOKEN_ENTROPY
from gradaxis.diagnostics.measurements import Measurement, not_assessed
from gradaxis.diagnostics.probes.distinct import distinct_answers
from gradaxis.diagnostics.probes.entropy_covariance import covariances
from gradaxis.diagnostics.probes.entropy_tokens import FAILURE, PROBE, levels
from gradaxis.diagnostics.probes.first_order import (
    Change,
    along_frozen_entropy,
    change_of,
    knows_exactly,
    problem_of,
    rows_of,
)
from gradaxis.diagnostics.probes.rows import fill, start, without_products
from gradaxis.diagnostics.statistics import Estimate, Interval, gain_of_means, ratio_of_inner_products, ratio_of_means
from gradaxis.diagnostics.top_entropy import SHARE, TOP_ENTROPY

GRADIENT_METRICS = ("entropy_change", "entropy_price")
FROZEN = "frozen_prefix"
VARIANTS = {"as_logged": TOKEN_ENTROPY, "per_sequence": SEQUENCE_ENTROPY, "of_answer": ANSWER_ENTROPY}
"""Name of a mean entropy -> its functional."""

AT_CONTEXTS = "at the contexts of these rollouts"
EXACTLY = "exact gradient of the entropy, these prompts"
ESTIMATED = "gradient of the entropy estimated from these rollouts"
HIDDEN = "noise hides the gradient at this number of prompts"


def measure(evidence: Evidence) -> list[Measurement]:
    """Entropy over tokens, answers, places and quantiles; different answers in a group; for each method the covariance
    of log-probability and advantage, the first-order change of each mean entropy, <∇H, g>, its price, nats lost for
    each unit of reward gained, and the part of its gradient that the tokens of highest entropy hold.
    """
    rows = [*levels(evidence), *distinct_answers(evidence), *covariances(evidence)]
    if evidence.products is None:
        return rows + without_products(evidence, PROBE, GRADIENT_METRICS, failure=FAILURE)
    for label in evidence.candidates:
        rows += _first_order(evidence, label)
        rows += _of_top_tokens(evidence, label)
    return rows


def _first_order(evidence: Evidence, label: str) -> list[Measurement]:
    rows, main = [], []
    for variant in (FROZEN, *VARIANTS):
        found = _of_variant(evidence, label, variant)
        rows += found
        exactly = variant == "as_logged" and found[0].part == EXACTLY
        if variant == FROZEN or exactly:
            main = [replace(row, metric=metric) for row, metric in zip(found, GRADIENT_METRICS, strict=True)]
    return [*main, *rows]


def _of_variant(evidence: Evidence, label: str, variant: str) -> list[Measurement]:
    functional = evidence.functionals.functionals.get(VARIANTS.get(variant, ""))
    unit = functional.unit if functional is not None else "nats a token"
    base, price = (
        start(evidence, PROBE, f"{metric}_{variant}", label, unit=f"{unit} {per}", failure=FAILURE)
        for metric, per in zip(GRADIENT_METRICS, ("for each unit of learning rate", "lost for each unit of reward"),
                               strict=True)
    )  # fmt: skip
    if variant == FROZEN:
        exact, part, found = False, AT_CONTEXTS, along_frozen_entropy(evidence, label)
    elif functional is None or functional.name in evidence.functionals.lacking:
        lacking = evidence.functionals.lacking.get(functional.name) if functional is not None else None
        reason = lacking.reason if lacking else evidence.no_target or "no gradient of the entropy"
        return [not_assessed(row, reason, lacking.needs if lacking else ("entropy",)) for row in (base, price)]
    else:
        exact = knows_exactly(evidence, functional)
        part, found = EXACTLY if exact else ESTIMATED, change_of(evidence, label, functional)
    base, price = (replace(row, part=part) for row in (base, price))
    return rows_of(base, price, _negate_price(found), problem_of(evidence, label, exact), evidence.no_target)


def _negate_price(found: Change | str) -> Change | str:
    """The change with its price: what is lost for a unit of reward, so that a falling entropy has a positive one."""
    if isinstance(found, str) or found.per_reward is None:
        return found
    value, (low, high, bounded) = found.per_reward
    return found._replace(per_reward=Estimate(-value, Interval(-high, -low, bounded)))


def _of_top_tokens(evidence: Evidence, label: str) -> list[Measurement]:
    """<E g_top, E g> / |E g|² and <E g_top, ∇J> / <E g, ∇J>; with the same of the other tokens each adds up to 1."""
    row = start(evidence, PROBE, "top_entropy_gradient_share", label, unit="share of the squared gradient",
                part=f"top {SHARE:.0%} of tokens by entropy", failure=FAILURE)  # fmt: skip
    gain = replace(row, metric="top_entropy_gain_share", unit="share of the gain of reward")
    top, whole = (label, TOP_ENTROPY), evidence.key(label)
    if not evidence.has(top):
        reason = evidence.outside.get(top, "the rollouts have no entropies")
        return [not_assessed(one, reason) for one in (row, gain)]
    problem = evidence.too_few_units(label)
    if problem:
        return [replace(one, verdict="unresolved", reason=problem) for one in (row, gain)]
    found = gain_of_means(evidence.of(top, whole), evidence.of(whole))
    rows = [fill(row, found, "95 %, jackknife over prompts; Fieller's interval", HIDDEN)]
    if evidence.target is None:
        return [*rows, not_assessed(gain, evidence.no_target)]
    products = evidence.of(top, evidence.target), evidence.of(whole, evidence.target)
    if evidence.target == EXACT:
        share, how = ratio_of_means(products[0].mean(axis=1), products[1].mean(axis=1)), "Student over prompts"
    else:
        share, how = ratio_of_inner_products(*products), "jackknife over prompts"
    reason = "the method's gain of reward is not clear of zero"
    return [*rows, fill(gain, share, f"95 %, {how}; Fieller's interval", reason)]
