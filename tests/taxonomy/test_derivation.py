"""Sides, couplings, needs and the rest, against answers derived by hand."""

from __future__ import annotations

import pytest

from gradaxis.taxonomy import Need, compare

SIDES = [
    ("", "none", False, []),
    ("outside: [something]", "none", False, []),
    ("trajectory: {trust_region: {set: {clip: {high: 0.3}}}}", "trajectory", True, ["trust_region"]),
    ("trajectory: {trust_region: {set: {clip: {high: 0.2}}}}", "none", False, []),  # the parent's own number
    ("trajectory: {ratio: {set: {form: {unit: sequence}}}}", "trajectory", False, ["ratio"]),  # another formula
    ("reward: {scale: {drop: [divide]}}", "reward", False, ["scale"]),
    ("reward: {baseline: {set: {center: {over: batch}}}}", "reward", False, ["baseline"]),
    ("reward: {baseline: {set: {center: {where: {sign: positive}}}}}", "reward", False, ["baseline"]),
    ("reward: {baseline: {set: {center: {rows: 2}}}}\ntrajectory: {trust_region: {set: {clip: {low: 0}}}}", "both",
     True,
     ["trust_region", "baseline"]),
    ("reward: {baseline: {set: {center: {why: other words, addresses: []}}}}", "none", False, []),
    ("streams: {step: {baseline: {add: [{operator: center}]}}}", "reward", False, ["step.baseline"]),
    ("link: rank_pairs", "both", False, []),
    ("mix: [{of: root, weight: 1}]", "both", False, []),
    ("trajectory: {sampling: {add: [{operator: refill}]}}", "trajectory", False, ["sampling"]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "side", "numbers", "slots"), SIDES, ids=[case[0] for case in SIDES])
def test_side_relative_to_the_parent(family, body, side, numbers, slots) -> None:
    family.method("child", body, extends="base")
    relative = family.load().method("child").relative["parent"]
    assert (relative.side, relative.relative_to, relative.parameters_only) == (side, "base", numbers)
    assert list(relative.slots) == slots


def test_sides_against_root_grpo_and_reinforce(mini) -> None:
    mini.method("reinforce", extends=None)
    mini.method("grpo", "trajectory: {ratio: {add: [{operator: form}]}}", extends="reinforce")
    mini.method("child", "reward: {scale: {add: [{operator: divide}]}}", extends="grpo")
    mini.method("other", "reward: {scale: {add: [{operator: divide}]}}", extends="reinforce")
    registry = mini.load()
    found = {m.id: (m.side, m.side_vs_grpo, m.side_vs_reinforce) for m in registry.methods.values()}
    assert found["reinforce"] == ("origin", "trajectory", "none")
    assert found["grpo"] == ("trajectory", "none", "trajectory")
    assert found["child"] == ("reward", "reward", "both")
    assert found["other"] == ("reward", "both", "reward")
    assert str(registry.method("child").relative["grpo"]) == "reward, relative to grpo"


def test_no_reference_no_side(family) -> None:
    assert family.load().method("base").side_vs_grpo is None


def test_couplings(family) -> None:
    body = """
        trajectory: {aggregation: {set: {add_up: {where: {group: mixed}}}}}
        reward: {shaping: {add: [{operator: penalise_inside}]}}
        """
    family.method("child", body, extends="base")
    assert [dict(c) for c in family.load().method("child").couplings] == [
        {"slot": "trust_region", "operator": "clip", "reads": ["advantage"]},
        {"slot": "aggregation", "operator": "add_up", "reads": ["reward"]},  # through its gate
        {"slot": "shaping", "operator": "penalise_inside", "reads": ["logp_at_sampling"]},
    ]


def test_needs_put_parameters_in(family) -> None:
    body = """
        trajectory:
          ratio: {set: {form: {anchor: behavior}}}
          terms: {add: [{operator: penalise, coefficient: 1}, {operator: penalise, as: off, to: none, coefficient: 1}]}
        reward: {baseline: {add: [{operator: greedy}]}}
        """
    family.method("child", body, extends="base")
    assert family.load().method("child").needs == (
        Need("logp", "ratio", "form"), Need("behavior_logp", "ratio", "form"), Need("ref_logp", "terms", "penalise"),
        Need("companion:greedy", "baseline", "greedy"),
    )  # fmt: skip


TEACHERS = [
    ("reward: {credit: {add: [{operator: add_teacher}]}}", ("T_B",)),
    ("trajectory: {terms: {add: [{operator: penalise, to: teacher, coefficient: 1}]}}", ("T_D",)),
    ("trajectory: {ratio: {set: {form: {anchor: teacher}}}}", ("T_A",)),
    ("reward: {credit: {add: [{operator: add_teacher}]}}\n"
     "trajectory: {terms: {add: [{operator: penalise, to: teacher, coefficient: 1}]}}", ("T_B", "T_D")),
    ("", ()),
]  # fmt: skip


