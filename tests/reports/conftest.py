"""What the report tests share: rows made by hand, and a page reader on the standard library's parser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gradaxis.diagnostics.measurements import Measurement, write_measurements
from gradaxis.diagnostics.storage import write_json
from gradaxis.reports.results import Results, read_results

HOSTILE = "<script>alert('x')</script>"
OVERRIDE = "dapo[trust_region.high=0.3]"
FIELLER = "95 %, Fieller's interval from a jackknife over prompts"
JACKKNIFE = "95 %, jackknife over prompts"

VOID = {"meta", "br", "img", "link", "hr", "input", "path", "use"}


class Page(HTMLParser):
    """Tags with attributes, text by tag, ids, references, and whether every element was closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.unbalanced: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts.append((self._open[-1], data.strip()))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name]

    def text(self, tag: str | None = None) -> str:
        return "\n".join(data for name, data in self.texts if tag is None or name == tag)

    def repeated_ids(self) -> list[str]:
        return [identity for identity, times in Counter(self.attributes("id")).items() if times > 1]


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Page]:
    """Parses HTML source."""
    return Page


def _row(probe: str, metric: str, method: str = "", point: str = "fresh", **fields: object) -> Measurement:
    return Measurement(**{"probe": probe, "metric": metric, "method": method, "point": point, "n": 24, "exact": True,
                          "interval": JACKKNIFE, **fields})  # type: ignore[arg-type]  # fmt: skip


def _bias(method: str, point: str, value: float | None, low: float, high: float, verdict: str) -> list[Measurement]:
    gain = 0.875 if point == "fresh" or method != "rloo" else 0.371
    common = {"compared_with": "exact gradient of J", "interval": FIELLER}
    threshold = {"threshold": 0.99, "threshold_source": "rule of this project"} if verdict != "unresolved" else {}
    across = None if value is None else (1 / value**2 - 1) ** 0.5
    hidden = {"verdict": "unresolved", "reason": "noise hides it"} if value is None else {}
    return [
        _row("bias", "cosine", method, point, estimate=value, low=low, high=high, verdict=verdict, unit="cosine",
             reason=hidden.get("reason", ""), **common, **threshold),
        _row("bias", "orthogonal_bias", method, point, estimate=across, **common, **hidden),
        _row("bias", "gain", method, point, estimate=gain, low=gain - 0.1, high=gain + 0.1, **common),
    ]  # fmt: skip


def _noise(method: str, point: str, size: float | None, low: float, high: float) -> list[Measurement]:
    hidden = {"verdict": "unresolved", "reason": "|G|² is not clear of zero"} if size is None else {}
    return [_row("variance", "critical_batch_size", method, point, estimate=size, low=low, high=high, unit="prompts",
                 interval=FIELLER, **hidden)]  # fmt: skip


