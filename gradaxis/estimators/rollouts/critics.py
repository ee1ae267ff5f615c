"""Token values from a critic: V(s_t), the return expected when token t is about to be chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.policies.inputs import build_inputs
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.micro_batches import in_micro_batches

Critic = torch.nn.Module | Callable[[RolloutBatch], Tensor]
"""A transformers model with a scalar head, or a function of the batch that returns the values [N, T]."""


def critic_values(critic: Critic, batch: RolloutBatch, micro_batch: int = 16) -> Tensor:
    """V(s_t) in reward units [N, T]: what the critic says of the prompt and all tokens before t; 0 off the mask.

    Args:
        critic: a transformers model for token or sequence classification with one label, read at every position, or a
            function of the batch.
        batch: N rows.
        micro_batch: rows at a time; halved whenever memory runs out.

    Raises:
        InputError: the values are of another shape or not finite, the model's head is not scalar, or the rollouts do
            not fit the model.
    """
    if isinstance(critic, torch.nn.Module):
        values = _model_values(critic, batch, micro_batch)
    else:
        values = critic(batch)
        if not isinstance(values, Tensor) or values.shape != batch.tokens.shape:
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError("critic", got, f"a tensor of shape {tuple(batch.tokens.shape)}")
        values = values.detach()
    values = torch.where(batch.mask, values.to(batch.device), 0)
    if not bool(torch.isfinite(values).all()):
        raise InputError("critic", "values that are NaN or infinite", "finite numbers")
    return values


def load_critic(path: str, device: str = "cpu", dtype: str = "float32") -> Any:
    """A critic from a folder or hub id: a transformers model with a scalar head, pickled weights refused.

    Raises:
        InputError: it cannot be read, its head has more than one output, or the checkpoint has no weights for the head.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

    try:
        config = AutoConfig.from_pretrained(path)
        named = config.architectures or []
        kind = AutoModelForTokenClassification
        if any(name.endswith("ForSequenceClassification") for name in named):
            kind = AutoModelForSequenceClassification
        model, loading = kind.from_pretrained(
            path, num_labels=1, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise InputError("critic", f"{path}: {error}", "a model with a scalar head, in safetensors") from error
    absent = sorted({*loading["missing_keys"], *(key[0] for key in loading["mismatched_keys"])})
    if absent:
        # Such weights would be random, and the values with them.
        got = f"{path}, a checkpoint without fitting {', '.join(absent[:3])}"
        raise InputError("critic", got, "a trained scalar head")
    return model.to(device).eval()


def _model_values(model: Any, batch: RolloutBatch, micro_batch: int) -> Tensor:
    embedding = model.get_input_embeddings().weight
    inputs = build_inputs(batch, model.config, embedding.shape[0], embedding.device)
    pieces = []

    def run(rows: Sequence[int]) -> Tensor:
        part = inputs.rows(torch.tensor(list(rows), device=embedding.device))
        scalar = _scalar_head(model, part.ids, part.attention)
        # The state in which a token is chosen ends where its logits would be read.
        values = scalar.gather(1, part.predictor)
        return torch.nn.functional.pad(values, (0, batch.tokens.shape[1] - values.shape[1]))

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for _, values in in_micro_batches(run, range(batch.size), micro_batch):
                pieces.append(values)
    finally:
        model.train(training)
    values = torch.cat(pieces)
    return values if values.dtype == torch.float64 else values.float()


def _scalar_head(model: Any, ids: Tensor, attention: Tensor) -> Tensor:
    """One number a position [N, L]. A sequence classifier pools its positions, so its head is applied here."""
    head, base = getattr(model, "score", None), getattr(model, "base_model", None)
    if head is not None and base is not None and base is not model:
        output = head(base(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state)
    else:
        output = model(input_ids=ids, attention_mask=attention)
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.shape != (*ids.shape, 1):
        got = f"outputs of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError("critic", got, f"one number a position, shape {(*ids.shape, 1)}")
    return output[..., 0]
