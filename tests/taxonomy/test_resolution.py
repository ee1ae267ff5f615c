"""Inheritance, worked out by hand on a small registry."""

from __future__ import annotations

from gradaxis.taxonomy import Method


def labels(method: Method, slot: str) -> list[str]:
    return [placed.label for placed in method.slots[slot]]


def test_all_twelve_slots_in_order(family) -> None:
    method = family.load().method("base")
    assert list(method.slots) == [
        "sampling", "ratio", "trust_region", "token_weight", "aggregation", "terms",
        "signal", "shaping", "selection", "baseline", "scale", "credit",
    ]  # fmt: skip
    assert list(method.trajectory) == list(method.slots)[:6]
    assert list(method.reward) == list(method.slots)[6:]
    assert method.slots["terms"] == ()


def test_defaults_are_filled_in_declared_order(family) -> None:
    [ratio] = family.load().method("base").slots["ratio"]
    assert list(ratio.parameters.items()) == [("unit", "token"), ("anchor", "old")]
    [clip] = family.load().method("base").slots["trust_region"]
    assert clip.parameters == {"low": 0.2, "high": 0.2, "floor": None}


def test_defaults_of_over_and_stage(family) -> None:
    family.method("child", "reward: {credit: {add: [{operator: to_go}]}}", extends="base")
    child = family.load().method("child")
    assert child.slots["baseline"][0].over == "group"
    assert child.slots["credit"][0].stage == "after"
    assert child.slots["ratio"][0].over is None
    assert child.slots["ratio"][0].stage is None


def test_inherited_from_names_who_placed_it(family) -> None:
    family.method("child", "reward: {scale: {drop: [divide]}}", extends="base")
    family.method("grandchild", "reward: {baseline: {set: {center: {over: batch}}}}", extends="child")
    registry = family.load()
    assert registry.method("base").slots["ratio"][0].inherited_from is None
    assert registry.method("child").slots["ratio"][0].inherited_from == "base"
    assert registry.method("grandchild").slots["ratio"][0].inherited_from == "base"
    assert registry.method("grandchild").slots["baseline"][0].inherited_from is None


def test_set_list_replaces_the_whole_slot(family) -> None:
    family.method("two", "reward: {baseline: {add: [{operator: greedy}]}}", extends="base")
    family.method("one", "reward: {baseline: {set: [{operator: center, as: again}]}}", extends="two")
    registry = family.load()
    assert labels(registry.method("two"), "baseline") == ["center", "greedy"]
    assert labels(registry.method("one"), "baseline") == ["again"]


def test_set_list_may_empty_a_slot(family) -> None:
    family.method("child", "reward: {baseline: {set: []}}", extends="base")
    assert family.load().method("child").slots["baseline"] == ()


def test_set_by_label_keeps_place_and_other_keys(family) -> None:
    family.method("two", "reward: {baseline: {add: [{operator: greedy}]}}", extends="base")
    family.method("child", "reward: {baseline: {set: {center: {rows: 3, where: {sign: positive}}}}}", extends="two")
    first, second = family.load().method("child").slots["baseline"]
    assert (first.label, first.parameters, first.over) == ("center", {"rows": 3}, "group")
    assert first.where == {"sign": "positive"}
    assert (first.addresses, first.why) == (("noise",), "less noise")
    assert second.label == "greedy"


def test_set_by_label_can_take_a_gate_away(family) -> None:
    family.method("gated", "reward: {scale: {set: {divide: {where: {sign: positive}}}}}", extends="base")
    family.method("open", "reward: {scale: {set: {divide: {where: null}}}}", extends="gated")
    assert family.load().method("open").slots["scale"][0].where is None


def test_set_then_drop_then_add(family) -> None:
    body = "reward: {baseline: {add: [{operator: greedy}], drop: [center]}}"
    family.method("child", body, extends="base")
    assert labels(family.load().method("child"), "baseline") == ["greedy"]


def test_add_appends_and_labels_tell_twins_apart(family) -> None:
    body = "reward: {baseline: {add: [{operator: center, as: batch_center, over: batch}]}}"
    family.method("child", body, extends="base")
    family.method("grandchild", "reward: {baseline: {drop: [center]}}", extends="child")
    registry = family.load()
    assert labels(registry.method("child"), "baseline") == ["center", "batch_center"]
    assert labels(registry.method("grandchild"), "baseline") == ["batch_center"]


def test_removed_is_remembered_until_it_comes_back(family) -> None:
    drop = "reward: {scale: {drop: [{operator: divide, addresses: [drift], why: it inflates}]}}"
    family.method("without", drop, extends="base")
    family.method("child", extends="without")
    family.method("again", "reward: {scale: {add: [{operator: divide}]}}", extends="child")
    registry = family.load()
    for name in ("without", "child"):
        [removed] = registry.method(name).removed
        assert (removed.slot, removed.label, removed.by, removed.why) == ("scale", "divide", "without", "it inflates")
        assert "drift" in registry.method(name).addresses
    assert registry.method("again").removed == ()


def test_streams_are_inherited_changed_and_removed(family) -> None:
    body = """
        streams: {step: {baseline: {add: [{operator: center}]}, credit: {add: [{operator: to_go, stage: accrue}]}}}
        reward: {credit: {add: [{operator: add_streams, weights: {main: 1, step: 1}}]}}
        """
    family.method("two", body, extends="base")
    family.method("changed", "streams: {step: {baseline: {set: {center: {over: batch}}}}}", extends="two")
    family.method("one", "streams: {step: null}\nreward: {credit: {drop: [add_streams]}}", extends="two")
    registry = family.load()
    assert list(registry.method("two").streams) == ["step"]
    assert list(registry.method("two").streams["step"]) == list(registry.method("two").reward)
    step = registry.method("changed").streams["step"]
    assert (step["baseline"][0].over, step["baseline"][0].inherited_from) == ("batch", None)
    assert (step["credit"][0].stage, step["credit"][0].inherited_from) == ("accrue", "two")
    assert registry.method("one").streams == {}


def test_teachers_link_and_state_are_inherited(family) -> None:
    body = "teachers: {teacher: {context: hint}}\nlink: split_policy\nstate: {mean: running}"
    family.method("a", body, extends="base")
    family.method("b", "teachers: {other: {}}\nlink: linear", extends="a")
    b = family.load().method("b")
    assert {name: teacher.context for name, teacher in b.teachers.items()} == {"teacher": "hint", "other": "none"}
    assert b.link == "linear"
    assert dict(b.state) == {"mean": "running"}


def test_facts_about_the_paper_are_not_inherited(family) -> None:
    body = "claimed_side: {side: both, relative_to: root, source: s}\noutside: [fp16]\nnotes: n\nsources: {ratio: s}"
    family.method("a", body, extends="base")
    family.method("b", extends="a")
    b = family.load().method("b")
    assert (b.claimed_side, b.outside, b.entry.notes, b.entry.sources) == (None, (), [], {})


def test_aliases_find_the_method(family) -> None:
    family.method("a", "aliases: [ay]", extends="base")
    assert family.load().method("ay").id == "a"
