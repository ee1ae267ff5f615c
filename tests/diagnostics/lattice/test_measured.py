"""What is read off hybrids, against explicit gradients of every unit in parameter space."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from gradaxis.diagnostics.lattice import BEND, GAIN, NOISE, leave_outs
from gradaxis.diagnostics.lattice.hybrids import mix, subsets
from gradaxis.diagnostics.statistics import jackknife_interval
from gradaxis.diagnostics.variants import task_part, unbiased_reference
from gradaxis.estimators import compile
from gradaxis.estimators.policies import expected_reward


def average_over_pairs(first, second):
    """<E a, E b> from all pairs of different units."""
    return np.mean([a @ b for i, a in enumerate(first) for j, b in enumerate(second) if i != j])


def numbers_of(units, task_units, target):
    """Log gain, orthogonal bias² and log tr Σ, with prompts as draws."""
    along, length = average_over_pairs(task_units, target), average_over_pairs(target, target)
    bend = average_over_pairs(task_units, task_units) * length / along**2 - 1
    return np.log(along / length), bend, np.log(np.var(units, axis=0, ddof=1).sum())


def without(units, j):
    return np.delete(units, j, axis=0)


def hybrids_of(lattice, registry):
    method, base = registry.select(lattice.method)[0], registry.methods[lattice.base]
    return [mix(method, base, taken, registry.methods) for taken in subsets(lattice.players)]


@pytest.mark.parametrize(("label", "stale"), [("cispo", True), ("dapo", False), ("reinforce-plus-plus", True)])
def test_values_of_hybrids_are_those_of_explicit_units(label, stale, listings, naive, registry):
    """Batch-coupled hybrids among them, with every prompt left out of coefficients that are computed anew."""
    listing = listings("shared-rows", stale)
    batch = naive.draw(listing, prompts=18, groups=1, size=4, seed=3)
    found = naive.evidence(listing, batch, [registry.method(label)], registry, exact=False)
    reference = compile(unbiased_reference(registry, batch, fresh=not stale))
    target = naive.units(listing, reference, batch)
    measured = found.measured
    lattice = measured.plan.lattices[0]
    coupled = 0
    for name, hybrid in zip(lattice.hybrids, hybrids_of(lattice, registry), strict=True):
        cell = measured.plan.cells[name]
        estimator, stripped = compile(hybrid), compile(task_part(hybrid, registry.methods)[0])
        coupled += estimator.couples == "batch"
        units, task_units = naive.units(listing, estimator, batch), naive.units(listing, stripped, batch, task=True)
        expected = numbers_of(units, task_units, target)
        left = [numbers_of(without(units, j), without(task_units, j), without(target, j)) for j in range(18)]
        for place, (value, number) in enumerate(((GAIN, cell.task), (BEND, cell.task), (NOISE, cell.whole))):
            values = measured.values[value]
            if number in values.unresolved:
                assert value != NOISE
                continue
            assert values.estimate[number] == pytest.approx(expected[place], rel=1e-6, abs=1e-8)
            assert values.spread[number] == pytest.approx(np.array(left)[:, place], rel=1e-5, abs=1e-7)
    assert coupled


def test_a_hidden_gain_is_unresolved_where_its_interval_holds_zero(listings, naive, registry):
    listing = listings("eos", True)
    batch = naive.draw(listing, prompts=8, groups=1, size=2, seed=1)
    found = naive.evidence(listing, batch, [registry.method("dr-grpo")], registry, exact=False)
    target = naive.units(listing, compile(unbiased_reference(registry, batch, fresh=False)), batch)
    values = found.measured.values[GAIN]
    hidden = 0
    for lattice in found.measured.plan.lattices:
        for name, hybrid in zip(lattice.hybrids, hybrids_of(lattice, registry), strict=True):
            stripped = compile(task_part(hybrid, registry.methods)[0])
            units = naive.units(listing, stripped, batch, task=True)
            ends = []
            for one in (units, target):
                left = np.array([float(average_over_pairs(without(one, j), without(target, j))) for j in range(8)])
                ends.append(jackknife_interval(float(average_over_pairs(one, target)), left).low)
            number = found.measured.plan.cells[name].task
            assert (number in values.unresolved) == (min(ends) <= 0)
            hidden += number in values.unresolved
    assert hidden


@pytest.mark.parametrize("label", ["dr-grpo", "cispo"])
def test_beside_exact_gradients_groups_are_the_units(label, listings, naive, registry):
    """The values, and spreads of first order that come from moving each group's weight a little."""
    listing = listings("shared-rows", True)
    batch = naive.draw(listing, prompts=6, groups=4, size=3, seed=5)
    found = naive.evidence(listing, batch, [registry.method(label)], registry, exact=True)
    measured, lattice = found.measured, found.measured.plan.lattices[0]
    assert measured.values[GAIN].strata is not None
    prompt_of = np.repeat(np.arange(6), 4)
    vectors = listing.vectors.numpy()
    known = {tokens.tokens: number for number, tokens in enumerate(listing.batch.prompts)}
    source = [known[batch.prompts[number].tokens] for number in batch.prompt.unique().tolist()]
    exact = np.stack([listing.gradient(expected_reward, prompt).numpy() @ vectors for prompt in source])
    target = exact.mean(axis=0)
    reference = groups_of(naive, listing, compile(unbiased_reference(registry, batch, fresh=False)), batch, 24)
    noise = reference - exact[prompt_of]

    def centred(units):
        return units - np.stack([units[prompt_of == p].mean(axis=0) for p in range(6)])[prompt_of]

    def values(units, share):
        """Log gain and orthogonal bias² of a mean with these weights, less the noise of the plain mean."""
        spread = centred(units) / np.sqrt(6**2 * 4 * 3)
        mean, direction = share @ units, target / np.linalg.norm(target)
        ahead = (mean @ direction) ** 2 - ((spread @ direction) ** 2).sum()
        across = mean @ mean - (mean @ direction) ** 2 - (spread**2).sum() + ((spread @ direction) ** 2).sum()
        return np.array([np.log(mean @ direction / np.linalg.norm(target)), across / ahead])

    checked = 0
    for name, hybrid in zip(lattice.hybrids, hybrids_of(lattice, registry), strict=True):
        number = measured.plan.cells[name].task
        if number in measured.values[GAIN].unresolved:
            continue
        stripped = compile(task_part(hybrid, registry.methods)[0])
        units = groups_of(naive, listing, stripped, batch, 24, task=True)
        factor = (centred(units) * centred(noise)).sum() / (centred(noise) ** 2).sum()
        units = units - factor * noise
        share = np.full(24, 1 / 24)
        expected = values(units, share)
        steps = 1e-6 * np.eye(24)
        moved = [(values(units, share + step) - values(units, share - step)) / 2e-6 for step in steps]
        slopes = np.stack([centred(np.array(moved)[:, [place]])[:, 0] for place in range(2)])
        for place, value in enumerate((GAIN, BEND)):
            found_values = measured.values[value]
            assert found_values.estimate[number] == pytest.approx(expected[place], rel=1e-6, abs=1e-7)
            spread = centred(found_values.spread[number][:, None])[:, 0]
            assert spread == pytest.approx(slopes[place], rel=1e-3, abs=1e-4 * np.abs(slopes[place]).max())
        checked += 1
    assert checked >= 4


