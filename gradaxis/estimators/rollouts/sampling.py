"""Sampling rollouts from a policy under settings that are stated in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.memory import memory_left, rows_that_fit, sampling_bytes
from gradaxis.estimators.rollouts.assembly import assemble_batch
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch
from gradaxis.estimators.rollouts.encoding import encode_prompt, find_end_tokens
from gradaxis.estimators.rollouts.generation import Answer, generate_answers
from gradaxis.estimators.rollouts.items import PromptItem, Task
from gradaxis.estimators.rollouts.micro_batches import in_micro_batches
from gradaxis.estimators.rollouts.rewards import call_reward
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings

Progress = Callable[[int, int], None]
"""Called with the sequences that are done and their total."""


class SamplingPolicy(Protocol):
    """What is sampled from: a causal language model of transformers with its tokenizer, such as `HuggingFacePolicy`."""

    @property
    def model(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...


def sample_rollouts(
    policy: SamplingPolicy,
    task: Task,
    items: Sequence[PromptItem],
    settings: SamplingSettings | None = None,
    greedy: bool = False,
    progress: Progress | None = None,
    micro_batch: int = 64,
    memory: int | None = None,
) -> RolloutBatch:
    """Groups of G answers to each of P prompts, scored by the task: N = P·groups·G rows, prompt by prompt, a turn each.

    The end token is an action: it is in the mask and has a log-probability. An answer that stops at the limit without
    one is marked in `truncated`. Positions behind an answer are padding by position, whatever stands there. The column
    `behavior_logp` holds the log-probabilities, in nats, under the law that was sampled from. A turn's anchor is the
    prompt's number, since every answer to a prompt starts in the same state.

    Args:
        policy: the behaviour policy.
        task: scores the answers, and says how long they may be where the settings do not.
        items: prompts of the task.
        settings: how to draw.
        greedy: add one most-probable answer a prompt as the companion `greedy`.
        progress: told how far sampling is.
        micro_batch: rows at a time; halved whenever memory runs out.
        memory: bytes that this process may hold at most (on a GPU: in tensors); fewer rows are taken where needed.

    Raises:
        InputError: no chat template, no end token, no prompts, prompts too long for the model, a reward that fails or
            is not a finite number, or memory that not even one answer fits into.
        GradaxisError: one sequence alone does not fit into memory.
    """
    settings = settings or SamplingSettings()
    if not items:
        raise InputError("items", "no prompts", "at least one")
    limit = settings.max_new_tokens or task.max_new_tokens
    ends = find_end_tokens(policy.model, policy.tokenizer) if settings.end_tokens is None else settings.end_tokens
    plain = settings.plain or bool(getattr(task, "plain", False))
    prompts = tuple(encode_prompt(policy.tokenizer, item, plain, ends) for item in items)
    _check_length(policy.model, prompts, limit)
    if memory is not None:
        one = sampling_bytes(policy.model, max(len(prompt.tokens) for prompt in prompts) + limit)
        left = memory_left(policy.model.device, memory)
        micro_batch = rows_that_fit(one, left, micro_batch, memory, "sampling one answer")
    settings = replace(settings, max_new_tokens=limit, end_tokens=tuple(ends), plain=plain)
    total = len(items) * (settings.groups * settings.group_size + greedy)
    advance = _Counter(progress, total)
    batch = _sample(policy, task, items, prompts, settings, advance, micro_batch)
    if not greedy:
        return batch
    single = replace(settings, groups=1, group_size=1)
    companion = _sample(policy, task, items, prompts, single, advance, micro_batch, greedy=True)
    return replace(batch, companions={"greedy": companion})


class _Counter:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _sample(
    policy: SamplingPolicy, task: Task, items: Sequence[PromptItem], prompts: tuple[Prompt, ...],
    settings: SamplingSettings, advance: Callable[[int], None], micro_batch: int, greedy: bool = False,
) -> RolloutBatch:  # fmt: skip
    length, ends = settings.max_new_tokens or 1, settings.end_tokens or ()
    answers_a_prompt = settings.groups * settings.group_size
    rows = [(prompt, sample) for prompt in range(len(items)) for sample in range(answers_a_prompt)]

    def generate(piece: Sequence[tuple[int, int]]) -> list[Answer]:
        uniforms = None if greedy else _uniforms(settings.seed, piece, length)
        return generate_answers(
            policy.model, [prompts[prompt].tokens for prompt, _ in piece], uniforms, max_new_tokens=length,
            end_tokens=ends, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p,
        )  # fmt: skip

    answers: list[Answer] = []
    training = policy.model.training
    policy.model.eval()
    try:
        for piece, result in in_micro_batches(generate, rows, micro_batch):
            answers += result
            advance(len(piece))
    finally:
        policy.model.train(training)
    texts = [answer.tokens if answer.truncated else answer.tokens[:-1] for answer in answers]
    # Special tokens inside an answer stay visible, since the policy chose them.
    completions = tuple(
        policy.tokenizer.batch_decode(texts, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )
    index = torch.tensor([prompt for prompt, _ in rows], dtype=torch.int64)
    names, rewards = _score(task, items, [prompt for prompt, _ in rows], completions)
    batch = assemble_batch(policy, prompts, index, answers, completions, names, rewards, settings, task.name)
    if greedy:
        law = {**batch.provenance, "law": "greedy"}
        reason = "a greedy answer is not a draw from the policy"
        return replace(batch, columns={}, missing={"behavior_logp": reason}, provenance=law)
    return batch


def _uniforms(seed: int, rows: Sequence[tuple[int, int]], length: int) -> Tensor:
    """One number in [0, 1) a token [B, T], from a generator of each row's own."""
    numbers = [np.random.default_rng([seed, prompt, sample]).random(length) for prompt, sample in rows]
    return torch.from_numpy(np.stack(numbers))


def _score(
    task: Task, items: Sequence[PromptItem], index: Sequence[int], completions: Sequence[str]
) -> tuple[tuple[str, ...], list[list[float]]]:
    """Reward names and rewards [N, K]. Every row must have the same parts."""
    names: tuple[str, ...] = ()
    rewards = []
    for row, (prompt, completion) in enumerate(zip(index, completions, strict=True)):
        place = f"row {row} (prompt {prompt})"
        item = items[prompt]
        parts = call_reward(lambda item=item, text=completion: task.score(item, text), task.name, place)
        names = names or tuple(parts)
        if set(parts) != set(names):
            raise InputError("reward", f"{sorted(parts)} on {place}", f"{sorted(names)}, as on row 0")
        rewards.append([parts[name] for name in names])
    return names, rewards


def _check_length(model: Any, prompts: Sequence[Prompt], limit: int) -> None:
    longest = max(len(prompt.tokens) for prompt in prompts)
    room = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(room, int) and longest + limit > room:
        got = f"a prompt of {longest} tokens and answers of up to {limit}"
        raise InputError("max_new_tokens", got, f"at most {room} tokens in all, the model's limit", "Shorten either")
