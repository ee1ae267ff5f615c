"""The verdict from rows made by hand: what it claims, what it leaves open, and never more than its rows say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gradaxis.diagnostics.measurements import Measurement
from gradaxis.reports.document import Finding
from gradaxis.reports.findings import derive_findings, missing_findings
from gradaxis.reports.findings.coincidence import connected
from gradaxis.reports.findings.entropy import entropy_finding
from gradaxis.reports.results import Results

OVERRIDE = "dapo[trust_region.high=0.3]"


def by_kind(results: Results) -> dict[str, Finding]:
    return {finding.kind: finding for finding in derive_findings(results)}


def without(results: Results, drop: Callable[[Measurement], bool]) -> Results:
    return replace(results, rows=tuple(row for row in results.rows if not drop(row)))


def test_one_sentence_a_question(results: Results) -> None:
    findings = derive_findings(results)
    assert [finding.kind for finding in findings] == [
        "bias", "slots", "signal", "staleness", "silent groups", "coincidence",
    ]  # fmt: skip
    assert all(finding.certainty for finding in findings)


def test_bias_names_the_worst_the_good_and_the_open(results: Results) -> None:
    finding = by_kind(results)["bias"]
    assert "2 of 4 methods point away from the exact ∇J" in finding.text
    # tan(acos(.935)) = sqrt(1/.935² − 1) = .379
    assert "that of grpo (0.935 [0.910, 0.951], orthogonal bias 0.379)" in finding.text
    assert f"the others are {OVERRIDE} (0.940 [0.920, 0.960])" in finding.text
    assert "rloo follows it (cosine above 0.990)" in finding.text
    assert "Not resolved for cispo" in finding.text
    assert finding.certainty.startswith("95 %, Fieller's interval")
    assert "24 prompts; inner products exact" in finding.certainty


def test_unresolved_is_no_finding(results: Results) -> None:
    only_open = without(results, lambda row: row.metric == "cosine" and row.verdict != "unresolved")
    finding = by_kind(only_open)["bias"]
    assert finding.standing == "no finding"
    assert "do not resolve" in finding.text
    assert "--groups" in finding.remedy  # against the exact gradient the prompts are given
    assert by_kind(only_open)["staleness"].standing == "no finding"


def test_remedy_is_the_most_that_a_row_asks_for(results: Results) -> None:
    rows = tuple(
        Measurement("variance", "prompts_to_resolve", method, estimate=need, verdict="unresolved")
        for method, need in (("grpo", 30.0), ("cispo", 82.5))
    )
    estimated = [
        replace(row, compared_with="unbiased reference") if row.probe == "bias" else row for row in results.rows
    ]
    finding = by_kind(replace(results, rows=(*estimated, *rows)))["bias"]
    assert "at least 83" in finding.remedy


def changed(results: Results, **fields: object) -> Results:
    """The rows with the changes of the cosine altered."""
    rows = [replace(row, **fields) if row.metric == "slot_effect_on_bias" else row for row in results.rows]  # type: ignore[arg-type]
    return replace(results, rows=tuple(rows))


def test_slots_lead_with_the_cause_of_bias(results: Results) -> None:
    finding = by_kind(results)["slots"]
    assert finding.text == (
        f"On fresh rollouts what turns grpo and {OVERRIDE} away from ∇J is their aggregation: with that of ppo in its "
        "place the cosine rises by 0.0500 [0.0300, 0.0700]; a fix on the trajectory side. On the reward side the "
        "largest is the scale of grpo: with that of reinforce in its place the cosine rises by 0.0300 [0.0100, 0.0500]."
    )
    assert (finding.axis, finding.slot) == ("trajectory", "aggregation")


@pytest.mark.parametrize(
    "fields",
    [{"estimate": 0.008, "low": 0.007, "high": 0.009}, {"low": -0.01, "high": 0.1}, {"estimate": -0.1, "high": -0.05}],
    ids=["trifle", "not clear", "fall"],
)
def test_no_cause_is_named_without_a_clear_rise(results: Results, fields: dict[str, float]) -> None:
    finding = by_kind(changed(results, **fields))["slots"]
    assert finding.standing == "no finding"
    assert f"no single slot is shown to turn grpo and {OVERRIDE} away from ∇J" in finding.text


def test_slots_by_axis(results: Results) -> None:
    """Without a change of the cosine, as where there is no target, the gradient's turn is all there is to tell."""
    finding = by_kind(without(results, lambda row: row.metric == "slot_effect_on_bias"))["slots"]
    assert f"the largest effect measured is that of the trust_region of {OVERRIDE}" in finding.text
    assert "1 − cosine = 0.120 [0.0800, 0.160] on stale rollouts" in finding.text
    assert "On the reward side the largest effect measured is that of the scale of grpo" in finding.text


def test_slot_whose_interval_holds_zero_is_not_claimed(results: Results) -> None:
    weak = without(results, lambda row: row.probe == "slots" and (row.method != "rloo" or row.metric != "slot_effect"))
    finding = by_kind(weak)["slots"]
    assert finding.standing == "no finding"
    assert "rloo" not in finding.text