def groups_of(naive, listing, estimator, batch, count, task=False):
    """One vector a group [M, D]: the method's own part, or the jackknife's influence where it couples the batch."""
    whole = naive.gradient(listing, estimator, batch, task)
    rows = []
    for number in batch.group.unique().tolist():
        rest = batch.rows(torch.nonzero(batch.group != number).squeeze(1))
        rows.append(count * whole - (count - 1) * naive.gradient(listing, estimator, rest, task))
    found = np.stack(rows)
    return found - found.mean(axis=0) + whole


def test_noise_divides_into_that_within_prompts_and_that_between_them(listings, naive, registry):
    listing = listings("shared-rows", False)
    batch = naive.draw(listing, prompts=10, groups=3, size=4, seed=2)
    found = naive.evidence(listing, batch, [registry.method("rloo"), registry.method("gspo")], registry, exact=False)
    for label in ("rloo", "gspo"):
        estimator = compile(registry.method(label))
        parts = defaultdict(list)
        for number, prompt in {int(g): int(p) for g, p in zip(batch.group, batch.prompt, strict=True)}.items():
            rows = torch.nonzero(batch.group == number).squeeze(1)
            # Neither couples groups, so that a group alone has the gradient it has in the batch, times its share.
            parts[prompt].append(naive.gradient(listing, estimator, batch.rows(rows)))
        expected = [np.var(np.stack(groups), axis=0, ddof=1).sum() / len(groups) for groups in parts.values()]
        assert found.measured.within[label] == pytest.approx(np.array(expected), rel=1e-6)
        means = np.stack([np.mean(groups, axis=0) for groups in parts.values()])
        total = found.measured.whole[label].trace_covariance()
        assert total == pytest.approx(np.var(means, axis=0, ddof=1).sum(), rel=1e-6)


