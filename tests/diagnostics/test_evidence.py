"""Evidence against explicit gradients: inner products, units, pseudo-values, the reference and the task part."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.evidence import ENTROPY, EXACT, REFERENCE
from gradaxis.diagnostics.models import load_model
from gradaxis.diagnostics.plan import plan_evidence, without_model
from gradaxis.diagnostics.variants import hybrids, replace_slots, task_part, unbiased_reference
from gradaxis.errors import InputError
from gradaxis.estimators import compile
from gradaxis.estimators.policies import exact_gradient
from gradaxis.estimators.rollouts.tasks import load_task


def flat(gradient):
    return torch.cat([value.reshape(-1).double() for value in gradient.values()]).numpy()


@pytest.fixture(scope="module")
def policy(stages):
    return load_model(stages.config, "policy")


def gradient_of(label, policy, batch, registry):
    return flat(compile(registry.method(label) if isinstance(label, str) else label).gradient(policy, batch))


@pytest.mark.parametrize("point", ["fresh", "stale"])
def test_realised_products_are_those_of_explicit_gradients(point, evidence, policy, registry):
    found = evidence(point)
    labels = ["grpo", "dapo", "ppo", "gspo"]
    explicit = np.stack([gradient_of(label, policy, found.batch, registry) for label in labels])
    expected = explicit @ explicit.T
    norms = np.sqrt(np.diag(expected))
    for i, first in enumerate(labels):
        for j, second in enumerate(labels):
            # A pseudo-value's mean is n·ĝ − (n − 1)·mean ĝ₍₋ⱼ₎: the batch's own gradient only where nothing couples it.
            if "batch" in {found.candidates[name].couples for name in (first, second)}:
                continue
            products = found.realised(found.key(first), found.key(second))
            assert products == pytest.approx(expected[i, j], abs=1e-4 * norms[i] * norms[j])


def test_a_unit_is_n_times_the_prompts_part_of_the_gradient(evidence, policy, registry):
    found = evidence("stale")
    batch, n = found.batch, found.n
    estimator = compile(registry.method("rloo"))
    total = estimator.coefficients(batch).total["logp"]
    units = []
    for unit in range(n):
        rows = torch.from_numpy(np.flatnonzero(found.units == unit))
        live = policy.quantities(batch.rows(rows), ("logp",), grad=True)["logp"]
        parts = torch.autograd.grad((total[rows] * live).sum(), list(policy.parameters().values()))
        units.append(n * torch.cat([part.reshape(-1).double() for part in parts]).numpy())
    explicit = np.stack(units) @ np.stack(units).T
    assert found.of(found.key("rloo")) == pytest.approx(explicit, abs=1e-4 * np.abs(explicit).max())


def test_pseudo_values_come_from_gradients_without_each_prompt(evidence, policy, registry):
    found = evidence("fresh")
    assert found.candidates["reinforce-baseline"].couples == "batch"
    batch, n = found.batch, found.n
    whole = gradient_of("reinforce-baseline", policy, batch, registry)
    units = []
    for unit in range(n):
        rest = torch.from_numpy(np.flatnonzero(found.units != unit))
        units.append(n * whole - (n - 1) * gradient_of("reinforce-baseline", policy, batch.rows(rest), registry))
    rows = np.stack(units)
    rows += whole - rows.mean(axis=0)  # their spread is the jackknife's, their mean the gradient of this batch
    explicit = rows @ rows.T
    assert found.of(found.key("reinforce-baseline")) == pytest.approx(explicit, abs=1e-3 * np.abs(explicit).max())


def test_the_exact_target_is_the_gradient_of_j(evidence, policy):
    found = evidence("fresh")
    explicit = flat(exact_gradient(policy, load_task("arithmetic"), found.batch.prompts))
    assert found.target == EXACT
    assert found.realised(EXACT, EXACT) == pytest.approx(explicit @ explicit, rel=1e-4)


def test_the_reference_is_unbiased_at_both_points(evidence):
    """Its noise e_j = r_j − t_j has mean zero along any fixed direction; here along ∇J, the entropy and each method."""
    for point in ("fresh", "stale"):
        found = evidence(point)
        for direction in (EXACT, ENTROPY):
            along = (found.of(REFERENCE, direction) - found.of(EXACT, direction)).mean(axis=1)
            error = along.std(ddof=1) / np.sqrt(found.n)
            assert abs(along.mean()) < 3.5 * error


def test_the_reference_is_built_from_slots(evidence, registry):
    fresh, stale = (unbiased_reference(registry, evidence(p).batch, p == "fresh") for p in ("fresh", "stale"))
    filled = {slot: [p.operator for p in items] for slot, items in stale.slots.items() if items}
    assert filled == {"ratio": ["form_ratio"], "baseline": ["center_rewards"]}
    assert stale.slots["ratio"][0].parameters["pool"] == "product"
    assert not fresh.slots["ratio"]


@pytest.mark.parametrize("law", ["truncated", "greedy", "unknown"])
def test_the_reference_is_refused_when_another_law_sampled(law, evidence, registry):
    found = evidence("fresh")
    batch = replace(found.batch, provenance={**found.batch.provenance, "law": law})
    with pytest.raises(InputError, match="sampling law"):
        unbiased_reference(registry, batch, fresh=True)
    plan = plan_evidence("fresh", batch, [registry.method("grpo")], registry)
    assert "sampling law" in plan.evidence.no_target
    assert "grpo" in plan.evidence.candidates


def test_the_task_part_has_no_declared_terms(registry):
    taken = {label: task_part(registry.method(label), registry.methods)[1] for label in registry.methods}
    assert taken["grpo"] == ("terms.penalise_kl",)
    assert taken["rloo"] == ("shaping.penalise_kl_in_reward",)
    assert set(taken["grpo-opd"]) == {"terms.penalise_kl", "credit.add_teacher_log_ratio"}
    assert taken["dr-grpo"] == ()


def test_a_hybrid_differs_from_its_method_in_one_slot(registry):
    dapo, grpo = registry.method("dapo"), registry.method("grpo")
    by_slot = {hybrid.slot: hybrid for hybrid in hybrids(dapo, grpo, registry.methods)}
    assert set(by_slot) == {"sampling", "trust_region", "aggregation", "terms", "shaping", "selection"}
    assert by_slot["sampling"].method is None
    mixed = by_slot["aggregation"].method
    assert mixed is not None
    assert [slot for slot in mixed.slots if mixed.slots[slot] != dapo.slots[slot]] == ["aggregation"]
    undone = replace_slots(mixed, "again", registry.methods, aggregation=dapo.slots["aggregation"])
    assert undone.slots == dapo.slots


def test_what_is_missing_is_omitted_with_its_remedy_and_stops_nobody(evidence, registry):
    batch = evidence("fresh").batch
    kept = {name: value for name, value in batch.columns.items() if name not in ("ref_logp", "teacher_logp", "value")}
    bare = replace(batch, columns=kept, companions={})
    plan = plan_evidence("fresh", bare, registry.select("all"), registry)
    omitted = plan.evidence.omitted
    assert {label: found.needs for label, found in omitted.items()} == {
        "ppo": ("value",), "grpo": ("ref_logp",), "gspo": ("ref_logp",), "gigpo": ("ref_logp",), "rloo": ("ref_logp",),
        "reinforce-plus-plus": ("ref_logp",), "remax": ("companion:greedy",), "grpo-opd": ("ref_logp",),
    }  # fmt: skip
    assert "--reference" in omitted["grpo"].remedy
    assert {"dr-grpo", "dapo", "cispo", "reinforce"} <= set(plan.evidence.candidates)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rewards_that_are_not_numbers_are_refused(value, evidence, registry):
    batch = evidence("fresh").batch
    rewards = batch.rewards.clone()
    rewards[5, 0] = value
    with pytest.raises(InputError, match="sequence 5"):
        plan_evidence("fresh", replace(batch, rewards=rewards), [registry.method("grpo")], registry)


def test_no_sequences_are_refused(evidence, registry):
    with pytest.raises(InputError, match="no sequences"):
        plan_evidence("fresh", evidence("fresh").batch.rows([]), [registry.method("grpo")], registry)


def test_without_a_model_there_are_coefficients_and_no_products(evidence, registry):
    plan = plan_evidence("fresh", evidence("fresh").batch, registry.select("grpo,dapo"), registry, gradients=False)
    found = without_model(plan, "no model")
    assert found.products is None
    assert found.candidates["dapo"].coefficients is not None
