"""Threads for models that are too small for more than one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradaxis.diagnostics.config import EMBEDDED, ExperimentConfig


@contextmanager
def fitting_threads(config: ExperimentConfig) -> Iterator[None]:
    """One thread while the embedded models run, and as many as before afterwards.

    Their matrices are so small that threads mostly wait for each other: on a busy machine two threads took several
    times as long as one.
    """
    before = torch.get_num_threads()
    small = config.policy is not None and config.policy.startswith(EMBEDDED) and config.device == "cpu"
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
