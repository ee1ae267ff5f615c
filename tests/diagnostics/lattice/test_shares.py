"""Shares of noise and signal, against vectors written out."""

# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# A row without its number fails the test, which is as it should be.

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradaxis.diagnostics import plan as planning
from gradaxis.diagnostics.evidence import WHOLE
from gradaxis.diagnostics.probes import shares, variance


@pytest.fixture(scope="module")
def found(listings, naive, registry):
    listing = listings("shared-rows", False)
    batch = naive.draw(listing, prompts=60, groups=2, size=6, seed=7)
    return naive.evidence(listing, batch, [registry.method("rloo"), registry.method("dapo")], registry, exact=False)


def rows_of(found, metric, label="rloo"):
    return [row for row in shares.measure(found, label) if row.metric == metric]


def test_noise_within_and_between_prompts_adds_up(found):
    within, between, share = (
        rows_of(found, metric)[0] for metric in (shares.WITHIN, shares.BETWEEN, shares.WITHIN_SHARE)
    )
    total = found.measured.whole["rloo"].trace_covariance()
    assert within.estimate + between.estimate == pytest.approx(total)
    assert share.estimate == pytest.approx(within.estimate / total)
    assert share.low < share.estimate < share.high


@pytest.mark.parametrize("metric", ["noise_share_by_position", "signal_share_by_position"])
def test_shares_by_position_add_up_to_one(metric, found):
    for label in ("rloo", "dapo"):
        rows = rows_of(found, metric, label)
        assert [row.part for row in rows] == ["position 1", "position 2", "position 3"]
        assert sum(row.estimate for row in rows) == pytest.approx(1.0)
        assert all(row.low <= row.estimate <= row.high for row in rows)


def test_positions_outside_the_stored_patterns_are_not_assessed(listings, naive, registry, monkeypatch):
    monkeypatch.setattr(planning, "SHORT", 0)
    listing = listings("shared-rows", False)
    batch = naive.draw(listing, prompts=16, groups=1, size=4)
    found = naive.evidence(listing, batch, [registry.method("rloo")], registry, exact=False)
    row = rows_of(found, "noise_share_by_position")[0]
    assert row.verdict == "not assessed"
    assert "outside the stored patterns" in row.reason


def test_one_group_a_prompt_does_not_tell_within_from_between(listings, naive, registry):
    listing = listings("shared-rows", False)
    batch = naive.draw(listing, prompts=16, groups=1, size=4)
    found = naive.evidence(listing, batch, [registry.method("rloo")], registry, exact=False)
    row = rows_of(found, shares.WITHIN)[0]
    assert row.verdict == "not assessed"
    assert row.needs == ("groups",)


def test_a_method_without_noise_has_no_shares(listings, naive, registry):
    listing = listings("shared-rows", False)
    batch = naive.draw(listing, prompts=8, groups=1, size=2)
    batch = replace(batch, rewards=torch.zeros_like(batch.rewards))
    found = naive.evidence(listing, batch, [registry.method("reinforce")], registry, exact=False)
    assert {row.verdict for row in shares.measure(found, "reinforce")} == {"not assessed"}


def test_shares_by_layer_are_those_of_explicit_units(found):
    n, random = found.n, np.random.default_rng(0)
    units = {name: random.standard_normal((n, 4)) * size + 1.0 for name, size in (
        ("model.layers.0.mlp.up_proj.weight", 1.0), ("model.layers.0.mlp.up_proj.bias", 2.0),
        ("model.layers.11.self_attn.q_proj.weight", 3.0), ("lm_head.weight", 0.5),
    )}  # fmt: skip
    sums = {name: {("rloo", WHOLE): ((one**2).sum(), (one.sum(axis=0) ** 2).sum())} for name, one in units.items()}
    layered = replace(found, by_parameter=sums)
    parts = {"model.layers.0": [*units][:2], "model.layers.11": [[*units][2]], "lm_head": [[*units][3]]}
    noise = {part: sum(np.var(units[name], axis=0, ddof=1).sum() for name in names) for part, names in parts.items()}
    rows = rows_of(layered, "noise_share_by_layer")
    assert {row.part: row.estimate for row in rows} == pytest.approx(
        {part: value / sum(noise.values()) for part, value in noise.items()}
    )

    def square(one):
        return sum(one[i] @ one[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    signal = {part: sum(square(units[name]) for name in names) for part, names in parts.items()}
    rows = rows_of(layered, "signal_share_by_layer")
    assert {row.part: row.estimate for row in rows} == pytest.approx(
        {part: value / sum(signal.values()) for part, value in signal.items()}
    )


def test_without_sums_by_parameter_layers_are_not_assessed(found):
    row = rows_of(replace(found, by_parameter={}, no_layers="no memory"), "noise_share_by_layer")[0]
    assert row.verdict == "not assessed"
    assert row.reason == "no memory"


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("transformer.h.3.attn.c_attn.weight", "transformer.h.3"),
        ("gpt_neox.layers.0.mlp.dense.bias", "gpt_neox.layers.0"),
        ("model.norm.weight", "model.norm"),
        ("logits", "logits"),
        ("base_model.model.layers.2.q.lora_A.0.weight", "base_model.model.layers.2"),
    ],
)
def test_a_layer_ends_at_the_first_number_of_a_name(parameter, layer):
    assert list(shares.sums_by_layer({parameter: (1.0, 2.0)})) == [layer]


def test_the_probe_tells_how_many_prompts_are_needed_and_over_how_many_directions_noise_is_spread(found):
    rows = {row.metric: row for row in variance.measure(found) if row.method == "rloo"}
    need = rows["prompts_to_resolve"]
    assert need.estimate < found.n  # sixty prompts resolve it
    assert need.verdict == "not applicable"
    assert need.low <= need.estimate <= need.high + 1
    rank = rows["effective_rank"]
    assert 1 <= rank.low < rank.estimate < rank.high
