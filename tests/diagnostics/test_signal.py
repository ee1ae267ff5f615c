"""Signal: silent groups by kind, length weights and importance weights against explicit loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gradaxis.diagnostics import testbeds
from gradaxis.diagnostics.probes import importance, mismatch, signal, silent_groups, staleness
from gradaxis.diagnostics.testbeds import draw, exact_numbers, load_testbed

METHODS = "reinforce,grpo,dr-grpo,cispo,gspo"


def pick(rows, metric, **wanted) -> Any:
    found = [row for row in rows if row.metric == metric and all(getattr(row, k) == v for k, v in wanted.items())]
    assert len(found) == 1, (metric, wanted, len(found))
    return found[0]


@pytest.fixture(scope="module")
def listing():
    return load_testbed("eos", stale=True, prompts=4, seed=2, drift=0.6)


@pytest.fixture(scope="module")
def stale(listing, registry):
    batch = draw(listing, 12, 2, 4, torch.Generator().manual_seed(0))
    return testbeds.evidence(listing, batch, registry.select(METHODS), registry, "stale", slots=False)


@pytest.fixture(scope="module")
def graded(registry):
    """Rewards of 0, ½ and 1, so that a silent group may be neither right nor wrong."""
    listing = load_testbed("graded", prompts=6, seed=1)
    batch = draw(listing, 40, 3, 2, torch.Generator().manual_seed(1))
    return testbeds.evidence(listing, batch, registry.select("grpo"), registry, "fresh", slots=False)


def test_silent_groups_by_kind_equal_a_loop(graded):
    batch, kinds = graded.batch, {"all_right_groups": [], "all_wrong_groups": [], "constant_groups": []}
    for group in sorted(set(batch.group.tolist())):
        rewards = {round(float(value), 6) for value in batch.reward[batch.group == group]}
        constant = rewards.pop() if len(rewards) == 1 else None
        kinds["all_right_groups"].append(constant == 1.0)
        kinds["all_wrong_groups"].append(constant == 0.0)
        kinds["constant_groups"].append(constant not in (None, 0.0, 1.0))
    rows = silent_groups.measure(graded)
    for metric, found in kinds.items():
        assert sum(found) > 0
        assert pick(rows, metric).estimate == pytest.approx(sum(found) / len(found))
    whole = pick(rows, "silent_groups")
    assert whole.estimate == pytest.approx(sum(sum(found) for found in kinds.values()) / 120)
    heard = 120 - sum(sum(found) for found in kinds.values())
    assert pick(rows, "effective_groups").estimate == heard
    assert pick(rows, "effective_samples").estimate == 2 * heard
    assert whole.n == 40  # the prompts, and not the 120 groups


def test_groups_of_one_prompt_count_as_one_cluster(graded):
    """Each prompt's groups are copies of one another: three times as many groups are no more evidence."""
    keep = torch.nonzero(graded.batch.group % 3 == 0).squeeze(1)
    once = replace(graded, batch=graded.batch.rows(keep), units=graded.units[keep.numpy()], candidates={})
    thrice = graded.batch.rows(keep.repeat(3))
    group = torch.cat([thrice.group[: len(keep)] + copy for copy in range(3)])
    many = replace(once, batch=replace(thrice, group=group), units=np.tile(once.units, 3))
    few, more = (pick(silent_groups.measure(found), "silent_groups") for found in (once, many))
    assert few.estimate == more.estimate
    assert (few.low, few.high) == pytest.approx((more.low, more.high), rel=0.02)


def weights_of(evidence, label):
    coefficients = evidence.candidates[label].coefficients
    return coefficients.omega, coefficients.advantage


