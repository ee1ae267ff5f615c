"""Memory and work of a Gram matrix, estimated beforehand from the shape of the model.

Letters: N sequences, B patterns, R rows (live pairs of both), L positions of prompt and response together, T response
positions, D sketch columns. Work is in units: one unit is one batched forward and backward pass over the N sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradaxis.estimators.gradients.blocks import BLOCK_VALUES
from gradaxis.estimators.gradients.head import LOGITS_AT_ONCE
from gradaxis.estimators.gradients.taps import repeated_layers
from gradaxis.estimators.memory import config_number, layer_values
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy

SKETCH_WORK = 15.0
"""What a value of a gradient costs to be added to a sketch, in multiplications and additions of a pass."""

WORK_AREA = 12
"""Blocks, or chunks of logits, that stand side by side."""


@dataclass(frozen=True)
class ModelShape:
    """What memory and work depend on.

    `layers` can be recomputed one by one (0: none can). `values` are all of the model's, `selected` those that count,
    `itemsize` bytes each. `eager`: attention keeps its weights. `plain`: the head can run in chunks.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    vocabulary: int
    values: int
    selected: int
    itemsize: int = 4
    eager: bool = False
    plain: bool = True

    @property
    def wide(self) -> int:
        """Bytes of a number in sums: half precision is added up in float32."""
        return max(4, self.itemsize)


def shape_of(policy: HuggingFacePolicy, plain: bool) -> ModelShape:
    """The shape of a policy's model."""
    config, layers = policy.model.config, len(repeated_layers(policy.model))
    hidden = config_number(config, "hidden_size", "n_embd", default=1024)
    return ModelShape(
        layers=layers or config_number(config, "num_hidden_layers", "n_layer", default=12),
        hidden=hidden,
        inner=config_number(config, "intermediate_size", "n_inner", default=4 * hidden),
        heads=config_number(config, "num_attention_heads", "n_head", default=1),
        vocabulary=policy.vocabulary,
        values=sum(parameter.numel() for parameter in policy.model.parameters()),
        selected=sum(parameter.numel() for parameter in policy.parameters().values()),
        itemsize=policy.dtype.itemsize,
        eager=getattr(config, "_attn_implementation", None) == "eager",
        plain=plain,
    )


def activation_bytes(shape: ModelShape, rows: int, positions: int, recomputed: int = 0) -> int:
    """Of a forward pass whose backward pass forms per-row gradients, with so many layers run again in that."""
    one = layer_values(shape.hidden, shape.inner, shape.heads, positions, shape.eager)
    kept = (shape.layers - recomputed) * one + recomputed * shape.hidden
    live = one + 2 * shape.inner  # the layer that is run again, or the cotangents of the one at hand
    return rows * positions * (kept + live) * shape.itemsize


def exact_bytes(shape: ModelShape, rows: int, positions: int, answers: int, recomputed: int = 0) -> int:
    """Of an exact Gram matrix over R rows: everything beside the model's weights."""
    logits_at_once = min(LOGITS_AT_ONCE, rows * answers * shape.vocabulary)
    block = min(BLOCK_VALUES, rows * shape.hidden * max(shape.inner, shape.vocabulary))
    area = WORK_AREA * max(logits_at_once, block, rows * answers) * shape.wide
    logits = 0 if shape.plain else 5 * rows * answers * shape.vocabulary * shape.wide
    return activation_bytes(shape, rows, positions, recomputed) + area + logits + 3 * 8 * rows**2


def projected_bytes(shape: ModelShape, sequences: int, rows: int, positions: int, answers: int, columns: int) -> int:
    """Of a projection of N·B rows in all, in micro-batches of so many sequences: everything beside the weights."""
    sketches = 2 * rows * columns * shape.wide + 3 * 8 * rows**2
    signs = shape.selected
    return exact_bytes(shape, sequences, positions, answers) + sketches + signs


def exact_units(sequences: int, rows: int, tokens: float, recomputed: float = 0.0) -> float:
    """(1 + r/3)·B + B²·N/(3·Tok) units for B = R/N patterns, with a share r of the layers run again.

    The first part is the pass over R rows instead of N; the second the R² inner products of all gradients.
    """
    patterns = rows / max(1, sequences)
    return (1 + recomputed / 3) * patterns + patterns * rows / (3 * max(1.0, tokens))


def projected_units(patterns: int, tokens: float) -> float:
    """1/3 + B·(2/3 + what it costs to sketch the gradients of a sequence) units: one forward pass, B backward."""
    return 1 / 3 + patterns * (2 / 3 + SKETCH_WORK / max(1.0, tokens))
