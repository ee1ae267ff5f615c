"""Every probe on the embedded policies, against explicit loops, and what it says where it cannot know."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.evidence import EXACT, REFERENCE, Products
from gradaxis.diagnostics.measurements import FINDINGS
from gradaxis.diagnostics.models import load_model
from gradaxis.diagnostics.plan import plan_evidence, without_model
from gradaxis.diagnostics.probes import (
    PROBES,
    agreement,
    bias,
    entropy,
    importance,
    reward,
    silent_groups,
    slots,
    variance,
)
from gradaxis.estimators import compile
from gradaxis.estimators.policies import answer_entropy, exact, expected_length
from gradaxis.estimators.rollouts.tasks import load_task


def pick(rows, metric, **wanted) -> Any:
    found = [row for row in rows if row.metric == metric and all(getattr(row, k) == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


@pytest.mark.parametrize("point", ["fresh", "stale"])
@pytest.mark.parametrize("name", list(PROBES))
def test_every_row_is_whole(name, point, evidence):
    found = evidence(point)
    for row in PROBES[name](found):
        assert row.probe == name
        assert row.point == point
        assert row.verdict != "not assessed" or row.reason
        assert row.verdict not in FINDINGS or (row.threshold is not None and row.threshold_source)
        if row.estimate is not None and row.low is not None and row.high is not None:
            slack = 1e-9 * max(1.0, abs(row.estimate))
            assert row.low - slack <= row.estimate <= row.high + slack, row


def test_the_exact_target_and_the_rollouts_agree(evidence):
    """RLOO's task part is the unbiased reference on fresh rollouts, and Dr. GRPO is (G − 1)/G of it over the limit."""
    rows = bias.measure(evidence("fresh"))
    assert pick(rows, "gain", method="rloo").estimate == pytest.approx(1.0, abs=1e-4)
    # G = 4, answers of at most 4 tokens: gain 3/4 · 1/4.
    assert pick(rows, "gain", method="dr-grpo").estimate == pytest.approx(3 / 16, abs=1e-4)
    row = pick(rows, "gain", method="reinforce")
    assert row.low <= 1.0 <= row.high
    assert pick(rows, "cosine", method="dr-grpo").estimate == pytest.approx(1.0, abs=1e-6)
    assert pick(rows, "gain", method="rloo").compared_with == "exact gradient of J on these prompts"


def test_the_full_product_ratio_repairs_the_gain_of_stale_rollouts(evidence):
    found = evidence("stale")
    values = found.of(REFERENCE, EXACT).mean(axis=1) / found.of(EXACT).mean()
    error = values.std(ddof=1) / math.sqrt(found.n)
    assert abs(values.mean() - 1) < 3.5 * error


def test_declared_terms_are_no_bias_and_have_a_row(evidence):
    rows = bias.measure(evidence("fresh"))
    grpo, opd = pick(rows, "gain", method="grpo"), pick(rows, "gain", method="grpo-opd")
    assert opd.estimate == pytest.approx(grpo.estimate, rel=1e-5)  # its teacher apart, it is GRPO
    assert "penalise_kl" in grpo.part
    assert pick(rows, "terms_share", method="grpo-opd").estimate > pick(rows, "terms_share", method="grpo").estimate
    assert not [row for row in rows if row.metric == "terms_share" and row.method == "dr-grpo"]


def test_without_an_exact_target_the_reference_stands_in(evidence):
    found = evidence("fresh")
    keys = tuple(key for key in found.products.keys if key != EXACT)
    blocks = {pair: block for pair, block in found.products.blocks.items() if EXACT not in pair}
    products = Products(keys, blocks, True)
    rows = bias.measure(replace(found, products=products, target=REFERENCE))
    # RLOO's task part and the reference are one estimator: a gain of 1 wherever noise leaves a gain at all.
    row = pick(rows, "gain", method="rloo")
    assert row.compared_with == "unbiased reference for the gradient of J"
    assert row.verdict == "unresolved" if row.estimate is None else row.estimate == pytest.approx(1.0, abs=1e-6)
    assert row.low <= 1 <= row.high
    assert all(row.estimate is not None for row in rows if row.metric == "cosine" and row.verdict in FINDINGS)


def test_variance_reports_an_unresolved_direction_as_such(evidence):
    rows = variance.measure(evidence("fresh"))
    for row in rows:
        if row.metric == "critical_batch_size" and row.high == math.inf:
            assert row.estimate is None
            assert row.verdict == "unresolved"
    ratio = pick(rows, "noise_ratio", method="dr-grpo", compared_with="grpo")
    assert ratio.low < ratio.estimate < ratio.high


