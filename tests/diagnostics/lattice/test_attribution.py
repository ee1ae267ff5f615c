"""The rows of attribution, against exact values of every hybrid from a list of all groups."""

# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# A row without its number fails the test, which is as it should be.

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import permutations, product
from types import MappingProxyType

import numpy as np
import pytest
import torch

from gradaxis.diagnostics import plan as planning
from gradaxis.diagnostics.lattice import BEND, GAIN, NOISE
from gradaxis.diagnostics.lattice.hybrids import differing_slots, mix, subsets
from gradaxis.diagnostics.plan import plan_evidence, without_model
from gradaxis.diagnostics.probes import attribution
from gradaxis.diagnostics.variants import task_part
from gradaxis.estimators import compile
from gradaxis.estimators.policies import expected_reward
from gradaxis.taxonomy import SLOTS

SIZE = 2


def rows_of(found, **fields):
    return [
        row for row in attribution.measure(found) if all(getattr(row, name) == value for name, value in fields.items())
    ]


@pytest.fixture(scope="module")
def listing(listings):
    return listings("shared-rows", True)


@pytest.fixture(scope="module")
def found(listing, naive, registry):
    batch = naive.draw(listing, prompts=400, groups=1, size=SIZE, seed=11)
    return naive.evidence(listing, batch, [registry.method("dr-grpo")], registry, exact=False)


@pytest.fixture(scope="module")
def exact(listing, registry):
    """Log gain, orthogonal bias² and log tr Σ of a method, from all groups of two answers to each of three prompts."""
    batch = listing.batch
    pairs, chances = [], []
    for prompt in range(listing.prompts):
        rows = torch.nonzero(batch.prompt == prompt).squeeze(1).tolist()
        for first, second in product(rows, rows):
            pairs += [first, second]
            chances.append(float(listing.probability[first] * listing.probability[second]) / listing.prompts)
    every = batch.rows(torch.tensor(pairs))
    count, chance = len(chances), np.array(chances)
    number = torch.arange(count).repeat_interleave(SIZE)
    every = replace(every, prompt=number, group=number, trajectory=torch.arange(SIZE * count), companions={},
                    prompts=tuple(batch.prompts[int(batch.prompt[row])] for row in pairs[::SIZE]))  # fmt: skip
    target = (listing.gradient(expected_reward) @ listing.vectors).numpy()

    def groups(method, task):
        coefficients = compile(method).coefficients(every)
        total = {"logp": coefficients.omega * coefficients.advantage} if task else coefficients.total
        weights = listing.rows_to_vectors(total, torch.tensor(pairs)) @ listing.vectors
        return count * weights.reshape(count, SIZE, -1).sum(dim=1).numpy()

    def of(method):
        bare, whole = groups(task_part(method, registry.methods)[0], True), groups(method, False)
        mean, gradient = chance @ bare, chance @ whole
        along = mean @ target / (target @ target)
        bend = (mean - along * target) @ (mean - along * target) / (along**2 * target @ target)
        noise = chance @ (whole**2).sum(axis=1) - gradient @ gradient
        return {GAIN: np.log(along), BEND: bend, NOISE: np.log(noise)}

    return of


def exact_shapley(exact, method, base, players, known):
    """What every player changes in exact values, averaged over all orders."""
    values = {taken: exact(mix(method, base, taken, known)) for taken in subsets(players)}
    changed = defaultdict(lambda: defaultdict(list))
    for order in permutations(players):
        taken = frozenset()
        for player in order:
            after = taken | set(player)
            for name in (GAIN, BEND, NOISE):
                changed[player][name].append(values[after][name] - values[taken][name])
            taken = after
    return {player: {name: np.mean(steps) for name, steps in by.items()} for player, by in changed.items()}


