"""A language model with all its answers listed, and the exact inner products of its gradient atoms.

Letters: P prompts, S prefixes a prompt, V vocabulary, A = P·S·(V + 1) atoms, D parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.policies.atoms import atom_products
from gradaxis.estimators.policies.enumeration import answer_tree_of, enumerate_answers
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.policies.listing import Listing
from gradaxis.estimators.policies.listing_rows import describe, number_turns
from gradaxis.estimators.policies.space import Space
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch
from gradaxis.estimators.rollouts.items import PromptItem, Task

MOST_ATOMS = 12_000
"""Their inner products take 1.2 GB; a prompt of the embedded task has 3,600."""


def list_embedded(
    policy: HuggingFacePolicy,
    task: Task,
    prompts: Sequence[PromptItem | Prompt],
    behavior: HuggingFacePolicy | None = None,
    reference: HuggingFacePolicy | None = None,
    teacher: HuggingFacePolicy | None = None,
    old: HuggingFacePolicy | None = None,
    keep_vectors: bool = False,
    temperature: float = 1.0,
) -> Listing:
    """Every answer of a small transformer to some prompts, with the inner products of its atoms over all parameters.

    Args:
        policy: at whose selected parameters gradients are taken, in float64.
        task: gives `max_new_tokens` and the rewards.
        prompts: of the task, or of a batch that was sampled on it. Memory grows with the square of their number.
        behavior: the policy that samples; by default the policy itself.
        reference, teacher: give the columns `ref_logp` and `teacher_logp`, which are missing without them.
        old: the policy at the start of the update; by default the one that samples.
        keep_vectors: whether the atoms themselves are kept, [A, D] in the order of `policy.parameters()`.
        temperature: of all policies.

    Raises:
        InputError: the policy is not in float64, its answers are too many to list, or there are more than `MOST_ATOMS`.
    """
    if policy.dtype != torch.float64:
        raise InputError("policy", f"weights in {policy.dtype}", "float64", "Load it with dtype='float64'")
    tree = answer_tree_of(policy, task.max_new_tokens)
    size, vocabulary, count = len(tree.token), tree.child.shape[1], len(prompts)
    if count * size * (vocabulary + 1) > MOST_ATOMS:
        got = f"{count} prompts of {size} prefixes and {vocabulary} tokens"
        raise InputError("prompts", got, f"at most {MOST_ATOMS} atoms", "Take fewer prompts, or shorter answers")

    def enumerate_with(one: HuggingFacePolicy) -> tuple[RolloutBatch, Tensor]:
        return enumerate_answers(one, task, prompts, temperature=temperature)

    batch, _ = enumerate_with(policy)
    models = {"behavior": behavior or policy, "old": old or behavior or policy, "ref": reference, "teacher": teacher}
    columns = {name: batch.column(name) for name in ("logp", "entropy")}
    columns |= {f"{name}_logp": enumerate_with(one)[0].column("logp") for name, one in models.items() if one}
    first = torch.arange(count, device=batch.device).repeat_interleave(len(tree.tokens))[:, None] * size
    node = torch.where(batch.mask, first + tree.prefix.repeat(count, 1), -1)
    space = Space(
        prompts=batch.prompts, vocabulary=vocabulary, max_new_tokens=task.max_new_tokens, rows=count * size,
        prompt=batch.prompt, tokens=batch.tokens, mask=batch.mask, response=batch.response, truncated=batch.truncated,
        node=node, row=node, anchor=node, environment_logp=columns["logp"].new_zeros(batch.size),
    )  # fmt: skip
    prefixes = [tuple(tree.tokens[row, :depth].tolist()) for row, depth in _first_answers(tree.prefix, tree.depth)]
    contexts = [(*prompt.tokens, *prefix) for prompt in batch.prompts for prefix in prefixes]
    inner, vectors = atom_products(policy, contexts, temperature, keep_vectors)
    logp = torch.where(batch.mask, node * vocabulary + batch.tokens, -1)
    entropy = torch.where(batch.mask, count * size * vocabulary + node, -1)
    identities = {f"{name}_logp": one.identity for name, one in models.items() if one}
    return describe(
        space=space, columns=columns, rewards=batch.rewards, turns=number_turns(space, batch.rewards),
        probability=columns["behavior_logp"].sum(dim=1).exp(), atoms={"logp": logp, "entropy": entropy},
        provenance={**batch.provenance, "scored_by": {"logp": policy.identity, **identities}},
        vectors=vectors, inner=inner, completions=batch.completions, reward_names=batch.reward_names,
    )  # fmt: skip


def _first_answers(prefix: Tensor, depth: Tensor) -> list[tuple[int, int]]:
    """For every prefix of a tree the first answer that passes through it, and the prefix's length."""
    found: dict[int, int] = {}
    for row, path in enumerate(prefix.tolist()):
        for place in path:
            found.setdefault(place, row)
    return [(found[place], length) for place, length in enumerate(depth.tolist())]