def test_parts_by_position_are_those_of_explicit_gradients_and_add_up(listings, naive, registry):
    listing = listings("shared-rows", True)
    batch = naive.draw(listing, prompts=16, groups=1, size=4, seed=2)
    found = naive.evidence(listing, batch, [registry.method("dapo")], registry, exact=False)
    parts, whole = found.measured.positions["dapo"], found.measured.whole["dapo"]
    assert list(parts) == ["position 1", "position 2", "position 3"]
    assert sum(part.trace_covariance() for part in parts.values()) == pytest.approx(whole.trace_covariance())
    assert sum(part.inner_of_means() for part in parts.values()) == pytest.approx(whole.inner_of_means())
    estimator = compile(registry.method("dapo"))
    for place, part in enumerate(parts.values()):
        here = units_at(listing, estimator, batch, place)
        every = np.sum([units_at(listing, estimator, batch, at) for at in range(3)], axis=0)
        covariance = ((here - here.mean(axis=0)) * (every - every.mean(axis=0))).sum() / 15
        assert part.trace_covariance() == pytest.approx(covariance, rel=1e-6)
        assert part.inner_of_means() == pytest.approx(average_over_pairs(here, every), rel=1e-5)


def units_at(listing, estimator, batch, position):
    """Pseudo-values of the gradient at one position."""

    def at(rows):
        total = estimator.coefficients(rows).total["logp"].clone()
        total[:, [other for other in range(total.shape[1]) if other != position]] = 0.0
        return (listing.coefficients_to_vector({"logp": total}, listing.locate(rows)) @ listing.vectors).numpy()

    n, whole = 16, at(batch)
    left = [at(batch.rows(torch.nonzero(batch.prompt != number).squeeze(1))) for number in range(n)]
    rows = np.stack([n * whole - (n - 1) * one for one in left])
    return rows - rows.mean(axis=0) + whole


def test_leaving_units_out_at_once_is_leaving_their_rows_away(listings, naive, registry, monkeypatch):
    listing = listings("shared-rows", True)
    batch = naive.draw(listing, prompts=16, groups=1, size=4, seed=2)
    at_once = naive.evidence(listing, batch, [registry.method("reinforce-plus-plus")], registry, exact=False)
    monkeypatch.setattr(leave_outs, "AGREES", -1.0)  # nothing agrees, so that every rest is computed by itself
    one_by_one = naive.evidence(listing, batch, [registry.method("reinforce-plus-plus")], registry, exact=False)
    for name, values in at_once.measured.values.items():
        expected = one_by_one.measured.values[name]
        assert values.spread == pytest.approx(expected.spread, rel=1e-8, abs=1e-8, nan_ok=True)
