"""Memory and work of a Gram matrix, estimated beforehand.

Letters: R rows, L positions, B patterns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gradaxis.estimators.gradients.blocks import BLOCK_VALUES
from gradaxis.estimators.gradients.head import LOGITS_AT_ONCE
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy

UNKNOWN_MEMORY = 8 * 2**30
USABLE = 0.7
"""Share of the free memory that may be planned with."""

NEGLIGIBLE_WORK = 2e12
"""Multiplications and additions that take some ten seconds on a small machine."""


def free_memory(device: torch.device) -> int:
    """Bytes that can be used on the device now; 8 GiB where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if device.type == "cpu" and table.is_file():
        for line in table.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return UNKNOWN_MEMORY


def activation_bytes(policy: HuggingFacePolicy, rows: int, positions: int, recomputed: bool) -> int:
    """Of a forward pass whose backward pass forms per-row gradients: all layers, or one layer and all boundaries."""
    config: Any = policy.model.config
    layers = getattr(config, "num_hidden_layers", None) or 12
    hidden = getattr(config, "hidden_size", None) or 1024
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    heads = getattr(config, "num_attention_heads", None) or 1
    eager = getattr(config, "_attn_implementation", None) == "eager"
    one = 12 * hidden + 5 * inner + (3 * heads * positions if eager else 0)
    values = layers * hidden + one if recomputed else layers * one
    return rows * positions * values * policy.dtype.itemsize


def exact_bytes(
    policy: HuggingFacePolicy, rows: int, positions: int, answers: int, plain: bool, recomputed: bool
) -> int:
    """Of an exact Gram matrix over R rows, `answers` response positions each."""
    chunks = 8 * max(LOGITS_AT_ONCE, BLOCK_VALUES, rows * answers) * max(4, policy.dtype.itemsize)
    logits = 0 if plain else 5 * rows * answers * policy.vocabulary * max(4, policy.dtype.itemsize)
    return activation_bytes(policy, rows, positions, recomputed) + chunks + logits + 3 * 8 * rows**2


def exact_is_affordable(policy: HuggingFacePolicy, rows: int, positions: int, patterns: int) -> bool:
    """Whether the R² inner products cost no more than a few times the passes that they replace."""
    count = sum(parameter.numel() for parameter in policy.parameters().values())
    if 2.0 * rows**2 * count <= NEGLIGIBLE_WORK:
        return True
    return rows <= (24 if patterns == 1 else 6) * positions