def test_batch_coupled_methods_need_sixteen_prompts(evidence, registry):
    batch = evidence("fresh").batch
    few = batch.rows(torch.arange(batch.size)[batch.prompt < 8])
    plan = plan_evidence("fresh", few, registry.select("reinforce-baseline,dr-grpo"), registry, slots=False)
    found = replace(plan.evidence, products=fake_products(plan), no_target="none here")
    rows = variance.measure(found)
    row = pick(rows, "noise", method="reinforce-baseline")
    assert (row.verdict, row.estimate) == ("unresolved", None)
    assert "16 prompts" in row.reason
    assert pick(rows, "noise", method="dr-grpo").estimate is not None


def fake_products(plan):
    """Inner products of random vectors: what they are plays no part in the test above."""
    n, keys = plan.evidence.n, tuple(plan.totals)
    vectors = np.random.default_rng(0).standard_normal((len(keys), n, 9))
    units = dict(zip(keys, vectors, strict=True))
    blocks = {(a, b): one @ other.T for a, one in units.items() for b, other in units.items()}
    return Products(keys, blocks, True)


def test_entropy_rows_equal_a_loop(evidence):
    found = evidence("fresh")
    rows = entropy.measure(found)
    batch = found.batch
    values = [float(batch.columns["entropy"][i, t]) for i in range(batch.size) for t in range(int(batch.length[i]))]
    assert pick(rows, "entropy").estimate == pytest.approx(np.mean(values), rel=1e-5)
    first = [float(batch.columns["entropy"][i, 0]) for i in range(batch.size)]
    assert pick(rows, "entropy_by_position", part="position 0").estimate == pytest.approx(np.mean(first), rel=1e-5)
    advantage = found.candidates["grpo"].coefficients.advantage
    pairs = np.array([
        (float(batch.columns["logp"][i, t]), float(advantage[i, t]))
        for i in range(batch.size) for t in range(int(batch.length[i]))
    ])  # fmt: skip
    expected = np.cov(pairs.T, ddof=0)[0, 1]
    assert pick(rows, "logp_advantage_covariance", method="grpo").estimate == pytest.approx(expected, rel=1e-4)


def test_entropy_change_agrees_with_a_small_real_step(evidence, stages):
    found = evidence("fresh")
    policy, task = load_model(stages.config.model_copy(update={"dtype": "float64"}), "policy"), load_task("arithmetic")

    def entropy_a_token():
        return float(exact(policy, task, found.batch.prompts, answer_entropy).mean()
                     / exact(policy, task, found.batch.prompts, expected_length).mean())  # fmt: skip

    batch = found.batch.to(dtype=torch.float64)
    gradient = compile(found.candidates["dr-grpo"].method).gradient(policy, batch)
    rate, found_entropy = 1e-4, []
    for step in (rate, -2 * rate):  # forward, then back past the start: a central difference
        with torch.no_grad():
            for name, parameter in policy.parameters().items():
                parameter += step * gradient[name]
        found_entropy.append(entropy_a_token())
    change = (found_entropy[0] - found_entropy[1]) / (2 * rate)
    # This batch's own change, noise and all; the row estimates its expectation.
    products = found.of(("dr-grpo", "whole"), ("", "exact entropy"))
    assert products.mean() == pytest.approx(change, rel=1e-2)


def test_silent_groups_equal_a_loop_and_their_exact_share(evidence):
    found = evidence("fresh")
    rows = silent_groups.measure(found)
    batch = found.batch
    silent = {g for g in batch.group.tolist() if len({round(float(r), 6) for r in batch.reward[batch.group == g]}) == 1}
    row = pick(rows, "silent_groups")
    assert row.estimate == pytest.approx(len(silent) / 16)
    assert pick(rows, "effective_groups").estimate == 16 - len(silent)
    expected = pick(rows, "expected_silent_groups")
    assert row.low <= expected.estimate <= row.high
    assert pick(rows, "silent_weight", method="grpo").estimate == pytest.approx(0, abs=1e-6)
    assert pick(rows, "silent_weight", method="reinforce").estimate > 0.05


def test_groups_of_one_are_not_assessed(evidence):
    found = evidence("fresh")
    single = replace(found, batch=found.batch.rows(torch.arange(0, 64, 4)), candidates={})
    (row,) = silent_groups.measure(single)
    assert row.verdict == "not assessed"


def test_methods_coincide_when_fresh_and_part_when_stale(evidence):
    fresh, stale = (agreement.measure(evidence(point)) for point in ("fresh", "stale"))
    same = {(row.method, row.compared_with): row for row in fresh if row.metric == "coincides"}
    assert "--behavior" in same["grpo", "gspo"].advice
    assert ("grpo", "gspo") not in {(row.method, row.compared_with) for row in stale if row.metric == "coincides"}
    assert pick(stale, "method_cosine", method="grpo", compared_with="gspo").estimate < 1 - 1e-6