def test_signal_is_relative_to_the_common_baseline(results: Results) -> None:
    text = by_kind(results)["signal"].text
    assert "comes from rloo" in text
    assert "0.620 [0.500, 0.770] times the noise of grpo" in text
    assert f"{OVERRIDE} is the noisiest (1.80 [1.20, 2.70] times grpo)" in text
    assert "direction is off" not in text  # rloo follows the target


def test_nothing_at_any_point_is_said_once(results: Results) -> None:
    """The same rows at both points, with intervals that hold 1."""
    ratios = [row for row in results.rows if row.metric == "noise_ratio_at_equal_gain"]
    ratios = [replace(row, point=point, low=0.1, high=9.0) for row in ratios for point in ("fresh", "stale")]
    rest = without(results, lambda row: row.metric == "noise_ratio_at_equal_gain").rows
    finding = by_kind(replace(results, rows=(*rest, *ratios)))["signal"]
    once = "alike no method's noise at equal progress is clear of that of grpo."
    assert finding.text == f"On fresh rollouts and on stale rollouts {once}"


def test_methods_with_equal_cosines_are_named_together(results: Results) -> None:
    rows = [replace(row, estimate=0.94, low=0.92, high=0.96, verdict="watch")
            if row.metric == "cosine" and row.method == "rloo" else row for row in results.rows]  # fmt: skip
    text = by_kind(replace(results, rows=tuple(rows)))["bias"].text
    assert f"the others are rloo and {OVERRIDE} (0.940 [0.920, 0.960])" in text


def test_best_signal_with_a_bad_direction_says_so(results: Results) -> None:
    swapped = tuple(
        replace(row, method="grpo", compared_with="grpo") if row.metric == "noise_ratio_at_equal_gain" else row
        for row in results.rows
        if not (row.metric == "noise_ratio_at_equal_gain" and row.method != "rloo")
    )
    assert "though its direction is off" in by_kind(replace(results, rows=swapped))["signal"].text


def test_staleness_compares_intervals(results: Results) -> None:
    finding = by_kind(results)["staleness"]
    # grpo: [.910, .951] fresh and [.900, .960] stale overlap, so that it is not said to fall.
    assert set(finding.methods) == {"rloo", OVERRIDE}
    assert "ESS/N 50.4 % [36.1, 64.8] %" in finding.text
    # Gains: rloo's 0.371 ± .1 lies below 0.875 ± .1; grpo and the override keep theirs. cispo has one too.
    assert "gets shorter for 1 of 4: rloo from 0.875 to 0.371 [0.271, 0.471]" in finding.text
    assert f"The trust region of {OVERRIDE} acts on the most tokens (15.0 %)" in finding.text  # .1 + .05


def test_coincidence_names_pairs_reason_and_where_they_part(results: Results) -> None:
    finding = by_kind(results)["coincidence"]
    assert "because every ratio is 1" in finding.text
    assert f"{OVERRIDE} and grpo" in finding.text
    assert "On stale rollouts all of them part" in finding.text
    assert finding.advice == ""
    fresh_only = without(results, lambda row: row.point == "stale")
    assert "--behavior" in by_kind(fresh_only)["coincidence"].advice


def test_entropy_by_sign_and_price(results: Results) -> None:
    finding = entropy_finding(results)
    assert finding is not None
    text = finding.text
    assert "lowers the entropy for 1 of 3 methods and raises it for cispo" in text  # grpo's interval holds zero
    assert "more entropy under rloo (4.00 [3.00, 5.00] nats a token) than under cispo (−2.00 [−3.00, −1.00])" in text


def test_connected_joins_chains() -> None:
    pairs = [frozenset("ab"), frozenset("cd"), frozenset("bc"), frozenset("xy")]
    assert connected(pairs) == [["a", "b", "c", "d"], ["x", "y"]]


def test_gaps_with_a_remedy_come_first(results: Results) -> None:
    gaps = missing_findings(results)
    assert [gap.methods for gap in gaps] == [("ppo",), ("<script>alert('x')</script>",)]
    assert gaps[0].text == "ppo: the rollouts have no value"
    assert gaps[0].remedy == "give a critic (--critic)"
    assert all(gap.standing == "not assessed" for gap in gaps)


@pytest.mark.parametrize("probe", ["bias", "slots", "variance", "agreement", "silent-groups", "entropy"])
def test_a_probe_that_was_not_run_is_no_claim(results: Results, probe: str) -> None:
    findings = derive_findings(without(results, lambda row: row.probe == probe))
    own = {"variance": "signal", "agreement": "coincidence", "silent-groups": "silent groups"}
    assert own.get(probe, probe) not in {finding.kind for finding in findings}


def test_no_rows_no_verdict() -> None:
    assert derive_findings(Results(())) == ()
    assert missing_findings(Results(())) == ()
