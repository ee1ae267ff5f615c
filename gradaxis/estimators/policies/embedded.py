"""The checkpoints that ship with the package: small Llama models whose every answer can be listed."""

from __future__ import annotations

from pathlib import Path

import torch

from gradaxis.errors import UsageError
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy

EMBEDDED = ("reference", "policy", "stale", "teacher")
"""The starting point, the policy, the policy some updates earlier, and a better policy."""


def embedded_path(name: str) -> Path:
    """The folder of an embedded checkpoint, with its weights, tokenizer and chat template.

    Raises:
        UsageError: there is no checkpoint of that name.
    """
    if name not in EMBEDDED:
        raise UsageError(f"no embedded checkpoint {name!r} ({', '.join(EMBEDDED)})")
    return Path(__file__).parent / "checkpoints" / name


def embedded_policy(
    name: str, dtype: str | torch.dtype = "float32", device: str | torch.device = "cpu", params: str = "all"
) -> HuggingFacePolicy:
    """An embedded checkpoint, loaded as any other model is. Raises as `embedded_path` and `HuggingFacePolicy.load`."""
    policy = HuggingFacePolicy.load(str(embedded_path(name)), device=device, dtype=dtype, params=params)
    policy.name = f"embedded:{name}"  # where the package is installed is no part of a result's provenance
    return policy
