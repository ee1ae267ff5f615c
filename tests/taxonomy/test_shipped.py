"""The registry that ships with the package: every file, and what is known of the methods from their papers."""

from __future__ import annotations

import pytest

from gradaxis.taxonomy import SLOTS, compare
from gradaxis.taxonomy.loading import expand, read_source
from gradaxis.taxonomy.registry import SHIPPED

FILES = expand([SHIPPED])


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SHIPPED)) for path in FILES])
def test_every_file_is_valid(path) -> None:
    source = read_source(path)
    assert [str(problem) for problem in source.problems] == []
    if source.kind == "methods":
        assert (path.stem, path.parent.name) == (source.content.id, source.content.family)
    elif source.kind != "operators":
        assert path.stem == source.content.id


SPINE = {
    "reinforce", "reinforce-baseline", "rloo", "remax", "ppo", "grpo", "dr-grpo", "dapo", "gspo", "cispo",
    "reinforce-plus-plus", "gigpo", "grpo-opd",
}  # fmt: skip


def test_spine_is_there(registry) -> None:
    assert registry.methods.keys() >= SPINE
    assert all(registry.method(id_).executable for id_ in SPINE)


# worked out by hand from the papers' own equations
@pytest.mark.parametrize(
    ("id_", "parent", "side"),
    [("reinforce", None, "origin"), ("reinforce-baseline", "reinforce", "reward"), ("rloo", "reinforce", "reward"),
     ("remax", "reinforce", "reward"), ("ppo", "reinforce", "both"), ("grpo", "ppo", "both"), ("dr-grpo", "grpo",
     "both"),
     ("dapo", "grpo", "both"), ("gspo", "grpo", "trajectory"), ("cispo", "grpo", "trajectory"),
     ("reinforce-plus-plus", "ppo", "reward"), ("gigpo", "grpo", "both"), ("grpo-opd", "grpo", "reward")],
)  # fmt: skip
def test_sides(registry, id_, parent, side) -> None:
    method = registry.method(id_)
    assert (method.extends, method.side) == (parent, side)


def test_dapo_against_grpo(registry) -> None:
    found = {(d.slot, d.label, d.change): dict(d.parameters)
             for d in compare(registry.method("grpo"), registry.method("dapo"))}  # fmt: skip
    assert found == {
        ("sampling", "refill_groups", "added"): {},
        ("trust_region", "clip_ratio", "changed"): {"high": (0.2, 0.28)},
        ("aggregation", "aggregate_tokens", "changed"): {
            "weight": ("inverse_length", "one"), "constant": ("sequences", "tokens")
        },
        ("terms", "penalise_kl", "removed"): {},
        ("shaping", "shape_by_length", "added"): {},
        ("selection", "drop_zero_variance", "added"): {},
    }  # fmt: skip


def test_teacher_enters_credit(registry) -> None:
    assert registry.method("grpo-opd").teacher_entries == ("T_B",)
    assert all(m.teacher_entries == () for m in registry.methods.values() if not m.teachers)


def test_min_clip_couples_the_axes(registry) -> None:
    clip = {"slot": "trust_region", "operator": "clip_ratio", "reads": ["advantage"]}
    assert clip in registry.method("grpo").couplings
    # CISPO's weight clip reads no advantage
    assert registry.method("cispo").couplings == ()


def test_critics_greedy_answers_and_turns_are_needed_where_they_are_read(registry) -> None:
    needs = {id_: {need.column for need in registry.method(id_).needs} for id_ in SPINE}
    assert {id_ for id_, columns in needs.items() if "value" in columns} == {"ppo"}
    assert {id_ for id_, columns in needs.items() if "companion:greedy" in columns} == {"remax"}
    assert {id_ for id_, columns in needs.items() if "turns" in columns} == {"gigpo"}
    assert {id_ for id_, columns in needs.items() if "teacher_logp" in columns} == {"grpo-opd"}
    assert needs["reinforce"] == set()


def test_every_failure_names_slots_and_is_addressed_where_it_says(registry) -> None:
    addressed = {failure for method in registry.methods.values() for failure in method.addresses}
    assert addressed <= registry.failures.keys() | registry.compounds.keys()
    for failure in registry.failures.values():
        assert set(failure.slots) <= SLOTS.keys()


def test_every_operator_of_a_method_is_declared_for_its_slot(registry) -> None:
    for method in registry.methods.values():
        for slot, items in method.all_slots().items():
            assert all(placed.declaration.slot == slot.split(".")[-1] for placed in items)
