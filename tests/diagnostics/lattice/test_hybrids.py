"""Players, hybrids and Shapley weights."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from gradaxis.diagnostics.lattice import build_lattice, identify, shapley_weights
from gradaxis.diagnostics.lattice.hybrids import differing_slots, mix, subsets
from gradaxis.diagnostics.variants import same_slot
from gradaxis.errors import GradaxisError
from gradaxis.estimators import compile
from gradaxis.taxonomy import SLOTS


def valid(method):
    try:
        compile(method)
    except GradaxisError as error:
        return str(error)
    return ""


def by_orders(values, players):
    """What each player changes, averaged over all orders in which they can enter."""
    found = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        present = 0
        for player in order:
            found[player] += values[present | 1 << player] - values[present]
            present |= 1 << player
    return found / len(orders)


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_shapley_values_average_over_all_orders(players):
    values = np.random.default_rng(players).standard_normal(2**players)
    found = shapley_weights(players) @ values
    assert found == pytest.approx(by_orders(values, players), abs=1e-12)
    assert found.sum() == pytest.approx(values[-1] - values[0], abs=1e-12)


def test_a_player_that_changes_nothing_gets_nothing_and_equal_players_get_the_same():
    values = np.random.default_rng(0).standard_normal(8)
    null = np.array([values[number & 0b101] for number in range(8)])  # player 1 changes nothing
    assert (shapley_weights(3) @ null)[1] == pytest.approx(0.0, abs=1e-15)
    symmetric = np.array([values[number.bit_count()] for number in range(8)])
    assert shapley_weights(3) @ symmetric == pytest.approx(np.full(3, (values[3] - values[0]) / 3))


def test_slots_that_require_one_another_move_as_one(registry):
    known = registry.methods
    lattice = build_lattice(known["ppo"], known["reinforce"], known, valid)
    # A clip needs a ratio, and GAE a critic; the aggregation stands alone.
    assert lattice.players == (("ratio", "trust_region"), ("aggregation",), ("baseline", "credit"))
    # GAE starts again from the reward: with another baseline or a spread before it nothing would be left of them.
    lattice = build_lattice(known["grpo"], known["ppo"], known, valid)
    assert lattice.players == (("aggregation",), ("terms",), ("baseline", "scale", "credit"))
    # Both have a ratio, so that either of the two may be exchanged.
    assert build_lattice(known["gspo"], known["grpo"], known, valid).players == (("ratio",), ("trust_region",))


def test_every_lattice_of_the_registry_is_valid_and_ends_at_its_two_methods(registry):
    known = registry.methods
    for method in (one for one in known.values() if one.executable and one.id != "reinforce"):
        for base in dict.fromkeys((method.extends, "reinforce")):
            lattice = build_lattice(method, known[base], known, valid)
            moving = {slot for player in lattice.players for slot in player}
            assert moving == set(differing_slots(method, known[base]))
            hybrids = [mix(method, known[base], taken, known) for taken in subsets(lattice.players)]
            assert [identify(one) for one in hybrids] == list(lattice.hybrids)
            assert not any(map(valid, hybrids))
            assert lattice.hybrids[0] == identify(known[base])
            assert lattice.hybrids[-1] == identify(method)


def test_sampling_is_held_fixed_and_the_lattice_says_so(registry):
    known = registry.methods
    lattice = build_lattice(known["dapo"], known["grpo"], known, valid)
    assert lattice.sampling
    assert "sampling" not in {slot for player in lattice.players for slot in player}
    assert not build_lattice(known["dr-grpo"], known["grpo"], known, valid).sampling


def test_the_corners_of_the_sides_take_all_slots_of_an_axis(registry):
    known = registry.methods
    dr, grpo = known["dr-grpo"], known["grpo"]
    lattice = build_lattice(dr, grpo, known, valid)
    mixed = mix(dr, grpo, ("aggregation", "terms"), known)
    assert [slot for slot in SLOTS if not same_slot(mixed, dr, slot)] == ["scale"]
    assert [slot for slot in SLOTS if not same_slot(mixed, grpo, slot)] == ["aggregation", "terms"]
    assert lattice.sides == (
        identify(grpo), identify(mixed), identify(mix(dr, grpo, ("scale",), known)), identify(dr),
    )  # fmt: skip


def test_a_difference_on_one_side_has_no_two_by_two(registry):
    known = registry.methods
    lattice = build_lattice(known["remax"], known["reinforce"], known, valid)
    assert lattice.sides is None
    assert "reward side only" in lattice.no_sides


def test_streams_go_with_credit(registry):
    known = registry.methods
    gigpo, grpo = known["gigpo"], known["grpo"]
    assert mix(gigpo, grpo, ("credit",), known).streams == gigpo.streams
    assert not mix(gigpo, grpo, ("scale", "terms"), known).streams
    assert identify(mix(gigpo, grpo, ("terms", "scale", "credit"), known)) == identify(gigpo)


def test_names_do_not_depend_on_labels_or_reasons(registry):
    dr = registry.method("dr-grpo")
    spelled = registry.select("grpo[terms.coefficient=0.04]")[0]
    assert identify(spelled) == identify(registry.method("grpo"))
    assert identify(spelled) != identify(dr)
    assert identify(registry.select("grpo[terms.coefficient=0.05]")[0]) != identify(spelled)


def test_more_choices_than_can_be_measured_are_refused_with_the_number(registry, monkeypatch):
    monkeypatch.setattr("gradaxis.diagnostics.lattice.hybrids.MOST_PLAYERS", 2)
    lattice = build_lattice(registry.method("dr-grpo"), registry.method("grpo"), registry.methods, valid)
    assert not lattice.hybrids
    assert "3 choices" in lattice.no_hybrids
    assert lattice.sides is not None