def hand_rows() -> list[Measurement]:
    """Two points, four methods: rloo follows ∇J, grpo leans, an override leans more when stale, cispo is not resolved;
    ppo is not assessed, and one method's name is hostile.
    """
    inf = float("inf")
    rows = [
        _row("coverage", "assessed", "ppo", verdict="not assessed", reason="the rollouts have no value",
             needs=("value",), advice="give a critic (--critic)"),
        _row("coverage", "assessed", HOSTILE, verdict="not assessed", reason=f"bad <b>reason</b> {HOSTILE}"),
        _row("reward", "mean_reward", estimate=0.604, low=0.472, high=0.736, unit="reward"),
        _row("reward", "mean_reward", point="stale", estimate=0.553, low=0.415, high=0.692, unit="reward"),
        _row("reward", "reward_variance_share", part="together", estimate=0.182, verdict="ok", unit="share"),
        _row("silent-groups", "silent_groups", estimate=1 / 3, low=0.18, high=0.533, verdict="watch", threshold=0.3,
             threshold_source="rule of this project", interval="95 %, Wilson's interval over groups",
             advice="resample"),
        _row("silent-groups", "silent_groups", point="stale", estimate=0.25, low=0.12, high=0.45),
        _row("silent-groups", "expected_silent_groups", estimate=0.439, interval="none: exact by enumeration"),
        _row("silent-groups", "silent_weight", "grpo", estimate=0.0),
        _row("silent-groups", "silent_weight", "rloo", estimate=0.022),
        _row("importance", "ess", point="stale", part="sequence weights", estimate=0.504, low=0.361, high=0.648),
        *(_row("importance", "clip_fraction", OVERRIDE, "stale", part=part, estimate=share)
          for part, share in (("", 0.15), ("positive advantage, above", 0.1), ("negative advantage, below", 0.05))),
        *(_row("entropy", "entropy_by_position", point=point, part=f"position {position}", estimate=value,
               low=value - 0.1, high=value + 0.1, unit="nats a token")
          for point, start in (("fresh", 0.9), ("stale", 0.8)) for position, value in enumerate((start, start / 2))),
        *_bias("rloo", "fresh", 0.998, 0.992, 1.0, "ok"),
        *_bias("grpo", "fresh", 0.935, 0.91, 0.951, "watch"),
        *_bias(OVERRIDE, "fresh", 0.94, 0.92, 0.96, "watch"),
        *_bias("cispo", "fresh", None, -1.0, 1.0, "unresolved"),
        *_bias("rloo", "stale", 0.95, 0.93, 0.97, "watch"),
        *_bias("grpo", "stale", 0.93, 0.90, 0.96, "watch"),
        *_bias(OVERRIDE, "stale", 0.71, 0.62, 0.78, "bad"),
        *_bias("cispo", "stale", None, -1.0, 1.0, "unresolved"),
        *(_row("bias", "efficiency", method, point, estimate=value, low=value / 2, high=1.0)
          for method, point, value in (("rloo", "fresh", 0.6), ("grpo", "fresh", 0.5), ("grpo", "stale", 0.3))),
        _row("entropy", "entropy_change", "rloo", estimate=-4.3, low=-5.27, high=-3.34),
        _row("entropy", "entropy_change", "grpo", estimate=1.4, low=-3.9, high=6.7, verdict="unresolved",
             reason="the sign is not clear of zero"),
        _row("entropy", "entropy_change", "cispo", estimate=2.0, low=1.0, high=3.0),
        _row("entropy", "entropy_price", "rloo", estimate=4.0, low=3.0, high=5.0),
        _row("entropy", "entropy_price", "cispo", estimate=-2.0, low=-3.0, high=-1.0),
        *_noise("rloo", "fresh", 21.5, 12.0, 48.0),
        *_noise("grpo", "fresh", 16.0, 9.0, 41.0),
        *_noise(OVERRIDE, "fresh", 30.0, 18.0, 77.0),
        *_noise("cispo", "fresh", None, 14.0, inf),
        *_noise("grpo", "stale", 44.0, 25.0, 120.0),
        *_noise(OVERRIDE, "stale", None, 0.0, inf),
        _row("variance", "noise_ratio_at_equal_gain", "rloo", compared_with="grpo", estimate=0.62, low=0.5, high=0.77),
        _row("variance", "noise_ratio_at_equal_gain", OVERRIDE, compared_with="grpo", estimate=1.8, low=1.2, high=2.7),
        _row("variance", "noise_ratio_at_equal_gain", "cispo", compared_with="grpo", low=0.0, high=inf,
             verdict="unresolved", reason="a gain is not clear of zero"),
        _row("agreement", "method_cosine", "grpo", compared_with=OVERRIDE, estimate=1.0, low=1.0, high=1.0),
        _row("agreement", "coincides", "grpo", compared_with=OVERRIDE, estimate=1.0,
             advice="they differ in trust_region; trust_region act on stale rollouts only: add --behavior"),
        _row("agreement", "method_cosine", "grpo", compared_with="rloo", estimate=0.9, low=0.85, high=0.95),
        _row("agreement", "method_cosine", "grpo", "stale", compared_with=OVERRIDE, estimate=0.8, low=0.7, high=0.9),
        _row("slots", "slot_effect", OVERRIDE, "stale", axis="trajectory", slot="trust_region", compared_with="dapo",
             estimate=0.12, low=0.08, high=0.16, failure="entropy-collapse"),
        _row("slots", "slot_effect_on_noise", OVERRIDE, "stale", axis="trajectory", slot="trust_region",
             compared_with="dapo", estimate=0.7, low=0.5, high=0.98),
        _row("slots", "slot_effect", "grpo", axis="reward", slot="scale", compared_with="reinforce", estimate=0.045,
             low=0.02, high=0.07),
        _row("slots", "slot_effect", "rloo", axis="reward", slot="baseline", compared_with="reinforce", estimate=0.01,
             low=-0.02, high=0.04),
        *(_row("slots", metric, method, axis="trajectory", slot="aggregation", compared_with="ppo", estimate=value,
               low=value - 0.02, high=value + 0.02)
          for method in ("grpo", OVERRIDE) for metric, value in (("slot_effect", 0.06), ("slot_effect_on_bias", 0.05))),
        _row("slots", "slot_effect_on_bias", "grpo", axis="reward", slot="scale", compared_with="reinforce",
             estimate=0.03, low=0.01, high=0.05),
        _row("slots", "slot_effect_on_bias", "rloo", axis="reward", slot="baseline", compared_with="reinforce",
             estimate=0.001, low=-0.02, high=0.022, verdict="unresolved", reason="the sign is not clear of zero"),
    ]  # fmt: skip
    return rows


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder as an experiment leaves it, with the rows made by hand."""
    path = tmp_path_factory.mktemp("results")
    write_measurements(hand_rows(), path)
    config = {"policy": f"models/{HOSTILE}", "behavior": "models/old", "task": "arithmetic", "prompts": 24,
              "group_size": 8, "seed": 3, "params": "all", "fingerprint": "0123456789abcdef"}  # fmt: skip
    write_json(path / "config.json", config)
    write_json(path / "provenance.json", {"versions": {"gradaxis": "0.1.0", "torch": "2.13.0"}, "total_seconds": 44.1})
    side = {"side": "reward", "relative_to": "reinforce", "slots": ["baseline"], "parameters_only": False}
    cards = {
        label: {"id": label.partition("[")[0], "name": label.upper(), "status": "checked", "extends": "reinforce",
                "relative": {"parent": side}}
        for label in ("rloo", "grpo", OVERRIDE, "cispo", "ppo", HOSTILE)
    }  # fmt: skip
    write_json(path / "methods.json", cards)
    return path


@pytest.fixture(scope="session")
def results(folder: Path) -> Results:
    return read_results(folder)
