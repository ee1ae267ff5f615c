"""Every kind of mistake is reported at its place, with what is allowed and the closest match.

In each case the mark § stands right before the character at which the problem must be reported.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gradaxis.errors import RegistryError
from gradaxis.taxonomy import load_registry

HEAD = "id: mine\nname: Mine\nextends: base\nfamily: grpo\nyear: 2025\nsummary: a method\n"

# name, text (HEAD is put before it unless it starts with "id:"), part of the message, closest match, one allowed value
CASES = [
    ("unknown key", "§sumary: text", "unknown key 'sumary'", "summary", "family"),
    ("unknown slot", "trajectory:\n  §trust_regoin: {drop: [clip]}", "unknown key 'trust_regoin'", "trust_region",
     "terms"),
    ("slot of the other axis", "reward:\n  §ratio: {drop: [form]}", "unknown key 'ratio'", None, "signal"),
    ("unknown change", "trajectory:\n  ratio: {§remove: [form]}", "unknown key 'remove'", None, "drop"),
    ("unknown family", HEAD.replace("family: grpo", "family: §grop"), "got the text 'grop'", "grpo", "post-grpo"),
    ("missing key", "§" + HEAD.replace("family: grpo\n", ""), "the key 'family' is missing", None, None),
    ("text for a number", HEAD.replace("2025", '§"2025"'), "expected a whole number", None, None),
    ("unquoted arxiv id", "paper: {title: T, arxiv: §2402.10}", "put it in quotes", None, None),
    ("malformed arxiv id", 'paper: {title: T, arxiv: §"abc"}', "expected an arXiv id in quotes", None, None),
    ("id that is no slug", HEAD.replace("id: mine", "id: §Mine_1"), "kebab-case", None, None),
    ("duplicate key", "notes: once\n§notes: again", "duplicate key 'notes'", None, None),
    ("duplicate key inside", "reward:\n  scale: {drop: [divide], §drop: []}", "duplicate key 'drop'", None, None),
    ("broken YAML", "reward: {scale: [§}", "not valid YAML", None, None),
    ("alias", "notes: §&n [a]\nverified: *n", "anchors and aliases are not allowed", None, None),
    ("tag", "notes: §!!python/object:os.system [a]", "is not allowed", None, None),
    ("null slot block", "reward: §null", "got nothing, expected a mapping", None, None),
    ("unknown operator", "trajectory: {terms: {add: [{operator: §penalize}]}}", "unknown operator", "penalise", None),
    ("operator of another slot", "reward: {scale: {add: [{operator: §center}]}}", "belongs to reward.baseline", None,
     "divide"),
    ("unknown parameter", "trajectory: {trust_region: {set: [{operator: clip, §lwo: 0.2, high: 0.2}, {operator: clip, "
     "as: other, low: 0.1, high: 0.1}]}}", "clip has no parameter 'lwo'", "low", "high"),
    ("missing parameter", "trajectory: {trust_region: {set: [§{operator: clip, high: 0.2}]}}",
     "needs the parameter 'low'",
     None, None),
    ("boolean for a number", "trajectory: {trust_region: {set: {clip: {high: §true}}}}",
     "got the boolean true, expected a number > 0 and < 9", None, None),
    ("YAML 1.1 boolean", "trajectory: {trust_region: {set: {clip: {high: §yes}}}}",
     "got the text 'yes' (YAML 1.1 reads it as a boolean; here it is text), expected a number", None, None),
    ("out of range", "trajectory: {trust_region: {set: {clip: {low: §-0.1}}}}", "expected a number >= 0", None, None),
    ("on an exclusive bound", "trajectory: {trust_region: {set: {clip: {high: §9}}}}", "and < 9", None, None),
    ("infinite", "trajectory: {trust_region: {set: {clip: {low: §1e999}}}}", "expected a number >= 0", None, None),
    ("null where it means nothing", "trajectory: {trust_region: {set: {clip: {low: §null}}}}", "got nothing",
     None, None),
    ("fraction for a whole number", "reward: {baseline: {set: {center: {rows: §1.5}}}}", "expected a whole number >= 1",
     None, None),
    ("unknown choice", "trajectory: {ratio: {set: {form: {unit: §tokn}}}}", "got the text 'tokn'", "token", "sequence"),
    ("text for a boolean", "reward: {credit: {add: [{operator: add_teacher, positive: §on}]}}\nteachers: {teacher: {}}",
     "expected true or false", None, None),
    ("bad schedule", "trajectory: {trust_region: {set: {clip: {low: §{schedule: wavy}}}}}", "not a valid schedule",
     None,
     None),
    ("bad controller", "trajectory: {trust_region: {set: {clip: {low: §{controller: pi}}}}}", "not a valid controller",
     None, None),
    ("unknown peers", "reward: {baseline: {set: {center: {over: §groop}}}}", "over got the text 'groop'", "group",
     "batch"),
    ("peers where there are none", "trajectory: {ratio: {set: {form: {§over: group}}}}", "takes no `over`", None, None),
    ("unknown stage", "reward: {credit: {add: [{operator: to_go, stage: §before}]}}", "stage got the text 'before'",
     None,
     "accrue"),
    ("stage where there is none", "reward: {scale: {set: {divide: {§stage: after}}}}", "takes no `stage`", None, None),
    ("unknown gate value", "reward: {scale: {set: {divide: {where: {sign: §positiv}}}}}", "sign got the text 'positiv'",
     "positive", "negative"),
    ("gate that is no boolean", "reward: {scale: {set: {divide: {where: {truncated: §yes}}}}}",
     "expected true or false",
     None, None),
    ("unknown gate range", "reward: {scale: {set: {divide: {where: {entropy: {§topp: 0.2}}}}}}", "unknown key 'topp'",
     "top", "bottom"),
    ("unknown failure", "reward: {scale: {set: {divide: {addresses: [drift, §nois]}}}}", "unknown failure 'nois'",
     "noise",
     "drift"),
    ("unknown failure of a drop", "reward: {scale: {drop: [{operator: divide, addresses: [§nois]}]}}",
     "unknown failure 'nois'", "noise", "drift"),
    ("dropping what is not there", "reward: {scale: {drop: [§divid]}}",
     "base, its parent, has no 'divid' in scale to drop",
     "divide", None),
    ("setting what is not there", "reward: {scale: {set: {§divid: {over: batch}}}}", "has no 'divid' in scale to set",
     "divide", None),
    ("set list beside drop", "reward: {scale: {set: [], §drop: [divide]}}", "nothing is left to drop", None, None),
    ("one label twice", "reward:\n  §scale: {add: [{operator: divide}]}", "'divide' stands twice", None, None),
    ("missing parent", HEAD.replace("extends: base", "extends: §bas"), "no entry 'bas' to extend", "base", "root"),
    ("requirement dropped", "trajectory:\n  ratio: §{drop: [form]}", "clip requires ratio.form", None, None),
    ("requirement never met", "id: mine\nname: Mine\nfamily: grpo\nyear: 2025\nsummary: s\n"
     "trajectory: {trust_region: {add: [§{operator: clip, low: 0.1, high: 0.1}]}}", "clip requires ratio.form",
     None, None),
    ("undeclared teacher",
     "reward: {credit: {add: [{operator: add_teacher, teacher: §tutor}]}}\nteachers: {tutors: {}}",
     "reads the teacher 'tutor', which `teachers` does not declare", "tutors", None),
    ("undeclared teacher of a term", "trajectory: {terms: {add: [{operator: penalise, to: §teacher, coefficient: 1}]}}",
     "reads the teacher 'teacher'", None, None),
    ("unknown stream", "reward: {credit: {add: [{operator: add_streams, weights: {main: 1, §stp: 1}}]}}\n"
     "streams: {step: {baseline: {add: [{operator: center}]}}}", "no stream 'stp'", "step", "main"),
    ("stream named like a slot", "streams:\n  §credit: {}", "'credit' is taken", None, None),
    ("removing a stream that is not there", "streams:\n  §step: null", "no stream 'step' to remove", None, None),
    ("source of no parameter", "sources: {§trust_region.hihg: paper}", "is no parameter of mine", "trust_region.high",
     "ratio.unit"),
    ("unknown mix", "mix: [{of: §rooot, weight: 1}]", "no entry 'rooot'", "root", None),
    ("unknown twin", "coincides_with: [§bse]", "no entry 'bse'", "base", "root"),
    ("claim against nothing", "claimed_side: {side: both, relative_to: §ppoo, source: s}", "no entry 'ppoo'",
     None, "base"),
    ("unknown link", "link: §square", "got the text 'square'", None, "linear"),
    ("id that is taken", HEAD.replace("id: mine", "id: §base"), "the id 'base' is taken by", None, None),
    ("alias that is taken", "aliases: [fine, §base]", "the name 'base' belongs to 'base' already", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message", "closest", "allowed"), CASES, ids=[case[0] for case in CASES])
def test_one_mistake(family, name, text, message, closest, allowed) -> None:
    whole = text if text.lstrip("§").startswith("id:") else HEAD + text
    before, _, after = whole.partition("§")
    # a file name that sorts behind base.yaml, so that a clash of ids is reported here
    path = family.write("methods/z.yaml", before + after)
    found = [problem for problem in family.problems() if problem.file.endswith("z.yaml")]
    assert [message in problem.message for problem in found] == [True], [str(problem) for problem in found]
    problem = found[0]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    assert (problem.line, problem.column) == (line, column)
    assert problem.text == path.read_text(encoding="utf-8").splitlines()[line - 1]
    if closest is not None:
        assert problem.closest == closest
    if allowed is not None:
        assert allowed in problem.allowed
    shown = str(problem).splitlines()
    assert shown[0] == f"{problem.file}:{line}:{column}: {problem.message}"
    assert shown[2].index("^") == 4 + column - 1


OPERATOR_CASES = [
    ("§summry: s", "unknown key 'summry'", "summary"),
    ("summary: s\n  parameters: {p: {type: §numbr, meaning: m}}", "got the text 'numbr'", "number"),
    ("summary: s\n  parameters: {p: §{type: choice, meaning: m}}", "a choice lists its `choices`", None),
    (
        "summary: s\n  parameters: {p: {type: number, minimum: 0, default: §-1, meaning: m}}",
        "expected a number >= 0",
        None,
    ),
    ("summary: s\n  parameters: {§where: {type: number, meaning: m}}", "is a key of every item", None),
    ("summary: s\n  over: {choices: [group], default: §batch}", "the default is none of the choices", None),
    ("summary: s\n  requires: [§ratoi.form]", "expected slot.operator", "ratio"),
    ("summary: s\n  requires: [§ratio.frm]", "no file declares", "ratio.form"),
    ("summary: s\n  couples: §everyone", "got the text 'everyone'", None),
    ("summary: s\n  reads: [reward]\n  §of_others: [reward]", "couples none", None),
    ("summary: s\n  reads: [reward]\n  couples: group\n  of_others: [§rewrd]", "does not read 'rewrd'", "reward"),
]


@pytest.mark.parametrize(("body", "message", "closest"), OPERATOR_CASES, ids=[case[1] for case in OPERATOR_CASES])
def test_mistake_in_a_declaration(mini, body, message, closest) -> None:
    text = f"mine:\n  {body}"
    text = text if "summ" in body.split(":")[0] and "§" not in body.split(":")[0] else f"{text}\n  summary: s"
    before, _, after = text.partition("§")
    mini.write("operators/reward/signal.yaml", before + after)
    found = mini.problems()
    assert len(found) >= 1
    assert message in found[0].message
    assert found[0].closest == closest
    assert (found[0].line, found[0].column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))


@pytest.mark.parametrize(
    "couples",
    ["group", "over", "{parameter: by, value: all, then: batch, else: sample}"],
    ids=["always", "by peers", "by parameter"],
)
def test_operator_that_can_couple_says_what_it_reads_of_others(mini, couples) -> None:
    mini.write("operators/reward/signal.yaml", f"mine:\n  summary: s\n  reads: [reward]\n  couples: {couples}")
    [problem] = mini.problems()
    assert "of_others" in problem.message
    assert (problem.line, problem.column, problem.allowed) == (1, 1, ("reward",))


def test_sampling_says_by_its_law_how_it_couples(mini) -> None:
    mini.write("operators/trajectory/sampling.yaml", "refill: {summary: s, couples: batch, law: refilled}")
    assert mini.problems() == []
    mini.write("operators/trajectory/sampling.yaml", "refill: {summary: s, reads: [r], couples: batch, of_others: [r]}")
    [problem] = mini.problems()
    assert "law" in problem.message


def test_operator_names_are_unique_over_slots(mini) -> None:
    mini.write("operators/reward/signal.yaml", "center: {summary: again}")
    [problem] = mini.problems()
    assert "center" in problem.message
    assert (Path(problem.file).name, problem.line, problem.column) == ("signal.yaml", 1, 1)


def test_operator_file_in_no_slot(mini) -> None:
    mini.write("operators/reward/ratio.yaml", "x: {summary: s}")
    [problem] = mini.problems()
    assert "neither axis and slot" in problem.message
    assert "trajectory/ratio" in problem.allowed


def test_cycle_names_the_way_round(mini) -> None:
    mini.method("a", extends="b")
    mini.method("b", extends="c")
    mini.method("c", extends="a")
    found = mini.problems()
    assert [Path(problem.file).name for problem in found] == ["a.yaml", "b.yaml", "c.yaml"]
    assert "a extends b extends c extends a" in found[0].message
    assert (found[0].line, found[0].column) == (3, 10)


def test_all_problems_of_all_files_at_once(family) -> None:
    family.method("one", "reward: {scale: {drop: [nothing, nowhere]}}\nnote: x", extends="base")
    family.method("two", "reward: {scale: {set: {divide: {over: nobody, stage: never}}}}", extends="base")
    family.method("three", "reward: {baseline: {add: [{operator: cente}]}}", extends="missing")
    family.write("failures/bad.yaml", "{id: bad, name: Bad, axis: up, slots: [scael], summary: s}")
    places = {(Path(p.file).name, p.message.split(" got ")[0]) for p in family.problems()}
    assert places == {
        ("one.yaml", "unknown key 'note'"),
        ("two.yaml", "over"),
        ("two.yaml", "divide runs in one place only, so it takes no `stage`"),
        ("three.yaml", "no entry 'missing' to extend"),
        ("three.yaml", "unknown operator 'cente'"),
        ("bad.yaml", "got the text 'up'"),
    }


def test_child_of_a_broken_parent_adds_nothing(family) -> None:
    family.method("broken", "reward: {scale: {drop: [nothing]}}", extends="base")
    family.method("child", "reward: {scale: {drop: [divide]}}", extends="broken")
    assert [Path(problem.file).name for problem in family.problems()] == ["broken.yaml"]


def test_user_of_a_broken_operator_adds_nothing(family) -> None:
    family.write("operators/reward/scale.yaml", "divide: {sumary: s}")
    assert {Path(problem.file).name for problem in family.problems()} == {"scale.yaml"}


def test_unknown_slot_of_a_failure(mini) -> None:
    mini.write("failures/bad.yaml", "id: bad\nname: Bad\naxis: both\nslots: [ratio, scael]\nsummary: s")
    [problem] = mini.problems()
    assert (problem.line, problem.column, problem.closest) == (4, 16, "scale")


def test_compound_of_unknown_failures(mini) -> None:
    mini.write("compounds/both.yaml", "id: both\nname: B\naxis: both\nslots: [ratio]\nsummary: s\nfailures: [nose]")
    [problem] = mini.problems()
    assert (problem.line, problem.column, problem.closest) == (6, 12, "noise")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"# only a comment\n", "the file is empty"), (b"\xff\xfe\x00a", "not UTF-8"),
     (b"- a\n- b\n", "expected a mapping"), (b"just text", "expected a mapping"), (b"a: 1\n--- \nb: 2\n",
     "not valid YAML"),
     (b"[" * 3000 + b"]" * 3000, "nest")],
)  # fmt: skip
def test_file_of_another_form(mini, content: bytes, message: str) -> None:
    (mini.root / "methods" / "odd.yaml").write_bytes(content)
    found = mini.problems()
    assert len(found) == 1
    assert message in found[0].message


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot read the file"):
        load_registry([tmp_path / "absent.yaml"])


def test_the_error_holds_every_problem(family) -> None:
    family.method("one", "note: x\nnoot: y", extends="base")
    with pytest.raises(RegistryError) as raised:
        family.load()
    assert len(raised.value.problems) == 2
    assert raised.value.exit_code == 1
    assert "one.yaml:7:1" in str(raised.value)
    assert "one.yaml:8:1" in str(raised.value)
