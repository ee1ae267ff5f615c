"""Entropy: levels and quantiles against loops, the covariance law, prices, distinct answers, and the fit."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.entropy_fit import fit_reward_to_entropy, fit_rows, read_training_log
from gradaxis.diagnostics.measurements import Measurement
from gradaxis.diagnostics.probes import entropy
from gradaxis.diagnostics.probes.entropy_tokens import quantile, top_share
from gradaxis.errors import InputError
from gradaxis.estimators import compile


def pick(rows, metric, method="", part=None) -> Any:
    (row,) = [row for row in rows if (row.metric, row.method) == (metric, method) and part in (None, row.part)]
    return row


@pytest.fixture(scope="module")
def found(bed, registry):
    one = bed.listing()
    batch = bed.sample(one, 12, 4)
    return one, batch, bed.evidence_on(one, batch, ("grpo", "rloo", "reinforce-baseline"), registry, "fresh")


def tokens(batch, values):
    """(prompt, value) of every policy token, by a loop."""
    return [(int(batch.prompt[i]), float(values[i, t])) for i in range(batch.size) for t in range(values.shape[1])
            if batch.mask[i, t]]  # fmt: skip


def jackknife(statistic, n):
    """Estimate and standard error of a statistic of a list of units, by leaving each out in a loop."""
    without = np.array([statistic([unit for unit in range(n) if unit != left]) for left in range(n)])
    return statistic(list(range(n))), math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))


def test_levels_equal_loops_and_have_their_jackknife(found):
    _, batch, evidence = found
    rows = entropy.measure(evidence)
    held = tokens(batch, batch.column("entropy"))

    def by_sequence(units):
        rows = [i for i in range(batch.size) if int(batch.prompt[i]) in units]
        return float(np.mean([float(batch.column("entropy")[i, : batch.length[i]].mean()) for i in rows]))

    def top(units):
        values = sorted((value for prompt, value in held if prompt in units), reverse=True)
        return sum(values[: round(0.2 * len(values))]) / sum(values)

    statistics = {
        "entropy": lambda units: float(np.mean([value for prompt, value in held if prompt in units])),
        "entropy_per_sequence": by_sequence, "entropy_top_share": top,
    }  # fmt: skip
    for metric, statistic in statistics.items():
        value, error = jackknife(statistic, 12)
        row = pick(rows, metric)
        assert row.estimate == pytest.approx(value, rel=1e-9)
        assert row.high - row.low == pytest.approx(2 * 2.200985160082949 * error, rel=1e-6)  # Student, 11 degrees
    for tenth in (1, 5, 9):
        row = pick(rows, "entropy_quantile", part=f"{tenth}0 % of tokens lie below")
        assert row.estimate == pytest.approx(np.quantile([value for _, value in held], tenth / 10))
        assert row.low <= row.estimate <= row.high


def test_quantile_intervals_hold_the_true_quantile():
    """Tokens of 40 prompts that differ in level: the median of the mixture is 0."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(200):
        units = np.repeat(np.arange(40), 8)
        values = generator.normal(size=40)[units] + generator.normal(size=320)
        low, high, _ = quantile(values, units, 40, 0.5).interval
        hits += low <= 0 <= high
    assert 180 <= hits <= 199  # 190 expected; tokens taken as independent would give about 150


def test_the_top_share_of_a_hand_made_case():
    # The largest of five holds 6 of 12; without prompt 1 (6 and 1) the largest of 2, 2, 1 holds 2 of 5.
    found = top_share(np.array([2.0, 2.0, 1.0, 6.0, 1.0]), np.array([0, 0, 0, 1, 1]), 2, 0.2)
    assert found.value == pytest.approx(0.5)
    assert math.isnan(top_share(np.zeros(4), np.array([0, 0, 1, 1]), 2, 0.2).value)