@pytest.mark.parametrize(("body", "entries"), TEACHERS, ids=["/".join(case[1]) or "none" for case in TEACHERS])
def test_where_a_teacher_enters(family, body, entries) -> None:
    family.method("child", f"teachers: {{teacher: {{}}}}\n{body}", extends="base")
    assert family.load().method("child").teacher_entries == entries


def test_addresses_gather_what_is_inherited(family) -> None:
    family.method("child", "reward: {baseline: {drop: [center]}}", extends="base")
    registry = family.load()
    assert registry.method("base").addresses == ("drift", "noise")
    assert registry.method("child").addresses == ("drift",)


NOT_YET = [
    ("mix: [{of: root, weight: 0.5}]", "mix of compiled entries"),
    ("link: rank_pairs", "link rank_pairs"),
    ("state: {mean: running mean}", "keeps state"),
    ("trajectory: {trust_region: {set: {clip: {low: {schedule: linear, start: 1, end: 0, steps: 9}}}}}",
     "trust_region.clip.low is a schedule"),
    ("trajectory: {trust_region: {set: {clip: {low: {controller: pi, on: entropy, target: 0.3}}}}}",
     "trust_region.clip.low is a controller"),
    ("trajectory: {aggregation: {set: {add_up: {scope: local}}}}", "aggregation.add_up.scope = local"),
    ("reward: {baseline: {add: [{operator: expert}]}}", "baseline.expert needs companion:expert"),
    ("reward: {baseline: {set: {center: {over: [group, role]}}}}", "baseline.center over group and role"),
    ("reward: {baseline: {set: {center: {where: {entropy: {top: 0.2}}}}}}", "baseline.center gated on entropy"),
    ("reward: {baseline: {set: {center: {where: {weight: {form: sigmoid}}}}}}", "baseline.center gated on weight"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), NOT_YET, ids=[case[1] for case in NOT_YET])
def test_valid_but_not_yet(family, body, reason) -> None:
    family.method("child", body, extends="base")
    child = family.load().method("child")
    assert not child.executable
    assert child.not_executable is not None
    assert child.not_executable.startswith("not yet: ")
    assert reason in child.not_executable


def test_greedy_companion_and_plain_gates_are_executable(family) -> None:
    body = "reward: {baseline: {add: [{operator: greedy, where: {sign: positive, group: mixed, truncated: false}}]}}"
    family.method("child", body, extends="base")
    assert family.load().method("child").executable


@pytest.mark.parametrize(
    ("item", "level"),
    [("baseline: {set: {center: {over: group}}}", "group"), ("baseline: {set: {center: {over: batch}}}", "batch")],
)
def test_coupling_level_follows_over(family, item, level) -> None:
    family.method("child", f"reward: {{{item}}}", extends="base")
    assert family.load().method("child").slots["baseline"][0].couples == level


@pytest.mark.parametrize(("constant", "level"), [("tokens", "batch"), ("sequences", "sample")])
def test_coupling_level_follows_a_parameter(family, constant, level) -> None:
    body = f"trajectory: {{aggregation: {{set: {{add_up: {{constant: {constant}}}}}}}}}"
    family.method("child", body, extends="base")
    assert family.load().method("child").slots["aggregation"][0].couples == level


def test_diff_operator_by_operator(family) -> None:
    body = """
        trajectory:
          trust_region: {set: {clip: {low: 0.1, high: 0.3}}}
          sampling: {add: [{operator: refill}]}
        reward:
          baseline: {set: [{operator: greedy}, {operator: center}]}
          scale: {drop: [divide]}
        streams: {step: {credit: {add: [{operator: to_go}]}}}
        """
    family.method("child", body, extends="base")
    registry = family.load()
    found = [(d.axis, d.slot, d.label, d.change, dict(d.parameters))
             for d in compare(registry.method("base"), registry.method("child"))]  # fmt: skip
    assert found == [
        ("trajectory", "sampling", "refill", "added", {}),
        ("trajectory", "trust_region", "clip", "changed", {"low": (0.2, 0.1), "high": (0.2, 0.3)}),
        ("reward", "baseline", "greedy", "added", {}),
        ("reward", "scale", "divide", "removed", {}),
        ("reward", "step.credit", "to_go", "added", {}),
    ]


def test_diff_sees_the_order_within_a_slot(family) -> None:
    family.method("a", "reward: {baseline: {add: [{operator: greedy}]}}", extends="base")
    family.method("b", "reward: {baseline: {set: [{operator: greedy}, {operator: center}]}}", extends="base")
    registry = family.load()
    found = [(d.label, d.change) for d in compare(registry.method("a"), registry.method("b"))]
    assert found == [("greedy", "moved"), ("center", "moved")]


def test_diff_with_itself_is_empty(registry) -> None:
    for method in registry.methods.values():
        assert compare(method, method) == []