def test_effective_sample_size_equals_a_loop(evidence):
    found = evidence("stale")
    batch = found.batch
    weights = [
        math.exp(sum(float(batch.columns["logp"][i, t] - batch.columns["behavior_logp"][i, t]) for t in range(length)))
        for i, length in enumerate(batch.length.tolist())
    ]
    expected = sum(weights) ** 2 / len(weights) / sum(w * w for w in weights)
    rows = importance.measure(found)
    assert pick(rows, "ess", part="sequence weights").estimate == pytest.approx(expected, rel=1e-5)
    fresh = importance.measure(evidence("fresh"))
    assert pick(fresh, "ess", part="sequence weights").estimate == pytest.approx(1.0, abs=1e-5)


def test_clipped_tokens_equal_a_loop(evidence):
    found = evidence("stale")
    batch = found.batch
    rows = importance.measure(found)
    advantage = found.candidates["grpo"].coefficients.advantage
    up = down = total = 0
    for i, length in enumerate(batch.length.tolist()):
        for t in range(length):
            ratio = math.exp(float(batch.columns["logp"][i, t] - batch.columns["old_logp"][i, t]))
            total += 1
            up += float(advantage[i, t]) > 0 and ratio > 1.2
            down += float(advantage[i, t]) < 0 and ratio < 0.8
    assert up + down > 0
    share = pick(rows, "clip_fraction", method="grpo", part="positive advantage, above").estimate
    assert share == pytest.approx(up / total, abs=1e-9)
    share = pick(rows, "clip_fraction", method="grpo", part="negative advantage, below").estimate
    assert share == pytest.approx(down / total, abs=1e-9)
    assert pick(rows, "clip_fraction", method="grpo", part="").estimate == pytest.approx((up + down) / total)


def test_reward_rows(evidence):
    found = evidence("fresh")
    rows = reward.measure(found)
    assert pick(rows, "mean_reward").estimate == pytest.approx(float(found.batch.reward.mean()), rel=1e-5)
    assert pick(rows, "mean_length").estimate == pytest.approx(float(found.batch.length.double().mean()), rel=1e-6)
    flat = replace(found, batch=replace(found.batch, rewards=torch.ones_like(found.batch.rewards)))
    row = pick(reward.measure(flat), "reward_variance_share")
    assert row.verdict == "not assessed"
    assert "does not vary" in row.reason


def test_slot_effects_are_those_of_the_replaced_slot(evidence):
    found = evidence("fresh")
    rows = slots.measure(found)
    # On one-length groups nothing but scale: Dr. GRPO's scale slot as GRPO's changes its direction across prompts.
    assert pick(rows, "slot_effect", method="dr-grpo", slot="scale").estimate > 1e-4
    # A trust region does nothing on fresh rollouts.
    effect = pick(rows, "slot_effect", method="gspo", slot="trust_region", compared_with="grpo")
    assert effect.estimate == pytest.approx(0, abs=1e-6)
    skipped = pick(rows, "slot_effect", method="dapo", slot="sampling")
    assert skipped.verdict == "not applicable"
    assert "before these rollouts were drawn" in skipped.reason


def test_without_a_model_gradients_are_not_assessed_and_the_rest_is(evidence, registry):
    plan = plan_evidence("stale", evidence("stale").batch, registry.select("grpo,dr-grpo"), registry, gradients=False)
    found = without_model(plan, "no model")
    for measure in (variance.measure, bias.measure, slots.measure):
        rows = measure(found)
        assert rows
        assert all(row.verdict == "not assessed" and "--model" in row.advice for row in rows)
    assert pick(agreement.measure(found), "coefficient_cosine").estimate < 1
    assert pick(importance.measure(found), "ess", part="sequence weights").estimate < 1


def test_the_cosine_changes_by_the_slot_alone(evidence):
    found = evidence("fresh")
    rows = [row for row in slots.measure(found) if row.metric == "slot_effect_on_bias"]
    # One group a prompt, so that the unbiased reference is the target and prompts are the units.
    for row in rows:
        assert row.verdict in ("not applicable", "unresolved", "not assessed")
        assert row.n == 16
        assert row.estimate in (None, 0.0) or (row.unit == "cosine" and "unbiased reference" in row.part)
    # Terms, a KL in the reward and a teacher are declared; nothing is clipped on fresh rollouts.
    for method, slot in (("grpo", "terms"), ("rloo", "shaping"), ("grpo-opd", "credit"), ("dr-grpo", "terms")):
        row = next(row for row in rows if row.method == method and row.slot == slot)
        assert row.estimate is None
        assert "declared terms" in row.reason
    row = pick(rows, "slot_effect_on_bias", method="cispo", slot="trust_region", compared_with="grpo")
    assert row.estimate == 0.0
    # GRPO-OPD has its aggregation from GRPO, which changed that of PPO.
    assert {row.compared_with for row in rows if row.method == "grpo-opd" and row.slot == "aggregation"} == {"ppo"}
