"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import pytest

from gradaxis.taxonomy import Registry, load_registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The registry that ships with the package."""
    return load_registry()
