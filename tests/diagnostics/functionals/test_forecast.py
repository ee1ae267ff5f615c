"""Forecasts against explicit vectors and real small steps on a table, and how often intervals hold the truth."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gradaxis.diagnostics import ExperimentConfig, read_measurements, run_experiment
from gradaxis.diagnostics.exact_functionals import listed_functionals
from gradaxis.diagnostics.functionals import standard_functionals
from gradaxis.diagnostics.probes import entropy, forecast
from gradaxis.diagnostics.user_functionals import user_functional
from gradaxis.estimators import compile
from gradaxis.estimators.policies import embedded_policy, enumerate_answers
from gradaxis.estimators.rollouts.tasks import load_task

TWOS = [user_functional("twos", lambda data, completion, facts: completion.count("2") * facts["length"])]
METHODS = ("rloo", "grpo", "reinforce")
STEP = 1e-5


def pick(rows, metric, method="", part="") -> Any:
    (row,) = [row for row in rows if (row.metric, row.method, row.part) == (metric, method, part)]
    return row


def expected_gradient(one, label, size):
    """E[g] of a method that couples one group at most, as a vector [D]: the sum over all groups of `size` answers."""
    estimator, found = compile(label), 0.0
    for prompt in range(3):
        own = torch.nonzero(one.batch.prompt == prompt).squeeze(1)
        groups = torch.tensor(list(itertools.product(own.tolist(), repeat=size)))
        batch = one.batch.rows(groups.flatten())
        batch = replace(batch, group=torch.arange(len(groups)).repeat_interleave(size))
        total = {name: value * len(groups) for name, value in estimator.coefficients(batch).total.items()}
        weight = one.probability[groups].prod(dim=1).repeat_interleave(size)[:, None] / 3
        weighted = {name: weight * value for name, value in total.items()}
        found = found + one.to_parameters(one.coefficients_to_vector(weighted, groups.flatten())).flatten()
    return found


def values_at(bed, one, step, functionals):
    """Every functional of the policy after a step in its logits."""
    policy = bed.table().moved(step.view(bed.table().logits.shape))
    after = bed.listing(policy=policy)
    live = {name: after.batch.column(name) for name in ("logp", "entropy")}
    return listed_functionals(replace(one, batch=one.batch.with_columns(live),
                                      policy_probability=after.policy_probability), functionals).values  # fmt: skip


def true_slopes(bed, one, gradient, functionals):
    """(Φ(θ + η g) − Φ(θ − η g)) / 2η of every functional."""
    above, below = (values_at(bed, one, sign * STEP * gradient, functionals) for sign in (1, -1))
    return {name: (above[name] - below[name]) / (2 * STEP) for name in above}


@pytest.mark.parametrize("stale", [False, True])
def test_a_real_small_step_changes_what_was_forecast(stale, bed, registry):
    """Many groups a prompt: the forecast of every functional holds (Φ(θ + η E g) − Φ(θ)) / η in its interval."""
    one = bed.listing(stale)
    batch = bed.sample(one, [0, 1, 2], 7, groups=120, group_size=2)
    evidence = bed.evidence_on(one, batch, METHODS, registry, "stale" if stale else "fresh", exact=True, own=TWOS)
    rows = forecast.measure(evidence)
    functionals = evidence.functionals.known
    inside, total = 0, 0
    for label in METHODS:
        gradient = expected_gradient(one, label, 2)
        slopes = true_slopes(bed, one, gradient, functionals)
        for functional in functionals:
            if functional.name in forecast.SHOWN_ELSEWHERE:
                continue
            row, slope = pick(rows, "forecast", label, functional.name), slopes[functional.name]
            inside += row.low <= slope <= row.high
            total += 1
            # 720 answers: no forecast is far from the truth either.
            assert abs(row.estimate - slope) < 2.2 * (row.high - row.low) / 2, (label, functional.name)
            if functional.name != "reward":
                row = pick(rows, "forecast_per_reward", label, functional.name)
                if row.estimate is not None:
                    ratio = slope / slopes["reward"]
                    assert abs(row.estimate - ratio) < 2.2 * max(row.high - row.estimate, row.estimate - row.low)
    assert total == 3 * 9  # reward, two lengths, entropy, KL, pass@2, two parts of the reward, the user's
    assert inside >= total - 3, inside


def test_exact_directions_are_slopes(bed, registry):
    """Along the exact gradients themselves there is no noise: <∇Φ, g> is the slope to rounding."""
    one = bed.listing()
    functionals = standard_functionals(bed.sample(one, 2, 0))
    found = listed_functionals(one, functionals)
    gradient = expected_gradient(one, "grpo", 2)
    slopes = true_slopes(bed, one, gradient, functionals)
    for functional in functionals:
        if functional.name in ("reward", "token entropy"):
            continue
        vector = one.to_parameters(found.directions[f"functional:{functional.name}"]["atoms"]).flatten()
        assert float(vector @ gradient) == pytest.approx(slopes[functional.name], abs=1e-8)


def explicit_pieces(one, batch, stale):
    """Each prompt's estimate of the gradients of E[L], E[wrong] and E[L wrong], times n, [n, D], by loops."""
    rows, n = one.locate(batch), len(batch.prompts)
    ratio = [1.0] * batch.size
    if stale:
        gap = torch.where(batch.mask, batch.column("logp") - batch.column("behavior_logp"), 0.0).sum(1)
        ratio = gap.exp().tolist()
    numbers = {"length": [], "wrong": [], "both": []}
    for i in range(batch.size):
        wrong = float(batch.reward[i] < 1)
        for name, value in zip(numbers, (float(batch.length[i]), wrong, wrong * float(batch.length[i])), strict=True):
            numbers[name].append(value)
    vectors = {}
    for name, phi in numbers.items():
        units = np.zeros((n, one.vectors.shape[1]))
        for i in range(batch.size):
            others = [phi[j] for j in range(batch.size) if batch.group[j] == batch.group[i] and j != i]
            score = one.vectors[one.atoms["logp"][rows[i]][batch.mask[i]]].sum(0).numpy()
            units[batch.prompt[i]] += n / batch.size * ratio[i] * (phi[i] - sum(others) / len(others)) * score
        vectors[name] = units
    means = {name: [r * v for r, v in zip(ratio, phi, strict=True)] for name, phi in numbers.items()}
    return vectors, means


