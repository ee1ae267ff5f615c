"""From sampled answers to a rollout batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch, Turns
from gradaxis.estimators.rollouts.encoding import tokenizer_fingerprint
from gradaxis.estimators.rollouts.generation import Answer
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings


def assemble_batch(
    policy: Any, prompts: tuple[Prompt, ...], index: Tensor, answers: Sequence[Answer],
    completions: tuple[str, ...], names: tuple[str, ...], rewards: list[list[float]], settings: SamplingSettings,
    task: str,
) -> RolloutBatch:  # fmt: skip
    """The rollout batch of N sampled answers, on the policy's device, with one turn an answer.

    Args:
        policy: that sampled; its dtype decides that of the floating-point columns (float64 or float32).
        prompts: P.
        index: the prompt of every answer, int64 [N].
        answers, completions: N, as tokens and as text without the end token.
        names, rewards: K names and N lists of K numbers.
        settings: the effective ones, with nothing left to default.
        task: its name.
    """
    device, count = policy.model.device, len(answers)
    double = next(policy.model.parameters()).dtype == torch.float64
    dtype = torch.float64 if double else torch.float32
    lengths = torch.tensor([len(answer.tokens) for answer in answers])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    tokens = torch.full(mask.shape, _filler(policy.tokenizer, settings.end_tokens or ()), dtype=torch.int64)
    tokens[mask] = torch.tensor([token for answer in answers for token in answer.tokens])
    logp = torch.zeros(mask.shape, dtype=dtype)
    logp[mask] = torch.tensor([value for answer in answers for value in answer.logp], dtype=dtype)
    reward = torch.tensor(rewards, dtype=dtype)
    every = torch.arange(count)
    group = every // settings.group_size  # the rows of a group stand together
    turns = Turns(sequence=every, start=torch.zeros_like(every), end=lengths, reward=reward.sum(dim=1), anchor=index)
    provenance = {
        "policy": str(getattr(policy, "identity", "")), "tokenizer": tokenizer_fingerprint(policy.tokenizer),
        "task": task, "law": settings.law, "temperature": settings.temperature, "top_k": settings.top_k,
        "top_p": settings.top_p, "max_new_tokens": settings.max_new_tokens,
        "group_size": settings.group_size, "groups": settings.groups,
        "seed": settings.seed, "end_tokens": list(settings.end_tokens or ()), "plain": settings.plain,
    }  # fmt: skip
    batch = RolloutBatch(
        prompts=prompts, prompt=index, group=group, trajectory=every.clone(), rewards=reward,
        reward_names=names, truncated=torch.tensor([answer.truncated for answer in answers]),
        policy_version=torch.zeros_like(every), tokens=tokens, mask=mask, response=mask.clone(),
        completions=completions, columns={"behavior_logp": logp}, turns=turns,
        labels={"source": ("policy",) * count}, provenance=provenance,
    )  # fmt: skip
    return batch.to(device)


def _filler(tokenizer: Any, end_tokens: Sequence[int]) -> int:
    """The id behind an answer: the padding token, or where that also ends answers the least id that does not."""
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is not None and pad not in end_tokens:
        return pad
    return next(index for index in range(len(end_tokens) + 1) if index not in end_tokens)
