"""The largest model that each way fits into a given memory, from the same formulas by which a way is chosen.

Letters: N sequences, B patterns, L positions, T response positions, D sketch columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gradaxis.estimators.gradients.budget import ModelShape, exact_bytes, projected_bytes


@dataclass(frozen=True)
class Architecture:
    """A Llama-like model by its published configuration."""

    layers: int
    hidden: int
    inner: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    head_width: int | None = None
    attention_bias: bool = False

    @property
    def values(self) -> int:
        """Its parameters: attention, a gated feed-forward part and two norms a layer; embedding, head and last norm."""
        width = self.head_width or self.hidden // self.heads
        attention = width * (2 * self.heads + 2 * self.key_value_heads) * self.hidden
        biases = width * (self.heads + 2 * self.key_value_heads) if self.attention_bias else 0
        norms = 2 * self.hidden + (2 * width if self.head_width and not self.attention_bias else 0)
        layer = attention + biases + 3 * self.hidden * self.inner + norms
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    def adapter_values(self, rank: int) -> int:
        """Of LoRA on queries and values."""
        width = self.head_width or self.hidden // self.heads
        outputs = width * (self.heads + self.key_value_heads)
        return self.layers * rank * (2 * self.hidden + outputs)

    def shape(self, itemsize: int, selected: int | None = None) -> ModelShape:
        """What memory depends on; `selected` values count, all by default."""
        return ModelShape(
            layers=self.layers, hidden=self.hidden, inner=self.inner, heads=self.heads, vocabulary=self.vocabulary,
            values=self.values, selected=self.values if selected is None else selected, itemsize=itemsize,
        )  # fmt: skip


ARCHITECTURES: Mapping[str, Architecture] = {
    "SmolLM2-135M": Architecture(30, 576, 1536, 9, 3, 49152, True),
    "SmolLM2-360M": Architecture(32, 960, 2560, 15, 5, 49152, True),
    "Qwen2.5-0.5B": Architecture(24, 896, 4864, 14, 2, 151936, True, attention_bias=True),
    "Llama-3.2-1B": Architecture(16, 2048, 8192, 32, 8, 128256, True),
    "Qwen2.5-1.5B": Architecture(28, 1536, 8960, 12, 2, 151936, True, attention_bias=True),
    "Qwen2.5-3B": Architecture(36, 2048, 11008, 16, 2, 151936, True, attention_bias=True),
    "Qwen3-4B": Architecture(36, 2560, 9728, 32, 8, 151936, True, head_width=128),
    "Qwen2.5-7B": Architecture(28, 3584, 18944, 28, 4, 152064, False, attention_bias=True),
    "Llama-3.1-8B": Architecture(32, 4096, 14336, 32, 8, 128256, False),
    "Qwen2.5-14B": Architecture(48, 5120, 13824, 40, 8, 152064, False, attention_bias=True),
    "Qwen2.5-32B": Architecture(64, 5120, 27648, 40, 8, 152064, False, attention_bias=True),
    "Llama-3.1-70B": Architecture(80, 8192, 28672, 64, 8, 128256, False),
}


@dataclass(frozen=True)
class Setting:
    """What is asked: N sequences with B patterns each, L positions of which T are answers, D columns."""

    sequences: int = 64
    patterns: int = 1
    positions: int = 1024
    answers: int = 512
    columns: int = 8192


Need = Callable[[ModelShape, Setting], int]


def exact_need(shape: ModelShape, setting: Setting) -> int:
    """Bytes of the model and the exact way with every layer run again."""
    rows = setting.sequences * setting.patterns
    return shape.itemsize * shape.values + exact_bytes(shape, rows, setting.positions, setting.answers, shape.layers)


def projected_need(shape: ModelShape, setting: Setting) -> int:
    """Bytes of the model and the projected way, one sequence at a time."""
    rows = setting.sequences * setting.patterns
    sizes = (rows, setting.positions, setting.answers, setting.columns)
    return shape.itemsize * shape.values + projected_bytes(shape, 1, *sizes)


def largest_model(
    need: Need, memory: int, setting: Setting, itemsize: int, adapters: int | None = None
) -> tuple[str, int] | None:
    """The largest of `ARCHITECTURES` that fits into so many bytes, with what it needs; None where none does.

    Args:
        need: `exact_need` or `projected_need`. setting: what is asked. itemsize: bytes a weight.
        adapters: the rank of LoRA adapters that alone count; by default all parameters do.
    """
    found = None
    for name, architecture in sorted(ARCHITECTURES.items(), key=lambda item: item[1].values):
        selected = None if adapters is None else architecture.adapter_values(adapters)
        shape = architecture.shape(itemsize, selected)
        if adapters is not None:
            shape = replace(shape, values=shape.values + shape.selected)
        needed = need(shape, setting)
        if needed <= memory:
            found = (name, needed)
    return found