def u_statistic(first, second, units):
    pairs = [(j, k) for j in units for k in units if j != k]
    return sum(first[j] @ second[k] for j, k in pairs) / len(pairs)


@pytest.mark.parametrize("stale", [False, True])
def test_an_estimated_forecast_is_the_u_statistic_of_explicit_vectors(stale, bed, registry):
    """Of a mean and of a ratio of means, with jackknife intervals made by leaving every prompt out in a loop."""
    one = bed.listing(stale)
    batch = bed.sample(one, 8, 3)
    evidence = bed.evidence_on(one, batch, ("grpo", "rloo"), registry, "stale" if stale else "fresh")
    rows = forecast.measure(evidence)
    vectors, means = explicit_pieces(one, batch, stale)
    total = compile("grpo").coefficients(batch).total
    placed, n = one.locate(batch), 8
    own = np.stack([
        n * one.to_parameters(one.coefficients_to_vector({name: value[batch.prompt == unit] for name, value in
            total.items()}, placed[batch.prompt == unit])).numpy() for unit in range(n)
    ])  # fmt: skip
    prompt = batch.prompt.tolist()

    def forecast_of(units):
        mean = {name: np.mean([v for v, p in zip(values, prompt, strict=True) if p in units])
                for name, values in means.items()}  # fmt: skip
        ratio = mean["both"] / mean["wrong"]
        inner = {name: u_statistic(vector, own, units) for name, vector in vectors.items()}
        return inner["length"], (inner["both"] - ratio * inner["wrong"]) / mean["wrong"], ratio

    everyone = list(range(n))
    whole = forecast_of(everyone)
    without = np.array([forecast_of([unit for unit in everyone if unit != left]) for left in everyone])
    errors = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
    quantile = 2.364624251592785  # of Student's law with 7 degrees of freedom
    row = pick(rows, "forecast", "grpo", "length")
    assert row.estimate == pytest.approx(whole[0], rel=1e-9)
    assert half(row) == pytest.approx(quantile * errors[0], rel=1e-6)
    row = pick(rows, "forecast", "grpo", "length of wrong answers")
    assert row.estimate == pytest.approx(whole[1], rel=1e-9)
    # By the chain rule, which differs from leaving prompts out of the whole by a term of higher order.
    assert half(row) == pytest.approx(quantile * errors[1], rel=0.3)
    row = pick(rows, "functional_value", part="length of wrong answers")
    assert row.estimate == pytest.approx(whole[2], rel=1e-9)


