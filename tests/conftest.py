"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import pytest
from hypothesis import settings

from gradaxis.taxonomy import Registry, load_registry

settings.register_profile("gradaxis", derandomize=True, deadline=None)
settings.load_profile("gradaxis")


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The registry that ships with the package."""
    return load_registry()