@pytest.mark.parametrize("label", METHODS.split(","))
def test_length_weights_equal_loops(label, stale):
    omega, advantage = weights_of(stale, label)
    lengths = stale.batch.length.tolist()
    carried = [sum(abs(float(omega[i, t] * advantage[i, t])) for t in range(n)) for i, n in enumerate(lengths)]
    rows = signal.measure(stale)
    assert pick(rows, "weight_ess", method=label).estimate == pytest.approx(
        sum(carried) ** 2 / (len(carried) * sum(value**2 for value in carried)), rel=1e-9
    )
    for sign in (1, -1):
        points = {"length_slope_token": [], "length_slope_response": []}
        for i, n in enumerate(lengths):
            own = [abs(float(omega[i, t] * advantage[i, t])) for t in range(n) if sign * float(advantage[i, t]) > 0]
            if own:
                points["length_slope_token"].append((n, sum(own) / len(own)))
                points["length_slope_response"].append((n, sum(own)))
        for metric, pairs in points.items():
            found = [r for r in rows if (r.metric, r.method) == (metric, label)
                     and r.part == f"{'positive' if sign > 0 else 'negative'} advantage"]  # fmt: skip
            if not pairs:
                assert found[0].verdict == "not assessed"
                continue
            x, y = np.array(pairs).T
            expected = np.polyfit(x, y, 1)[0] * x.mean() / y.mean()
            assert found[0].estimate == pytest.approx(expected, rel=1e-7)


def test_slopes_are_those_that_the_aggregation_makes(registry):
    """Advantages of ±1 whatever the length: GRPO divides by it, and Dr. GRPO does not."""
    listing = load_testbed("eos", prompts=3, seed=2)
    batch = draw(listing, 16, 1, 2, torch.Generator().manual_seed(4))
    rewards = torch.tensor([0.0, 1.0]).repeat(16)[:, None].to(batch.rewards)
    length = batch.length
    ones = replace(batch, rewards=rewards)
    found = testbeds.evidence(listing, ones, registry.select("grpo,dr-grpo"), registry, "fresh", slots=False,
                              exact=False)  # fmt: skip
    rows = signal.measure(found)
    assert len(set(length.tolist())) == 3
    for part, reward in (("positive advantage", 1.0), ("negative advantage", 0.0)):
        x = length[rewards[:, 0] == reward].double().numpy()
        line = np.polyfit(x, 1 / x, 1)[0] * x.mean() / (1 / x).mean()  # the straight line through 1/L
        for label, token, response in (("dr-grpo", 0.0, 1.0), ("grpo", line, 0.0)):
            at = {"method": label, "part": part}
            assert pick(rows, "length_slope_token", **at).estimate == pytest.approx(token, abs=1e-9)
            assert pick(rows, "length_slope_response", **at).estimate == pytest.approx(response, abs=1e-9)


def test_the_longest_quarter_equals_a_sort(stale):
    lengths = stale.batch.length.tolist()
    rows = signal.measure(stale)
    room, share = len(lengths) / 4, 0.0
    for length in sorted(set(lengths), reverse=True):  # answers of one length share what room is left
        count = lengths.count(length)
        taken = min(room, count)
        share, room = share + taken * length, room - taken
    assert pick(rows, "longest_quarter_tokens").estimate == pytest.approx(share / sum(lengths))
    # Equal weights a token carry as much as there are tokens.
    omega, advantage = weights_of(stale, "reinforce")
    size = (omega * advantage).abs().sum(1).tolist()
    room, share = len(lengths) / 4, 0.0
    for length in sorted(set(lengths), reverse=True):
        own = [value for value, n in zip(size, lengths, strict=True) if n == length]
        taken = min(room, len(own))
        share, room = share + taken / len(own) * sum(own), room - taken
    assert pick(rows, "longest_quarter_weight", method="reinforce").estimate == pytest.approx(share / sum(size))