def test_the_covariance_and_its_top_shares_equal_loops(found):
    _, batch, evidence = found
    rows = entropy.measure(evidence)
    for label in ("grpo", "rloo"):
        advantage = evidence.candidates[label].coefficients.advantage
        pairs = list(zip(tokens(batch, batch.column("logp")), tokens(batch, advantage), strict=True))
        mean = [sum(pair[side][1] for pair in pairs) / len(pairs) for side in (0, 1)]
        c = [(first[1] - mean[0]) * (second[1] - mean[1]) for first, second in pairs]
        assert pick(rows, "logp_advantage_covariance", label).estimate == pytest.approx(sum(c) / len(c), rel=1e-6)
        ordered = sorted(c, reverse=True)
        for share in (0.02, 0.2):
            count = max(1, round(share * len(c)))
            expected = sum(max(value, 0) for value in ordered[:count]) / sum(max(value, 0) for value in c)
            row = pick(rows, "covariance_top_share", label, f"top {100 * share:g} % of tokens")
            assert row.estimate == pytest.approx(expected, rel=1e-6)
        row = pick(rows, "covariance_top_share", label, "top 0.2 % of tokens")
        assert (row.verdict, row.estimate) == ("not assessed", None)  # fewer than 500 tokens


def test_the_covariance_law_of_a_softmax():
    """dH = −Cov_{a∼π}(log π(a), dz(a)): what the metric rests on (arXiv 2505.22617, theorem 1)."""
    z = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    dz = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    log = z.log_softmax(0)
    change = float(torch.autograd.grad(-(log.exp() * log).sum(), z)[0] @ dz)
    p = log.exp().detach()
    covariance = float((p * log.detach() * dz).sum() - (p * log.detach()).sum() * (p * dz).sum())
    assert change == pytest.approx(-covariance, abs=1e-12)


def test_every_mean_entropy_has_its_own_row_and_the_frozen_one_is_that_of_explicit_vectors(found):
    one, batch, evidence = found
    rows = entropy.measure(evidence)
    placed, n = one.locate(batch), 12

    def units(total):
        return np.stack([
            n * one.to_parameters(one.coefficients_to_vector({name: value[batch.prompt == unit] for name, value in
                total.items()}, placed[batch.prompt == unit])).numpy() for unit in range(n)
        ])  # fmt: skip

    own, frozen = units(compile("grpo").coefficients(batch).total), units({"entropy": batch.mask / batch.mask.sum()})
    expected = sum(own[j] @ frozen[k] for j in range(n) for k in range(n) if j != k) / (n * (n - 1))
    assert pick(rows, "entropy_change_frozen_prefix", "grpo").estimate == pytest.approx(expected, rel=1e-6)
    main = pick(rows, "entropy_change", "grpo")
    assert main.estimate == pytest.approx(expected, rel=1e-6)  # no exact gradient of the entropy here
    assert main.part == "at the contexts of these rollouts"
    others = {metric: pick(rows, f"entropy_change_{metric}", "grpo") for metric in entropy.VARIANTS}
    assert len({row.estimate for row in (main, *others.values())}) == 4
    assert others["of_answer"].unit.startswith("nats an answer")


def test_the_price_is_what_is_lost_for_a_unit_of_reward(bed, registry):
    one = bed.listing()
    batch = bed.sample(one, [0, 1, 2] * 8, 5, groups=4)
    rows = entropy.measure(bed.evidence_on(one, batch, ("rloo",), registry, "fresh", exact=True))
    change, price = (pick(rows, f"entropy_{metric}_as_logged", "rloo") for metric in ("change", "price"))
    assert change.part == "exact gradient of the entropy, these prompts"
    assert math.copysign(1, price.estimate) == -math.copysign(1, change.estimate)
    assert price.low <= price.estimate <= price.high
    assert pick(rows, "entropy_price", "rloo").estimate == price.estimate


