"""Evidence on the embedded policies: a small fresh and a small stale point, built once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gradaxis.diagnostics import ExperimentConfig
from gradaxis.diagnostics.evidence import Evidence
from gradaxis.diagnostics.provenance import Clock
from gradaxis.diagnostics.stages import Stages

SMALL = {"prompts": 16, "group_size": 4, "groups": 1}


@pytest.fixture(scope="session")
def small_config() -> Callable[..., ExperimentConfig]:
    """A configuration of the demo with 16 prompts of one group of 4 answers."""
    return lambda **changes: ExperimentConfig.demo(**{**SMALL, **changes})


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., ExperimentConfig]) -> Stages:
    """The stages of the small demo in a folder of their own."""
    return Stages(small_config(), tmp_path_factory.mktemp("evidence"), lambda stage, done, total: None)


@pytest.fixture(scope="session")
def evidence(stages: Stages) -> Callable[[str], Evidence]:
    """The evidence of `fresh` or `stale`, made once."""
    made: dict[str, Evidence] = {}

    def of(point: str) -> Evidence:
        if point not in made:
            made[point] = stages.evidence(point, Clock(Path(stages.folder)))
        return made[point]

    return of