@pytest.mark.parametrize("base", ["grpo", "reinforce"])
def test_shapley_values_are_those_of_exact_values(base, found, exact, registry):
    known = registry.methods
    lattice = next(one for one in found.measured.plan.lattices if one.base == base)
    expected = exact_shapley(exact, known["dr-grpo"], known[base], lattice.players, known)
    seen = 0
    for name in (GAIN, BEND, NOISE):
        rows = rows_of(found, metric=f"shapley_{name}", compared_with=base)
        assert len(rows) == len(lattice.players)
        for player, row in zip(lattice.players, rows, strict=True):
            assert row.slot == (player[0] if len(player) == 1 else "")
            assert row.part == (" and ".join(player) if len(player) > 1 else "")
            truth = expected[player][name]
            if row.low is None:
                assert row.estimate == 0 == pytest.approx(truth, abs=1e-12)
                continue
            half = (row.high - row.low) / 2
            assert row.estimate == pytest.approx(truth, abs=1.5 * half + 1e-9)  # three standard errors
            seen += row.low <= truth <= row.high
    assert seen >= 6


@pytest.mark.parametrize("base", ["grpo", "reinforce"])
def test_sides_are_those_of_exact_values(base, found, exact, registry):
    known = registry.methods
    method, start = known["dr-grpo"], known[base]
    slots = {axis: [slot for slot in differing_slots(method, start) if SLOTS[slot].axis == axis]
             for axis in ("trajectory", "reward")}  # fmt: skip
    corner = {(t, r): exact(mix(method, start, [*slots["trajectory"] * t, *slots["reward"] * r], known))
              for t in (0, 1) for r in (0, 1)}  # fmt: skip
    for name in (GAIN, BEND, NOISE):
        v = {place: values[name] for place, values in corner.items()}
        expected = {
            ("trajectory", f"with the reward side of {base}"): v[1, 0] - v[0, 0],
            ("trajectory", "with the reward side of dr-grpo"): v[1, 1] - v[0, 1],
            ("reward", f"with the trajectory side of {base}"): v[0, 1] - v[0, 0],
            ("reward", "with the trajectory side of dr-grpo"): v[1, 1] - v[1, 0],
        }
        rows = rows_of(found, metric=f"side_effect_{name}", compared_with=base)
        assert {(row.axis, row.part) for row in rows} == expected.keys()
        rows += rows_of(found, metric=f"side_interaction_{name}", compared_with=base)
        truths = [*(expected.get((row.axis, row.part)) for row in rows[:-1]), v[1, 1] - v[1, 0] - v[0, 1] + v[0, 0]]
        for row, truth in zip(rows, truths, strict=True):
            half = (row.high - row.low) / 2 if row.low is not None else 0.0
            assert row.estimate == pytest.approx(truth, abs=1.5 * half + 1e-9)


@pytest.fixture(scope="module")
def several(listing, naive, registry):
    batch = naive.draw(listing, prompts=24, groups=2, size=4, seed=4)
    methods = [registry.method(name) for name in ("dapo", "grpo", "rloo", "gspo", "reinforce")]
    return naive.evidence(listing, batch, methods, registry, exact=True)


def test_shapley_values_add_up_to_the_whole_difference(several):
    checked = 0
    for row in attribution.measure(several):
        if row.metric.startswith("difference_in_") and row.estimate is not None:
            name = row.metric.removeprefix("difference_in_")
            parts = rows_of(several, metric=f"shapley_{name}", method=row.method, compared_with=row.compared_with)
            if all(part.estimate is not None for part in parts):
                assert sum(part.estimate for part in parts) == pytest.approx(row.estimate, abs=1e-9)
                checked += 1
    assert checked >= 8


def test_the_difference_is_that_of_the_two_methods(several):
    """Of methods that both stand in the evidence: tr Σ as the variance probe has it."""
    row = rows_of(several, metric=f"difference_in_{NOISE}", method="dapo", compared_with="grpo")[0]
    traces = [several.measured.whole[label].trace_covariance() for label in ("grpo", "dapo")]
    assert row.estimate == pytest.approx(np.log(traces[1] / traces[0]))


