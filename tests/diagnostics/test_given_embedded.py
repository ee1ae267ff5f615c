"""Intervals for prompts taken as given, against what GRPO is expected to give on the embedded policy.

A group is G = 2 answers to one prompt, so the expectation is a sum over all pairs of answers, E[ĝ] = Σ_y Σ_z π(y) π(z)
ĝ(y, z), and its gain and cosine with the exact ∇J are known. Answers rarer than a millionth are left out of the pairs.
"""

from dataclasses import replace

import pytest
import torch

from gradaxis.diagnostics.complete import GramNumbers, complete_evidence
from gradaxis.diagnostics.plan import plan_evidence
from gradaxis.diagnostics.probes import bias, entropy, slots
from gradaxis.diagnostics.truth import exact_directions
from gradaxis.estimators import compile
from gradaxis.estimators.gradients import compute_gram
from gradaxis.estimators.policies import embedded_policy, enumerate_answers, exact_gradient
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.scoring import score_columns

TASK = ArithmeticTask()
ITEMS = TASK.prompts(6, seed=0)
METHODS = ("grpo[terms.coefficient=0]", "dr-grpo", "reinforce-baseline")
MIXED = "dr-grpo[aggregation.weight=inverse_length,aggregation.constant=sequences]"
"""Dr. GRPO with the aggregation of GRPO."""
SEEDS = range(12)


@pytest.fixture(scope="module")
def policy():
    return embedded_policy("policy", dtype="float64")


@pytest.fixture(scope="module")
def truth(policy):
    """Gain and cosine of GRPO's expectation with ∇J, and what its aggregation in the place of Dr. GRPO's changes.

    Dr. GRPO's own cosine is 1.
    """
    t = torch.cat([part.flatten() for part in exact_gradient(policy, TASK, ITEMS).values()])
    g, mixed = (expected_gradient(policy, label) for label in (METHODS[0], MIXED))

    def cosine(one):
        return float(one @ t / one.norm() / t.norm())

    return {"gain": float(g @ t / (t @ t)), "cosine": cosine(g), "change": cosine(mixed) - 1}


def expected_gradient(policy, label):
    """E[ĝ] of a method that couples samples of one group at most, over all pairs of answers."""
    batch, chance = enumerate_answers(policy, TASK, ITEMS)
    batch = batch.with_columns({"old_logp": batch.column("logp"), "ref_logp": batch.column("logp")})
    estimator, expected = compile(label), torch.zeros_like(batch.column("logp"))
    for prompt in range(len(ITEMS)):
        rows = torch.nonzero((batch.prompt == prompt) & (chance > 1e-6)).squeeze(1)
        pairs = torch.cartesian_prod(rows, rows)
        some = batch.rows(pairs.flatten())
        some = replace(some, group=torch.arange(len(pairs)).repeat_interleave(2), trajectory=torch.arange(some.size))
        # A mean over sequences: K pairs in one batch weigh 1/K each.
        found = estimator.coefficients(some).total["logp"].unflatten(0, (-1, 2)) * len(pairs)
        weighted = chance[pairs].prod(dim=1)[:, None, None] * found / len(ITEMS)
        expected.index_add_(0, pairs.flatten(), weighted.flatten(0, 1))
    live, _ = enumerate_answers(policy, TASK, ITEMS, grad=True)
    parts = torch.autograd.grad((expected * live.column("logp")).sum(), list(policy.parameters().values()))
    return torch.cat([part.flatten() for part in parts])


@pytest.fixture(scope="module")
def evidences(policy, registry):
    """The evidence of several samples of 8 groups of 2 answers to the same prompts."""
    found, directions = [], None
    for seed in SEEDS:
        batch = sample_rollouts(policy, TASK, ITEMS, SamplingSettings(group_size=2, groups=8, seed=seed))
        batch = score_columns(batch, policy=policy)
        batch = batch.with_columns({"old_logp": batch.column("logp"), "ref_logp": batch.column("logp")})
        plan = plan_evidence("fresh", batch, [registry.select(label)[0] for label in METHODS], registry)
        assert plan.patterns is not None
        directions = directions or exact_directions(policy, TASK, batch.prompts, 1.0)
        gram = compute_gram(policy, batch, plan.patterns, mode="exact", directions=directions)
        numbers = GramNumbers(gram.matrix.numpy(), True, tuple(directions), gram.directions.numpy(),
                              gram.direction_gram.numpy())  # fmt: skip
        found.append(complete_evidence(plan, numbers))
    return found


def rows_of(evidence, method):
    return {row.metric: row for row in bias.measure(evidence) if row.method == method}


def test_the_intervals_of_grpo_hold_its_exact_gain_and_cosine(evidences, truth):
    hits = dict.fromkeys(("gain", "cosine"), 0)
    for evidence in evidences:
        rows = rows_of(evidence, METHODS[0])
        for name in hits:
            hits[name] += rows[name].low <= truth[name] <= rows[name].high
    # With these 12 seeds 10 hold the gain (0.291) and 11 the cosine (0.9992). A right answer so rare that no group of
    # its prompt holds one leaves that prompt without any spread: such samples have too narrow an interval.
    assert all(count >= 10 for count in hits.values()), hits


def test_the_change_of_the_cosine_that_an_aggregation_makes_is_covered(evidences, truth):
    hits = 0
    for evidence in evidences:
        row = next(row for row in slots.measure(evidence) if row.metric == "slot_effect_on_bias"
                   and (row.method, row.slot, row.compared_with) == ("dr-grpo", "aggregation", "grpo"))  # fmt: skip
        assert row.n == 48
        assert row.interval.endswith("these prompts as given, paired")
        hits += row.low <= truth["change"] <= row.high
    assert hits >= 10  # with these 12 seeds 10 hold it (−0.00071)


def test_exact_multiples_of_the_target_are_found_by_every_sample(evidences):
    # Dr. GRPO is (G − 1)/G · 1/4 of the unbiased reference on fresh rollouts of at most 4 tokens.
    for evidence in evidences:
        rows = rows_of(evidence, "dr-grpo")
        assert rows["gain"].estimate == pytest.approx(1 / 8, abs=1e-6)
        assert rows["cosine"].low == pytest.approx(1.0, abs=1e-6)


def test_rows_say_what_their_units_are(evidences):
    found = evidences[0]
    for row in (*rows_of(found, "dr-grpo").values(), *entropy.measure(found)):
        if row.metric in (*bias.METRICS, *entropy.GRADIENT_METRICS):
            assert row.interval.startswith("95 %, between the groups of a prompt, these prompts as given")
            assert row.n == 48


def test_group_products_are_those_of_explicit_gradients(evidences, policy):
    """Of one group's rows, and for the method that couples the batch of gradients taken without each group."""
    found = evidences[0]
    batch, groups = found.batch, found.groups
    estimator = compile("reinforce-baseline")

    def gradient(rows):
        total = estimator.coefficients(batch.rows(rows)).total["logp"]
        live = policy.quantities(batch.rows(rows), ("logp",), grad=True)["logp"]
        parts = torch.autograd.grad((total * live).sum(), list(policy.parameters().values()))
        return torch.cat([part.flatten() for part in parts])

    whole = gradient(torch.arange(batch.size))
    left = [gradient(torch.nonzero(torch.from_numpy(groups.units != unit)).squeeze(1)) for unit in range(48)]
    values = torch.stack([47 * (whole - one) for one in left])
    values = (whole + values - values.mean(0)).numpy()
    explicit = values @ values.T
    assert found.by_group(("reinforce-baseline", "whole")) == pytest.approx(explicit, abs=1e-5 * abs(explicit).max())