def half(row):
    """The half width on the side that skewness leaves as it is."""
    return min(row.high - row.estimate, row.estimate - row.low)


def test_reward_is_forecast_as_the_gain_says_and_every_functional_states_its_law(bed, registry):
    one = bed.listing()
    evidence = bed.evidence_on(one, bed.sample(one, 6, 2, groups=2), ("rloo",), registry, "fresh", exact=True, own=TWOS)
    rows = forecast.measure(evidence)
    assert not [row for row in rows if row.metric == "forecast_per_reward" and row.part == "reward"]
    values = [row for row in rows if row.metric == "functional_value"]
    assert {row.part for row in values} >= {"reward", "length", "token entropy", "kl", "pass@2", "part form", "twos"}
    for row in values:
        assert "mean over" in row.reason or "E[" in row.reason
        assert row.interval == "none: exact by enumeration"
    row = pick(rows, "forecast", "rloo", "kl")
    assert 0 <= row.p_value <= 1
    assert row.verdict == ("unresolved" if row.low <= 0 <= row.high else "not applicable")


def test_what_cannot_be_forecast_is_said(bed, registry):
    one = bed.listing()
    batch = bed.sample(one, 6, 2)
    batch = replace(batch, columns={name: value for name, value in batch.columns.items() if name != "ref_logp"})
    rows = forecast.measure(bed.evidence_on(one, batch, ("dr-grpo",), registry, "fresh"))
    row = pick(rows, "functional_value", part="kl")
    assert (row.verdict, row.needs) == ("not assessed", ("ref_logp",))
    assert pick(rows, "forecast", "dr-grpo", "length").estimate is not None
    cut = replace(batch, provenance={**batch.provenance, "law": "truncated"})
    rows = forecast.measure(bed.evidence_on(one, cut, ("dr-grpo",), registry, "fresh"))
    assert all(row.verdict == "not assessed" and "sampling law" in row.reason for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True])
def test_intervals_of_estimated_forecasts_hold_the_truth(stale, bed, registry):
    """100 batches of 32 prompts, each drawn; the truth is <∇Φ, E g> over all prompts."""
    one = bed.listing(stale)
    functionals = standard_functionals(bed.sample(one, 2, 0, group_size=4))
    slopes = true_slopes(bed, one, expected_gradient(one, "reinforce", 1), functionals)
    hits = dict.fromkeys(slopes, 0)
    names = {"entropy_change_per_sequence": "sequence entropy", "entropy_change_of_answer": "answer entropy"}
    for seed in range(100):
        batch = bed.sample(one, 32, 100 + seed)
        evidence = bed.evidence_on(one, batch, ("reinforce",), registry, "stale" if stale else "fresh")
        rows: Any = [*forecast.measure(evidence), *entropy.measure(evidence)]
        for row in rows:
            name = row.part if row.metric == "forecast" else names.get(row.metric)
            if name is not None:
                hits[name] += row.low <= slopes[name] <= row.high
    del hits["forward kl"]
    assert all(value >= 87 for value in hits.values()), hits  # at 95 % fewer come once in 1,000


def test_an_experiment_forecasts_a_functional_of_the_user(tmp_path):
    """The whole way, from the file to the rows, with the exact value where answers can be listed."""
    path = tmp_path / "mine.py"
    source = "def digits(data, completion, facts):\n    return len(completion) * (completion != data['answer'])\n"
    path.write_text(source)
    config = ExperimentConfig.demo(prompts=4, group_size=2, groups=2, behavior=None, methods="rloo",
                                   probes=("forecast",), functionals=(f"{path}:digits",))  # fmt: skip
    rows = read_measurements(run_experiment(config, tmp_path / "results"))
    row = pick(rows, "functional_value", part="digits")
    policy, task = embedded_policy("policy"), load_task("arithmetic")
    batch, chance = enumerate_answers(policy, task, task.prompts(4, 0))
    digits = [len(text) * (text != batch.prompts[prompt].data["answer"])
              for prompt, text in zip(batch.prompt.tolist(), batch.completions, strict=True)]  # fmt: skip
    assert row.estimate == pytest.approx(float((chance.double() * torch.tensor(digits)).sum()) / 4, rel=1e-5)
    assert pick(rows, "forecast", "rloo", "digits").n == 8