def test_the_share_of_the_tokens_of_highest_entropy(found):
    """<E g_top, E g> / |E g|² by loops over explicit vectors; with the share of the other tokens it adds up to one."""
    one, batch, evidence = found
    rows = entropy.measure(evidence)
    total = compile("rloo").coefficients(batch).total["logp"]
    ordered = sorted((value for _, value in tokens(batch, batch.column("entropy"))), reverse=True)
    chosen = batch.mask & (batch.column("entropy") >= ordered[round(0.2 * len(ordered)) - 1])
    placed, n = one.locate(batch), 12

    def units(part):
        rows = [batch.prompt == unit for unit in range(n)]
        weights = [one.coefficients_to_vector({"logp": part[own]}, placed[own]) for own in rows]
        return one.to_parameters(torch.stack(weights)).numpy()

    def inner(first, second):
        return sum(first[j] @ second[k] for j in range(n) for k in range(n) if j != k)

    whole, top = units(total), units(total * chosen)
    row = pick(rows, "top_entropy_gradient_share", "rloo")
    share = inner(top, whole) / inner(whole, whole)
    assert row.low <= share <= row.high
    assert row.estimate is None or row.estimate == pytest.approx(share, rel=1e-8)
    assert share + inner(units(total * ~chosen), whole) / inner(whole, whole) == pytest.approx(1)


def test_distinct_answers_equal_sets_and_the_enumerated_expectation(found, evidence):
    _, batch, one = found
    groups = {}
    for i in range(batch.size):
        groups.setdefault(int(batch.group[i]), set()).add(tuple(batch.tokens[i, : batch.length[i]].tolist()))
    row = pick(entropy.measure(one), "distinct_answers")
    assert row.estimate == pytest.approx(np.mean([len(answers) for answers in groups.values()]))
    rows = entropy.measure(evidence("fresh"))  # of the embedded policy
    row, expected = pick(rows, "distinct_answers"), pick(rows, "expected_distinct_answers")
    assert expected.interval == "none: exact by enumeration"
    assert abs(row.estimate - expected.estimate) < 3 * (row.high - row.low) / 2
    assert 1 < expected.estimate < 4


def test_the_fit_finds_a_line_and_its_ceiling():
    generator = np.random.default_rng(1)
    hits: dict[str, int] = dict.fromkeys(("slope", "level", "ceiling"), 0)
    entropies = np.linspace(0.1, 1.2, 8)
    for _ in range(300):
        rewards = 0.9 - 0.15 * np.exp(entropies) + 0.02 * generator.normal(size=8)
        fit = fit_reward_to_entropy(entropies, rewards)
        for name, true in (("slope", 0.15), ("level", 0.9), ("ceiling", 0.75)):
            low, high, _ = getattr(fit, name).interval
            hits[name] += low <= true <= high
    assert all(273 <= count <= 297 for count in hits.values()), hits  # 285 expected
    assert fit.explained > 0.9
    with pytest.raises(InputError, match="differ"):
        fit_reward_to_entropy(np.ones(3), np.arange(3.0))


def test_the_fit_takes_the_log_and_the_policy_and_says_what_is_missing(tmp_path):
    here = [Measurement("entropy", "entropy", estimate=math.log(2)), Measurement("reward", "mean_reward", estimate=0.6)]
    (row,) = fit_rows(here, None)
    assert row.verdict == "not assessed"
    assert "--training-log" in row.advice
    path = tmp_path / "log.csv"
    path.write_text(f"step,entropy,reward\n1,{math.log(3)},0.4\n2,,0.5\n3,{math.log(1.5)},0.7\n")
    rows = {row.metric: row for row in fit_rows(here, str(path))}
    assert rows["entropy_fit_ceiling"].estimate == pytest.approx(0.8)  # R = 1 − 0.2 e^H
    assert rows["entropy_fit_slope"].estimate == pytest.approx(0.2)
    assert rows["entropy_fit_explained"].estimate == pytest.approx(1.0)
    assert rows["entropy_fit_ceiling"].n == 3
    lines = [json.dumps({"entropy": 1.0, "reward": 0.5}), json.dumps({"entropy": 0.5, "other": 1})]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert read_training_log(tmp_path / "log.jsonl") == [(1.0, 0.5)]
    (tmp_path / "bad.csv").write_text("entropy,score\n1,2\n")
    with pytest.raises(InputError, match="entropy and reward"):
        read_training_log(tmp_path / "bad.csv")
