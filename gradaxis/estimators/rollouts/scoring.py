"""Filling the log-probability, entropy and value columns of a rollout batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.critics import Critic, critic_values
from gradaxis.estimators.rollouts.encoding import tokenizer_fingerprint


class ScoringPolicy(Protocol):
    """What scores: a model with its tokenizer that gives per-token quantities, such as `HuggingFacePolicy`."""

    @property
    def model(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...

    def quantities(self, batch: RolloutBatch, names: Sequence[str], /) -> dict[str, Tensor]: ...


def score_columns(
    batch: RolloutBatch,
    *,
    policy: ScoringPolicy | None = None,
    old: ScoringPolicy | None = None,
    reference: ScoringPolicy | None = None,
    teachers: ScoringPolicy | Mapping[str, ScoringPolicy] | None = None,
    critic: Critic | None = None,
) -> RolloutBatch:
    """The batch with the columns that the given models supply. Nothing is filled in for a model that is not given.

    Columns are [N, T], in nats but for `value`, which is in reward units: `logp` and `entropy` from `policy`,
    `old_logp` from `old`, `ref_logp` from `reference`, `<name>_logp` from each of `teachers` (`teacher_logp` for a
    single one), `value` from `critic`. A model that is given twice runs once.

    Raises:
        InputError: a model's vocabulary or tokenizer does not fit the rollouts, or its values are not finite.
    """
    if teachers is None or isinstance(teachers, Mapping):
        by_name = dict(teachers or {})
    else:
        by_name = {"teacher": teachers}
    wanted: list[tuple[str, ScoringPolicy | None]] = [("logp", policy), ("old_logp", old), ("ref_logp", reference)]
    wanted += [(f"{name}_logp", teacher) for name, teacher in by_name.items()]
    columns: dict[str, Tensor] = {}
    scored: dict[int, Tensor] = {}
    for column, model in wanted:
        if model is None:
            continue
        if id(model) not in scored:
            check_fit(batch, model, column)
            names = ("logp", "entropy") if column == "logp" else ("logp",)
            found = model.quantities(batch, names)
            _check_finite(batch, found, column)
            scored[id(model)] = found["logp"].detach().to(batch.device)
            if "entropy" in found and column == "logp":
                columns["entropy"] = found["entropy"].detach().to(batch.device)
        columns[column] = scored[id(model)]
    if critic is not None:
        columns["value"] = critic_values(critic, batch)
    return batch.with_columns(columns)


def check_fit(batch: RolloutBatch, policy: ScoringPolicy, column: str) -> None:
    """Raises InputError when the policy cannot have written these tokens, or reads another text in them.

    Equal tokenizers fit. Of different ones, or where the rollouts do not say which they came from, the policy's must
    decode the tokens of every completion to the completion's text.
    """
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    written = torch.where(batch.response, batch.tokens, 0)
    highest = max([int(written.max()), *(max(prompt.tokens) for prompt in batch.prompts if prompt.tokens)])
    if highest >= vocabulary:
        got = f"a model of {vocabulary} tokens for rollouts with token {highest}"
        raise InputError(column, got, "a model with the rollouts' vocabulary")
    tokenizer = policy.tokenizer
    if tokenizer is None or batch.provenance.get("tokenizer") == tokenizer_fingerprint(tokenizer):
        return
    for row, (tokens, kept) in enumerate(zip(batch.tokens, batch.mask, strict=True)):
        if bool((batch.response[row] & ~kept).any()):
            continue  # observation tokens are no part of the completion's text
        if not _decodes_to(tokenizer, tokens[kept].tolist(), batch.completions[row]):
            got = f"a tokenizer that reads another text than {batch.completions[row][:40]!r} in row {row}"
            raise InputError(column, got, "a model with the rollouts' tokenizer")


def _decodes_to(tokenizer: Any, tokens: list[int], text: str) -> bool:
    """Whether tokens read as text, with or without the last one (the end token), special tokens shown or not."""
    readings = (
        tokenizer.decode(part, skip_special_tokens=skip, clean_up_tokenization_spaces=False).strip()
        for part in (tokens, tokens[:-1])
        for skip in (False, True)
    )
    return text.strip() in readings


def _check_finite(batch: RolloutBatch, quantities: Mapping[str, Tensor], column: str) -> None:
    for name, value in quantities.items():
        if not bool(value[batch.mask].isfinite().all()):
            raise InputError(column, f"{name} that is NaN or infinite", "finite numbers", "Try --dtype float32")
