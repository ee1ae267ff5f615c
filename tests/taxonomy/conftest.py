"""A registry of a handful of operators, written to a temporary folder."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from gradaxis.taxonomy import Problem, Registry, load_registry
from gradaxis.taxonomy.building import build
from gradaxis.taxonomy.loading import read_folder

OPERATORS = {
    "trajectory/sampling": "refill: {summary: draws again, law: refilled}",
    "trajectory/ratio": """
        form:
          summary: weighs
          reads: [logp, anchor_logp]
          parameters:
            unit: {type: choice, choices: [token, sequence], default: token, meaning: what one ratio covers}
            anchor: {type: choice, choices: [old, behavior, teacher], default: old, meaning: the denominator}
          needs: [logp, "{anchor}_logp"]
        """,
    "trajectory/trust_region": """
        clip:
          summary: clips
          reads: [weight, advantage]
          parameters:
            low: {type: number, minimum: 0, meaning: below}
            high: {type: number, minimum: 0, maximum: 9, exclusive: true, meaning: above}
            floor: {type: number, nullable: true, default: null, meaning: null sets none}
          requires: [ratio.form]
        """,
    "trajectory/aggregation": """
        add_up:
          summary: adds tokens up
          reads: [mask]
          parameters:
            constant: {type: choice, choices: [sequences, tokens], default: sequences, meaning: the divisor}
            scope: {type: choice, choices: [global, local], default: global, not_yet: [local], meaning: over what}
          couples: {parameter: constant, value: tokens, then: batch, else: sample}
          of_others: [mask]
        """,
    "trajectory/terms": """
        penalise:
          summary: a divergence
          reads: [logp, target_logp]
          parameters:
            to: {type: choice, choices: [ref, teacher, none], default: ref, meaning: the other policy}
            coefficient: {type: number, minimum: 0, meaning: the factor}
          needs: ["{to}_logp"]
        """,
    "reward/shaping": """
        penalise_inside:
          summary: a divergence in the reward
          reads: [reward, logp_at_sampling]
          parameters: {coefficient: {type: number, default: 0.1, meaning: the factor}}
        """,
    "reward/baseline": """
        center:
          summary: centres
          reads: [advantage, peers]
          parameters: {rows: {type: integer, minimum: 1, default: 1, meaning: how many}}
          over: {choices: [group, batch], default: group}
          couples: over
          of_others: [advantage, peers]
        greedy: {summary: greedy answer, needs: ["companion:greedy"]}
        expert: {summary: expert answer, needs: ["companion:expert"]}
        """,
    "reward/scale": """
        divide:
          summary: divides
          reads: [advantage, peers]
          over: {choices: [group, batch], default: group}
          couples: over
          of_others: [advantage, peers]
        """,
    "reward/credit": """
        to_go: {summary: sums, stages: [after, accrue]}
        add_teacher:
          summary: adds a teacher
          reads: [advantage, teacher_logp]
          parameters:
            teacher: {type: string, default: teacher, meaning: its name}
            positive: {type: boolean, default: false, meaning: only where it is positive}
          needs: ["{teacher}_logp"]
        add_streams:
          summary: adds streams
          reads: [advantage, streams]
          parameters: {weights: {type: mapping, meaning: by stream}}
        """,
}

ROOT = """
id: root
name: Root
family: foundations
year: 1992
summary: the root
"""


class Mini:
    """A registry folder under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for place, text in OPERATORS.items():
            self.write(f"operators/{place}.yaml", text)
        self.write("failures/noise.yaml", "{id: noise, name: Noise, axis: reward, slots: [baseline], summary: noisy}")
        self.write("failures/drift.yaml", "{id: drift, name: Drift, axis: both, slots: [terms], summary: drifts}")
        self.write("methods/root.yaml", ROOT)

    def write(self, place: str, text: str) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).strip("\n") + "\n", encoding="utf-8")
        return path

    def method(self, id_: str, body: str = "", extends: str | None = "root", family: str = "grpo") -> Path:
        """Write a method; `body` holds everything beside the obligatory keys."""
        parent = f"extends: {extends}\n" if extends else ""
        head = f"id: {id_}\nname: {id_}\n{parent}family: {family}\nyear: 2025\nsummary: a method\n"
        return self.write(f"methods/{id_}.yaml", head + dedent(body).strip("\n"))

    def problems(self) -> list[Problem]:
        return list(build(read_folder(self.root)).problems)

    def load(self) -> Registry:
        return load_registry(root=self.root)


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    return Mini(tmp_path / "small")


@pytest.fixture
def family(mini: Mini) -> Mini:
    """root < base (a ratio, a clip, a mean, a group baseline and scale) < whatever the test adds."""
    mini.method(
        "base",
        """
        trajectory:
          ratio: {add: [{operator: form, addresses: [drift], why: old samples}]}
          trust_region: {add: [{operator: clip, low: 0.2, high: 0.2, why: caution}]}
          aggregation: {add: [{operator: add_up}]}
        reward:
          baseline: {add: [{operator: center, addresses: [noise], why: less noise}]}
          scale: {add: [{operator: divide}]}
        """,
    )
    return mini
