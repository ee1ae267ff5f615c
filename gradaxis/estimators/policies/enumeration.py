"""Every answer that a small policy can give, with its exact log-probability, entropy and reward.

Letters: P prompts, R answers a prompt, N = P·R, T response positions, V vocabulary, S prefixes (`answer_tree`).

A prompt's prefixes share what they have in common: they stand behind the prompt as one sequence in which a token sees
the prompt and its own ancestors only, so that S tokens pass through the model and not the tokens of all answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.policies.answer_tree import AnswerTree, build_tree
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch
from gradaxis.estimators.rollouts.encoding import encode_prompt, find_end_tokens
from gradaxis.estimators.rollouts.items import PromptItem, Task

PROMPTS_AT_ONCE = 4
"""Prompts a forward pass, so that a gradient in float64 needs a few hundred megabytes."""


class LanguageModel(Protocol):
    """What is enumerated: a causal language model of transformers with its tokenizer, such as `HuggingFacePolicy`."""

    @property
    def model(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...


@dataclass(frozen=True)
class Answers:
    """All answers to P prompts, R a prompt, in the tree's order.

    `logp` and `entropy` [P, R, T] are zero behind the end of an answer and carry gradients when they were asked for;
    `next_logp` [P, S, V] is the table from which they are read. `rewards` [P, R, K] holds the parts of the reward.
    """

    prompts: tuple[Prompt, ...]
    tree: AnswerTree
    next_logp: Tensor
    logp: Tensor
    entropy: Tensor
    rewards: Tensor
    reward_names: tuple[str, ...]
    completions: tuple[str, ...]

    @property
    def probability(self) -> Tensor:
        """Of each answer [P, R]; sums to one over R."""
        return self.logp.sum(dim=2).exp()

    @property
    def reward(self) -> Tensor:
        """The outcome reward [P, R]."""
        return self.rewards.sum(dim=2)

    @property
    def length(self) -> Tensor:
        """Tokens of each answer, the end token included [R]."""
        return self.tree.mask.sum(dim=1)


def answer_tree_of(policy: LanguageModel, max_new_tokens: int) -> AnswerTree:
    """The tree of all answers of a policy, on its device.

    Raises:
        InputError: it is too large to list, or the policy has more than one end token.
    """
    ends = find_end_tokens(policy.model, policy.tokenizer)
    if len(ends) != 1:
        raise InputError("model", f"end tokens {ends}", "one end token", "Only one is enumerated")
    tree = build_tree(policy.model.config.vocab_size, ends[0], _filler(policy.tokenizer), max_new_tokens)
    return AnswerTree(**{name: value.to(policy.model.device) for name, value in vars(tree).items()})


def next_token_logp(
    policy: LanguageModel, prompts: Sequence[tuple[int, ...]], tree: AnswerTree, temperature: float = 1.0
) -> Tensor:
    """log π(v | prompt, prefix) for every prefix of the tree, in nats [P, S, V], in one forward pass.

    The model must take a four-dimensional attention mask and explicit positions, as the decoders of transformers do.
    """
    model, device = policy.model, policy.model.device
    dtype, pad = next(model.parameters()).dtype, _filler(policy.tokenizer)
    width, size = max(len(prompt) for prompt in prompts), len(tree.token)
    total = width + size - 1  # the empty prefix is the last token of the prompt
    rows, positions, sees = [], [], []
    for prompt in prompts:
        gap = width - len(prompt)
        rows.append(torch.cat([torch.tensor([pad] * gap + list(prompt), device=device), tree.token[1:]]))
        before = torch.arange(width, device=device).sub(gap).clamp(min=0)
        positions.append(torch.cat([before, len(prompt) - 1 + tree.depth[1:]]))
        seen = torch.eye(total, dtype=torch.bool, device=device)
        seen[:width, gap:width] |= torch.ones(width, width, dtype=torch.bool, device=device).tril()[:, gap:]
        seen[width:, gap:width] = True
        seen[width:, width:] = tree.ancestors[1:, 1:]
        sees.append(seen)
    mask = torch.zeros(len(prompts), 1, total, total, dtype=dtype, device=device)
    mask = mask.masked_fill(~torch.stack(sees)[:, None], torch.finfo(dtype).min)
    output = model(
        input_ids=torch.stack(rows), attention_mask=mask, position_ids=torch.stack(positions), use_cache=False
    )  # fmt: skip
    return torch.log_softmax(output.logits[:, width - 1 :] / temperature, dim=-1)


def list_answers(
    policy: LanguageModel,
    task: Task,
    items: Sequence[PromptItem | Prompt],
    *,
    temperature: float = 1.0,
    grad: bool = False,
) -> Iterator[Answers]:
    """All answers to the prompts, a few prompts at a time, so that memory does not grow with P.

    Args:
        policy: the model, in the precision in which the answers are wanted.
        task: gives `max_new_tokens` and the rewards.
        items: prompts of the task, or of a batch that was sampled on it.
        temperature: the logits are divided by it.
        grad: whether `logp`, `entropy` and `next_logp` can be differentiated in the model's parameters.
    """
    tree = answer_tree_of(policy, task.max_new_tokens)
    completions = _decode(policy.tokenizer, tree)
    for start in range(0, len(items), PROMPTS_AT_ONCE):
        chunk = items[start : start + PROMPTS_AT_ONCE]
        prompts = tuple(item if isinstance(item, Prompt) else encode_prompt(policy.tokenizer, item) for item in chunk)
        with torch.set_grad_enabled(grad):
            table = next_token_logp(policy, [prompt.tokens for prompt in prompts], tree, temperature)
            entropy = -(table.exp() * table).sum(dim=2)
            logp = table[:, tree.prefix, tree.tokens] * tree.mask
            entropy = entropy[:, tree.prefix] * tree.mask
        scored = [PromptItem(text=prompt.text, data=prompt.data) for prompt in prompts]
        scores = [[task.score(item, completion) for completion in completions] for item in scored]
        names = tuple(scores[0][0])
        rewards = [[[score[name] for name in names] for score in row] for row in scores]
        yield Answers(
            prompts=prompts, tree=tree, next_logp=table, logp=logp, entropy=entropy,
            rewards=torch.tensor(rewards, dtype=table.dtype, device=table.device), reward_names=names,
            completions=completions,
        )  # fmt: skip


def enumerate_answers(
    policy: LanguageModel,
    task: Task,
    items: Sequence[PromptItem | Prompt],
    *,
    temperature: float = 1.0,
    grad: bool = False,
) -> tuple[RolloutBatch, Tensor]:
    """All answers as one rollout batch with the columns `logp` and `entropy`, and the probability of each row [N].

    Rows are prompt by prompt; a prompt's answers are one group. Probabilities sum to one over each prompt. Weighted
    by them, a sum over rows is an expectation over what the policy samples. Arguments as for `list_answers`.

    Raises:
        InputError: the policy's vocabulary or the task's answers are too large to be listed, or `items` is empty.
    """
    if not items:
        raise InputError("items", "no prompts", "at least one")
    parts = list(list_answers(policy, task, items, temperature=temperature, grad=grad))
    tree, count, size = parts[0].tree, len(items), len(parts[0].completions)
    device = tree.tokens.device
    prompt = torch.arange(count, device=device).repeat_interleave(size)
    batch = RolloutBatch(
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        prompt=prompt, group=prompt, trajectory=torch.arange(count * size, device=device),
        rewards=torch.cat([part.rewards.flatten(0, 1) for part in parts]), reward_names=parts[0].reward_names,
        truncated=tree.truncated.repeat(count), policy_version=torch.zeros_like(prompt),
        tokens=tree.tokens.repeat(count, 1), mask=tree.mask.repeat(count, 1), response=tree.mask.repeat(count, 1),
        completions=parts[0].completions * count,
        columns={
            "logp": torch.cat([part.logp.flatten(0, 1) for part in parts]),
            "entropy": torch.cat([part.entropy.flatten(0, 1) for part in parts]),
        },
        provenance={
            "task": task.name, "temperature": temperature, "top_k": 0, "top_p": 1.0,
            "max_new_tokens": task.max_new_tokens, "law": "enumerated",
        },
    )  # fmt: skip
    return batch, torch.cat([part.probability.flatten() for part in parts])


def _filler(tokenizer: Any) -> int:
    """What stands where no token is: padding where there is some; nothing ever attends to it."""
    return 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _decode(tokenizer: Any, tree: AnswerTree) -> tuple[str, ...]:
    """Completions without the end token. Other special tokens are kept, since the policy chose them."""
    rows = [row[:length] for row, length in zip(tree.tokens.tolist(), tree.mask.sum(dim=1).tolist(), strict=True)]
    ended = [row if cut else row[:-1] for row, cut in zip(rows, tree.truncated.tolist(), strict=True)]
    return tuple(tokenizer.batch_decode(ended, skip_special_tokens=False, clean_up_tokenization_spaces=False))