def test_sizes_and_chi_squared_at_three_levels_equal_loops(stale, listing):
    batch, found = stale.batch, importance.measure(stale)
    new, old = batch.column("logp").tolist(), batch.column("behavior_logp").tolist()
    token, sequence, mean = [], [], []
    for i, n in enumerate(batch.length.tolist()):
        ratios = [math.exp(new[i][t] - old[i][t]) for t in range(n)]
        token += ratios
        sequence.append(math.prod(ratios))
        mean.append(math.prod(ratios) ** (1 / n))
    for part, w in (("token weights", token), ("sequence weights", sequence), ("geometric-mean weights", mean)):
        second = sum(value**2 for value in w) / len(w)
        first = sum(w) / len(w)
        assert pick(found, "ess", part=part).estimate == pytest.approx(first**2 / second, rel=1e-9)
        chi2 = second / first**2 - 1 if part.startswith("geometric") else second - 1
        assert pick(found, "chi2", part=part).estimate == pytest.approx(chi2, rel=1e-9, abs=1e-12)
    outside = [value < 0.5 or value > 2 for value in token]
    assert pick(found, "outlier_ratios", part="tokens").estimate == pytest.approx(sum(outside) / len(token))
    for position in range(3):
        here = [(math.exp(new[i][position] - old[i][position])) for i, n in enumerate(batch.length.tolist())
                if n > position]  # fmt: skip
        row = pick(found, "outlier_ratios", part=f"position {position}")
        assert row.estimate == pytest.approx(sum(r < 0.5 or r > 2 for r in here) / len(here))
        row = pick(found, "largest_log_ratio", part=f"position {position}")
        assert row.estimate == pytest.approx(max(abs(math.log(r)) for r in here))


def test_long_answers_are_cut_into_ten_runs_of_positions(stale):
    size, width = stale.batch.size, 40
    long = replace(
        stale.batch, tokens=torch.ones(size, width, dtype=torch.int64), mask=torch.ones(size, width, dtype=torch.bool),
        columns={name: torch.zeros(size, width) for name in ("logp", "behavior_logp")},
    )  # fmt: skip
    long.columns["behavior_logp"][:, 7] = -1.0
    rows = importance.measure(replace(stale, batch=long, candidates={}))
    shares = {row.part: row.estimate or 0.0 for row in rows if row.metric == "outlier_ratios"}
    assert len(shares) == 11
    assert shares["positions 4 to 7"] == pytest.approx(1 / 4)
    assert shares["tokens"] == pytest.approx(1 / 40)
    assert sum(shares.values()) == pytest.approx(1 / 4 + 1 / 40)


@pytest.mark.parametrize(("label", "low", "high"), [("grpo", 0.8, 1.2), ("dr-grpo", 0.8, 1.2), ("cispo", 0.0, 1.2),
                                                    ("gspo", 1 - 3e-4, 1 + 4e-4)])  # fmt: skip
def test_clipped_tokens_by_sign_and_bound_equal_loops(label, low, high, stale):
    """GRPO's bounds act where A pushes against them; CISPO caps every ratio; GSPO clips whole answers."""
    batch, (_, advantage) = stale.batch, weights_of(stale, label)
    counts, total = dict.fromkeys([(s, b) for s in ("positive", "negative") for b in ("above", "below")], 0), 0
    gaps = (batch.column("logp") - batch.column("old_logp")).tolist()
    for i, n in enumerate(batch.length.tolist()):
        pooled = math.exp(sum(gaps[i][:n]) / n)
        for t in range(n):
            ratio = pooled if label == "gspo" else math.exp(gaps[i][t])
            a, total = float(advantage[i, t]), total + 1
            over = ratio > high and (a > 0 or label == "cispo")
            under = ratio < low and (a < 0 or label == "cispo")
            if a != 0 and (over or under):
                counts["positive" if a > 0 else "negative", "above" if over else "below"] += 1
    rows = importance.measure(stale)
    assert counts["positive", "above"] > 0
    for (sign, bound), count in counts.items():
        row = pick(rows, "clip_fraction", method=label, part=f"{sign} advantage, {bound}")
        assert row.estimate == pytest.approx(count / total), (sign, bound)


