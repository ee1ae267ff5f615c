"""Giving memory back between the stages of an experiment."""

from __future__ import annotations

import ctypes
import gc
import sys

import torch


def release_memory() -> None:
    """Return what finished stages leave behind: cached blocks of the GPU, and freed blocks that glibc keeps.

    Without it a run on a model of 135 M parameters held 5 GB more at its end than any of its stages needs.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent from other C libraries
        if trim is not None:
            trim(0)
