"""Facts about the registry, written down from the papers and not from the files."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gradaxis.taxonomy import SLOTS, Method, Registry, load_registry

# slot -> operators with the values that a reader of the paper would check; slots that are not named are empty.
PPO_RATIO = {"ratio": [("form_ratio", {"unit": "token", "anchor": "old"})]}
CLIP = {"trust_region": [("clip_ratio", {"low": 0.2, "high": 0.2})]}
TOKEN_MEAN = {"aggregation": [("aggregate_tokens", {"weight": "one", "constant": "tokens"})]}
SEQUENCE_MEAN = {"aggregation": [("aggregate_tokens", {"weight": "inverse_length", "constant": "sequences"})]}
KL_LOSS = {"terms": [("penalise_kl", {"to": "ref", "value": "k3", "gradient": "through_value", "coefficient": 0.04})]}
GROUP_MEAN = {"baseline": [("center_rewards", {"statistic": "mean", "over": "group"})]}
GROUP_STD = {"scale": [("divide_by_spread", {"statistic": "std", "ddof": 1, "epsilon": 1e-4, "over": "group"})]}

EXPECTED: dict[str, dict[str, list[tuple[str, dict[str, Any]]]]] = {
    "reinforce": {},
    "reinforce-baseline": {"baseline": [("center_rewards", {"statistic": "mean", "over": "batch"})]},
    "rloo": {
        "shaping": [("penalise_kl_in_reward", {"to": "ref", "value": "k1", "unit": "sequence", "coefficient": 0.03})],
        "baseline": [("center_rewards", {"statistic": "leave_one_out", "over": "group"})],
    },
    "remax": {"baseline": [("subtract_greedy", {})]},
    "ppo": {
        **PPO_RATIO, **CLIP, **TOKEN_MEAN,
        "baseline": [("subtract_critic", {})],
        "credit": [("estimate_gae", {"gamma": 1.0, "lam": 0.95})],
    },
    "grpo": {**PPO_RATIO, **CLIP, **SEQUENCE_MEAN, **KL_LOSS, **GROUP_MEAN, **GROUP_STD},
    "dr-grpo": {
        **PPO_RATIO, **CLIP, **GROUP_MEAN,
        "aggregation": [("aggregate_tokens", {"weight": "one", "constant": "max_length"})],
    },
    "dapo": {
        **PPO_RATIO, **TOKEN_MEAN, **GROUP_MEAN, **GROUP_STD,
        "sampling": [("refill_groups", {})],
        "trust_region": [("clip_ratio", {"low": 0.2, "high": 0.28})],
        "shaping": [("shape_by_length", {"form": "soft_overlong", "limit": 20480, "buffer": 4096})],
        "selection": [("drop_zero_variance", {"statistics": "kept"})],
    },
    "gspo": {
        **SEQUENCE_MEAN, **KL_LOSS, **GROUP_MEAN, **GROUP_STD,
        "ratio": [("form_ratio", {"unit": "sequence", "pool": "geometric_mean", "anchor": "old"})],
        "trust_region": [("clip_ratio", {"low": 3e-4, "high": 4e-4})],
    },
    "cispo": {
        **PPO_RATIO, **TOKEN_MEAN, **GROUP_MEAN, **GROUP_STD,
        "trust_region": [("clip_weight", {"low": None, "high": 0.2})],
    },
    "reinforce-plus-plus": {
        **PPO_RATIO, **CLIP, **TOKEN_MEAN,
        "shaping": [("penalise_kl_in_reward", {"to": "ref", "value": "k1", "unit": "token", "coefficient": 0.01})],
        "baseline": [("center_rewards", {"statistic": "mean", "over": "batch"})],
        "scale": [("divide_by_spread", {"statistic": "std", "over": "batch"})],
        "credit": [("sum_to_go", {"gamma": 1.0, "stage": "accrue"})],
    },
    "gigpo": {
        **PPO_RATIO, **CLIP, **SEQUENCE_MEAN, **GROUP_MEAN,
        "sampling": [("run_environment", {})],
        "terms": [("penalise_kl", {"to": "ref", "value": "k3", "coefficient": 0.01})],
        "credit": [("add_streams", {"weights": {"main": 1.0, "step": 1.0}})],
    },
    "grpo-opd": {
        **PPO_RATIO, **CLIP, **SEQUENCE_MEAN, **KL_LOSS, **GROUP_MEAN, **GROUP_STD,
        "credit": [("add_teacher_log_ratio", {"teacher": "teacher", "coefficient": 1.0})],
    },
}  # fmt: skip
GIGPO_STEP = {
    "signal": [("score_steps", {})],
    "baseline": [("center_rewards", {"statistic": "mean", "over": "anchor_state"})],
    "credit": [("sum_to_go", {"gamma": 0.95, "stage": "accrue"})],
}
PARENTS = {
    "reinforce": None, "reinforce-baseline": "reinforce", "rloo": "reinforce", "remax": "reinforce",
    "ppo": "reinforce", "grpo": "ppo", "dr-grpo": "grpo", "dapo": "grpo", "gspo": "grpo", "cispo": "grpo",
    "reinforce-plus-plus": "ppo", "gigpo": "grpo", "grpo-opd": "grpo",
}  # fmt: skip
ARXIV = {
    "reinforce": None, "reinforce-baseline": None, "rloo": "2402.14740", "remax": "2310.10505", "ppo": "1707.06347",
    "grpo": "2402.03300", "dr-grpo": "2503.20783", "dapo": "2503.14476", "gspo": "2507.18071", "cispo": "2506.13585",
    "reinforce-plus-plus": "2501.03262", "gigpo": "2505.10978", "grpo-opd": None,
}  # fmt: skip
CLAIMED = {
    "grpo": ("reward", "ppo"), "dapo": ("both", "grpo"), "gspo": ("trajectory", "grpo"), "dr-grpo": ("reward", "grpo"),
    "rloo": ("reward", "reinforce"), "remax": ("reward", "reinforce"),
}  # fmt: skip


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def check(slots: Any, expected: dict[str, list[tuple[str, dict[str, Any]]]], where: str) -> None:
    """Every slot holds the expected operators in order, with the expected values, and the others hold none."""
    for slot, placed in slots.items():
        wanted = expected.get(slot, [])
        assert [p.operator for p in placed] == [operator for operator, _ in wanted], f"{where}.{slot}"
        for p, (_, values) in zip(placed, wanted, strict=True):
            found = {**p.parameters, "over": p.over, "stage": p.stage}
            assert {key: found.get(key) for key in values} == values, f"{where}.{slot}.{p.operator}"
    assert not expected.keys() - slots.keys(), where


@pytest.mark.parametrize("name", EXPECTED)
def test_slots_hold_what_the_paper_says(registry: Registry, name: str) -> None:
    method = registry.methods[name]
    check(method.slots, EXPECTED[name], name)
    assert method.extends == PARENTS[name]
    assert method.arxiv == ARXIV[name]


def test_gigpo_compares_turns_that_start_from_one_state(registry: Registry) -> None:
    streams = {method.id: method.streams for method in registry.methods.values() if method.streams}
    assert {name: list(runs) for name, runs in streams.items()} == {"gigpo": ["step"]}
    check(streams["gigpo"]["step"], GIGPO_STEP, "gigpo.step")


def test_claimed_sides_name_their_source(registry: Registry) -> None:
    claimed = {m.id: m.claimed_side for m in registry.methods.values() if m.claimed_side}
    assert {name: (claim.side, claim.relative_to) for name, claim in claimed.items()} == CLAIMED
    assert all("2606.16733, second-hand" in claim.source for claim in claimed.values())


# GRPO is called a change of the reward alone, yet it also moved the mean over tokens and the KL term into the loss.
# Dr. GRPO is called the same, and yet its first repair is the aggregation.
@pytest.mark.parametrize(
    ("name", "side"),
    [("grpo", "both"), ("dr-grpo", "both"), ("dapo", "both"), ("gspo", "trajectory"), ("cispo", "trajectory"),
     ("rloo", "reward"), ("remax", "reward"), ("reinforce-baseline", "reward"), ("reinforce-plus-plus", "reward"),
     ("grpo-opd", "reward"), ("ppo", "both"), ("reinforce", "origin")],
)  # fmt: skip
def test_sides_follow_from_the_slots(registry: Registry, name: str, side: str) -> None:
    assert registry.methods[name].side == side


def source_of(registry: Registry, method: Method, slot: str, label: str, parameter: str, stream: str = "") -> str:
    """The source of a value, or "". The method comes before its ancestors, the most specific key first."""
    prefix = f"{stream}." if stream else ""
    keys = [f"{prefix}{slot}.{label}.{parameter}", f"{prefix}{slot}.{parameter}", f"{prefix}{slot}"]
    entry = method.entry
    while True:
        found = next((entry.sources[key] for key in keys if key in entry.sources), None)
        if found or entry.extends is None:
            return found or ""
        entry = registry.methods[entry.extends].entry


def test_every_parameter_has_a_source(registry: Registry) -> None:
    missing = []
    for method in registry.methods.values():
        runs = [("", method.slots), *method.streams.items()]
        for stream, slots in runs:
            for slot, placed in slots.items():
                missing += [
                    f"{method.id}: {stream}{slot}.{p.label}.{parameter}"
                    for p in placed
                    for parameter in p.parameters
                    if not source_of(registry, method, slot, p.label, parameter, stream)
                ]
    assert not missing


def test_sources_name_slots_and_parameters_that_exist(registry: Registry) -> None:
    for method in registry.methods.values():
        for key in method.entry.sources:
            parts = key.split(".")
            slots = method.streams[parts.pop(0)] if parts[0] in method.streams else method.slots
            assert parts[0] in SLOTS, f"{method.id}: {key}"
            placed = slots[parts[0]]
            if len(parts) > 1:
                assert any(parts[-1] in p.parameters for p in placed), f"{method.id}: {key}"


def test_values_that_the_papers_leave_open_say_so(registry: Registry) -> None:
    """No paper gives these; an entry that claimed one would invent it."""
    open_values = [("grpo", "trust_region.low"), ("grpo", "scale.ddof"), ("grpo", "scale.epsilon"),
                   ("cispo", "trust_region.high"), ("reinforce-plus-plus", "shaping.coefficient"),
                   ("reinforce-plus-plus", "scale.epsilon"), ("grpo-opd", "credit.coefficient")]  # fmt: skip
    for name, key in open_values:
        slot, parameter = key.split(".")
        source = source_of(registry, registry.methods[name], slot, "", parameter)
        assert source.startswith("library default"), f"{name}: {key}"


def test_checked_entries_name_the_equation_and_what_was_read(registry: Registry) -> None:
    for method in registry.methods.values():
        if method.status != "preview":
            assert method.paper, method.id
            assert re.search(r"\d", method.paper.equation or ""), method.id
            assert method.entry.verified, method.id


def test_every_failure_that_is_addressed_exists_and_every_failure_is_addressed(registry: Registry) -> None:
    known = registry.failures.keys() | registry.compounds.keys()
    addressed = {failure for method in registry.methods.values() for failure in method.addresses}
    placed = [p for m in registry.methods.values() for s in m.streams.values() for slot in s.values() for p in slot]
    addressed |= {failure for p in placed for failure in p.addresses}
    assert addressed <= known
    assert registry.failures.keys() - addressed == set()


def test_failures_say_what_goes_wrong_and_what_shows_it(registry: Registry) -> None:
    probes = {"variance", "bias", "entropy", "silent_groups", "importance"}
    for failure in registry.failures.values():
        assert all([failure.mechanism, failure.symptoms, failure.probes]), failure.id
        assert set(failure.probes) <= probes, failure.id
        axes = {SLOTS[slot].axis for slot in failure.slots}
        assert axes == ({"trajectory", "reward"} if failure.axis == "both" else {failure.axis}), failure.id


def test_compound_failures_are_claims_until_measured(registry: Registry) -> None:
    assert registry.compounds.keys() == {"clip-variance-coupling", "granularity-coupling"}
    for compound in registry.compounds.values():
        assert (compound.axis, compound.demonstration) == ("both", None)
        assert {SLOTS[slot].axis for slot in compound.slots} == {"trajectory", "reward"}
        assert any("second-hand" in note for note in compound.notes)
        assert len(registry.failures.keys() & set(compound.failures)) == len(compound.failures) == 2


def test_every_operator_is_used_or_says_what_it_is_for(registry: Registry) -> None:
    used = {p.operator for m in registry.methods.values()
            for slots in [m.slots, *m.streams.values()] for placed in slots.values() for p in placed}  # fmt: skip
    assert used <= registry.operators.keys()
    assert registry.operators.keys() - used == {"add_entropy_bonus"}
    for operator in registry.operators.values():
        assert operator.summary.endswith(".")
        assert all(p.meaning.endswith(".") for p in operator.parameters.values()), operator.name


def test_arxiv_numbers_are_well_formed(registry: Registry) -> None:
    """Two digits of year, a month, and a running number of four digits before 2015 and five since."""
    papers = [m.paper for m in registry.methods.values()] + [o.paper for o in registry.operators.values()]
    for failure in [*registry.failures.values(), *registry.compounds.values()]:
        papers += [failure.paper, *(evidence.paper for evidence in failure.evidence)]
    numbers = {paper.arxiv for paper in papers if paper and paper.arxiv}
    assert "2402.03300" in numbers
    for number in numbers:
        assert re.fullmatch(r"\d{2}(0[1-9]|1[0-2])\.(\d{4}|\d{5})", number), number
        assert len(number) == (10 if int(number[:2]) >= 15 else 9), number


def test_one_paper_has_one_title(registry: Registry) -> None:
    titles: dict[str, set[str]] = {}
    papers = [m.paper for m in registry.methods.values()] + [o.paper for o in registry.operators.values()]
    for failure in [*registry.failures.values(), *registry.compounds.values()]:
        papers += [failure.paper, *(evidence.paper for evidence in failure.evidence)]
    for paper in papers:
        if paper and paper.arxiv:
            titles.setdefault(paper.arxiv, set()).add(paper.title)
    assert {number: found for number, found in titles.items() if len(found) > 1} == {}