def test_the_bound_is_that_of_the_methods_own_anchor(stale):
    """Another engine sampled, so that behaviour and old policy differ: the ratio is to the old one all the same."""
    columns = {"behavior_logp": stale.batch.column("behavior_logp") - 5.0}
    found = replace(stale, batch=stale.batch.with_columns(columns))
    before, after = importance.measure(stale), importance.measure(found)
    for part in ("positive advantage, above", "negative advantage, below"):
        wanted = {"method": "grpo", "part": part}
        assert pick(after, "clip_fraction", **wanted).estimate == pick(before, "clip_fraction", **wanted).estimate
    outlying = [pick(rows, "outlier_ratios", part="tokens").estimate for rows in (before, after)]
    assert outlying[0] < outlying[1]


def test_exact_values_stand_beside_the_sampled_ones_and_are_held(stale, listing):
    """ESS/N of infinitely many answers is 1 / (1 + χ²), by a sum over all answers of the prompts drawn."""
    whole = listing.batch
    drawn = [next(p for p, prompt in enumerate(whole.prompts) if prompt.tokens == stale.batch.prompts[number].tokens)
             for number in stale.batch.prompt.unique().tolist()]  # fmt: skip
    second = 0.0
    for prompt in drawn:
        for row in torch.nonzero(whole.prompt == prompt).flatten().tolist():
            n = int(whole.length[row])
            gap = float((whole.column("logp") - whole.column("behavior_logp"))[row, :n].sum())
            second += float(listing.probability[row]) * math.exp(2 * gap) / len(drawn)
    known = {**exact_numbers(listing, stale.batch), "drift": {"ess_seq": 1 / second, "chi2_seq": second - 1, "kl": 0.1}}
    rows = importance.measure(replace(stale, exact_values=known))
    exact, found = pick(rows, "exact_ess"), pick(rows, "ess", part="sequence weights")
    assert exact.part == "sequence weights"
    assert exact.estimate == pytest.approx(1 / (1 + pick(rows, "exact_chi2").estimate))
    assert found.low <= exact.estimate <= found.high


def test_staleness_and_mismatch_are_two_things(stale):
    """One engine: all of the drift is staleness. The same weights in another engine: all of it is mismatch."""
    of = lambda probe, evidence: {row.metric: row.estimate for row in probe.measure(evidence)}  # noqa: E731
    batch = stale.batch
    assert of(staleness, stale)["k3_kl"] > 0.01
    assert of(mismatch, stale)["k3_kl"] == pytest.approx(0.0, abs=1e-12)
    engine = replace(stale, point="engine-int8", batch=batch.with_columns({"old_logp": batch.column("logp")}))
    assert of(staleness, engine)["k3_kl"] == 0.0
    assert of(mismatch, engine)["k3_kl"] == pytest.approx(of(staleness, stale)["k3_kl"])
    row = pick(mismatch.measure(engine), "mult_prob_error")
    assert (row.verdict, row.threshold) == ("watch", 1.05)
    assert pick(mismatch.measure(stale), "mult_prob_error").verdict == "ok"
    gap = (batch.column("logp").exp() - batch.column("behavior_logp").exp()).abs()[batch.mask].max()
    assert of(mismatch, engine)["probs_diff_max"] == pytest.approx(float(gap))


def test_without_a_column_the_probe_says_which(stale):
    columns = {name: value for name, value in stale.batch.columns.items() if name != "old_logp"}
    (row,) = mismatch.measure(replace(stale, batch=replace(stale.batch, columns=columns)))
    assert (row.verdict, row.needs) == ("not assessed", ("old_logp",))
    assert row.advice


def test_empty_input_is_not_assessed(stale):
    none = replace(stale, batch=replace(stale.batch, mask=torch.zeros_like(stale.batch.mask)), candidates={})
    for probe in (signal, staleness, mismatch, importance):
        rows = probe.measure(none)
        assert rows
        assert all(row.estimate is None for row in rows)
        assert {row.verdict for row in rows} == {"not assessed"}