def test_what_changes_nothing_is_exactly_zero(several):
    """Declared terms are never bias; answers far below the limit are not shaped by it."""
    for name, slot in ((GAIN, "terms"), (BEND, "terms"), (GAIN, "shaping"), (NOISE, "shaping")):
        for row in rows_of(several, metric=f"shapley_{name}", method="dapo", compared_with="grpo", slot=slot):
            assert row.estimate == 0.0
            assert "changes nothing" in row.interval
            assert row.p_value is None
    noise = rows_of(several, metric=f"shapley_{NOISE}", method="dapo", compared_with="grpo", slot="terms")[0]
    assert noise.estimate != 0.0


def test_rows_say_what_is_held_and_what_their_units_are(several):
    rows = rows_of(several, method="dapo", compared_with="grpo")
    assert rows
    assert any("held as these rollouts have it" in row.reason for row in rows)
    shapley = rows_of(several, metric=f"shapley_{GAIN}", method="rloo", slot="baseline")[0]
    assert shapley.n == 48
    assert "between the groups of a prompt" in shapley.interval
    assert rows_of(several, metric=f"shapley_{NOISE}", method="rloo", slot="baseline")[0].n == 24


def test_there_is_no_attribution_of_a_cosine(several):
    assert not any("cosine" in row.metric for row in attribution.measure(several))


def test_a_sign_that_is_not_clear_is_unresolved_and_keeps_its_interval(several):
    for row in attribution.measure(several):
        if row.estimate is not None and row.low is not None:
            assert (row.verdict == "unresolved") == (row.low <= 0 <= row.high)
            assert row.low <= row.estimate <= row.high
            assert 0 <= row.p_value <= 1


def test_a_base_that_lacks_an_input_is_not_assessed(listing, naive, registry):
    batch = naive.draw(listing, prompts=8, groups=1, size=4)
    columns = {name: value for name, value in batch.columns.items() if name != "ref_logp"}
    found = naive.evidence(listing, replace(batch, columns=MappingProxyType(columns)), [registry.method("cispo")],
                           registry, exact=False)  # fmt: skip
    row = rows_of(found, compared_with="grpo")[0]
    assert row.verdict == "not assessed"
    assert row.needs == ("ref_logp",)
    assert rows_of(found, metric=f"shapley_{NOISE}", compared_with="reinforce")[0].verdict != "not assessed"


def test_without_a_target_there_is_noise_and_no_bias(listing, naive, registry):
    batch = naive.draw(listing, prompts=8, groups=1, size=4)
    batch = replace(batch, provenance={**batch.provenance, "law": "truncated"})
    found = naive.evidence(listing, batch, [registry.method("dr-grpo")], registry, exact=False)
    assert {row.verdict for row in rows_of(found, metric=f"shapley_{GAIN}")} == {"not assessed"}
    assert all(row.estimate is not None for row in rows_of(found, metric=f"shapley_{NOISE}"))


def test_few_prompts_leave_hybrids_that_couple_the_batch_unresolved(listing, naive, registry):
    batch = naive.draw(listing, prompts=8, groups=1, size=4)
    found = naive.evidence(listing, batch, [registry.method("dapo")], registry, exact=False)
    for row in rows_of(found, metric=f"shapley_{NOISE}"):
        assert row.verdict == "unresolved"
        assert "couples the batch" in row.reason


def test_hybrids_outside_the_stored_patterns_are_skipped_with_the_reason(listing, naive, registry, monkeypatch):
    """Where answers are long, further patterns would cost further backward passes."""
    monkeypatch.setattr(planning, "SHORT", 0)
    batch = naive.draw(listing, prompts=16, groups=1, size=4)
    found = naive.evidence(listing, batch, [registry.method("dr-grpo")], registry, exact=False)
    rows = rows_of(found, metric=f"shapley_{NOISE}", compared_with="grpo")
    assert [row.verdict for row in rows] == ["not assessed"]
    assert "outside those of the methods" in rows[0].reason


def test_without_a_model_nothing_is_attributed(listing, naive, registry):
    batch = naive.draw(listing, prompts=4, groups=1, size=4)
    plan = plan_evidence("stale", batch, [registry.method("grpo")], registry, gradients=False)
    rows = attribution.measure(without_model(plan, "no model"))
    assert {row.verdict for row in rows} == {"not assessed"}
