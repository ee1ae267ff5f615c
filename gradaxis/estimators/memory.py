"""How much memory is left for work on a model, and how many sequences fit into it.

Letters: L positions of prompt and response together, T response positions, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gradaxis.errors import InputError

GIGABYTE = 10**9
UNKNOWN_MEMORY = 8 * 2**30
USABLE = 0.7
"""Share of the free memory that may be planned with where no limit was given."""

PLANNED = 0.94
"""Share of what a limit leaves that is planned with: an allocator holds some blocks between their uses."""

LOGIT_COPIES = 6
"""Arrays of the size of the logits that stand side by side while quantities are computed from them."""


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


def used_memory(device: torch.device) -> int:
    """Bytes that this process holds: in tensors on a GPU, all of it on a CPU; 0 where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    table = Path("/proc/self/status")
    if device.type == "cpu" and table.is_file():
        for line in table.read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def memory_left(device: torch.device, limit: int | None = None) -> int:
    """Bytes that may be planned with: most of what the limit leaves beside what is in use, and of what is free."""
    usable = int(USABLE * free_memory(device))
    return usable if limit is None else min(usable, int(PLANNED * (limit - used_memory(device))))


def config_number(config: Any, *names: str, default: int) -> int:
    """The first of several names under which architectures keep a number, such as a layer count."""
    for name in names:
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return default


def scoring_bytes(config: Any, positions: int, answers: int, vocabulary: int, itemsize: int) -> int:
    """Of one sequence in a forward pass that keeps nothing for a backward pass: one layer, and the logits."""
    hidden = config_number(config, "hidden_size", "n_embd", default=1024)
    inner = config_number(config, "intermediate_size", "n_inner", default=4 * hidden)
    layer = positions * (6 * hidden + 3 * inner) * itemsize
    return layer + LOGIT_COPIES * answers * vocabulary * max(4, itemsize)


def layer_values(hidden: int, inner: int, heads: int, positions: int, eager: bool) -> int:
    """Values a position that a layer keeps for its backward pass; attention weights too where they are kept."""
    return 14 * hidden + 5 * inner + (3 * heads * positions if eager else 0)


def backward_bytes(config: Any, positions: int, answers: int, vocabulary: int, itemsize: int) -> int:
    """Of one sequence in a forward and backward pass by autograd: every layer, and the logits."""
    layers = config_number(config, "num_hidden_layers", "n_layer", default=12)
    hidden = config_number(config, "hidden_size", "n_embd", default=1024)
    inner = config_number(config, "intermediate_size", "n_inner", default=4 * hidden)
    heads = config_number(config, "num_attention_heads", "n_head", default=1)
    eager = getattr(config, "_attn_implementation", None) == "eager"
    layer = positions * layer_values(hidden, inner, heads, positions, eager) * itemsize
    return layers * layer + scoring_bytes(config, positions, answers, vocabulary, itemsize)


def sampling_bytes(model: Any, positions: int) -> int:
    """Of one answer while it is written: its cache, twice while it grows, and the law of the next token in float64."""
    config, weight = model.config, model.get_input_embeddings().weight
    vocabulary, itemsize = len(weight), weight.dtype.itemsize
    layers = config_number(config, "num_hidden_layers", "n_layer", default=12)
    hidden = config_number(config, "hidden_size", "n_embd", default=1024)
    heads = config_number(config, "num_attention_heads", "n_head", default=1)
    keys = config_number(config, "num_key_value_heads", default=heads)
    width = config_number(config, "head_dim", default=hidden // heads)
    cache = 2 * 2 * layers * keys * width * positions * itemsize
    return cache + scoring_bytes(config, positions, 0, 0, itemsize) + 8 * LOGIT_COPIES * vocabulary


def rows_that_fit(one: int, left: int, most: int, limit: int | None, what: str) -> int:
    """How many of `most` rows of `one` bytes each fit into the bytes left, at least one.

    Args:
        limit: what the user allowed, or None. what: a row, in words.

    Raises:
        InputError: a limit was given, and not even one row fits.
    """
    if limit is not None and one > left:
        raise too_little(limit, limit - left, one, what)
    return max(1, min(most, left // max(1, one)))


def too_little(limit: int, taken: int, needed: int, what: str) -> InputError:
    """The error for a limit that leaves too little. All numbers are bytes."""
    got = f"{limit / GIGABYTE:.2f} GB, of which {taken / GIGABYTE:.2f} GB are in use"
    return InputError(
        "memory", got, f"{(taken + needed) / GIGABYTE:.2f} GB or more for {what}",
        "Allow more with --memory, use shorter answers, a smaller model or --dtype bfloat16, or select fewer --params",
    )  # fmt: skip
