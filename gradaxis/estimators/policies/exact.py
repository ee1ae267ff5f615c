"""Exact expectations, gradients and values of a policy whose answers can all be listed.

Letters: P prompts, R answers a prompt, T response positions. Expectations are over what the policy samples by itself
at the given temperature; over prompts they are means. Use a float64 model when digits matter: note that the
normalisation layers of transformers compute in float32 whatever the precision of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.policies.enumeration import Answers, LanguageModel, answer_tree_of, list_answers
from gradaxis.estimators.policies.functionals import Functional, answer_entropy, expected_length, expected_reward
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch
from gradaxis.estimators.rollouts.items import PromptItem, Task


def exact(
    policy: LanguageModel,
    task: Task,
    items: Sequence[PromptItem | Prompt],
    functional: Functional,
    temperature: float = 1.0,
) -> Tensor:
    """The functional of every prompt [P], without gradients."""
    parts = list_answers(policy, task, items, temperature=temperature)
    return torch.cat([functional(answers) for answers in parts])


def exact_gradient(
    policy: LanguageModel,
    task: Task,
    items: Sequence[PromptItem | Prompt],
    functional: Functional = expected_reward,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """The gradient of the functional's mean over prompts in every parameter that requires one.

    For the default it is ∇J = (1/P) Σ_x Σ_y π(y|x) R(x, y) ∇ log π(y|x), by differentiation of J itself.
    """
    return _differentiate(policy, task, items, (functional,), temperature)[0][1]


def exact_objective(
    policy: LanguageModel, task: Task, items: Sequence[PromptItem | Prompt], temperature: float = 1.0
) -> float:
    """J: the expected outcome reward, mean over prompts."""
    return exact(policy, task, items, expected_reward, temperature).mean().item()


def exact_token_entropy(
    policy: LanguageModel, task: Task, items: Sequence[PromptItem | Prompt], temperature: float = 1.0
) -> tuple[float, dict[str, Tensor]]:
    """Entropy a token, in nats, and its gradient: E[Σ_t H(π(·|s_t))] / E[|y|], both over all prompts.

    It is the limit of a mean over all tokens of many rollouts, and changes with the length of answers too.
    """
    functionals = (answer_entropy, expected_length)
    (entropy, of_entropy), (length, of_length) = _differentiate(policy, task, items, functionals, temperature)
    mean = entropy / length
    return mean, {name: (of_entropy[name] - mean * of_length[name]) / length for name in of_entropy}


def _differentiate(
    policy: LanguageModel,
    task: Task,
    items: Sequence[PromptItem | Prompt],
    functionals: Sequence[Functional],
    temperature: float,
) -> list[tuple[float, dict[str, Tensor]]]:
    """Mean over prompts and gradient of each functional, in one pass over the answers."""
    parameters = {name: value for name, value in policy.model.named_parameters() if value.requires_grad}
    values = [0.0] * len(functionals)
    totals = [{name: torch.zeros_like(value) for name, value in parameters.items()} for _ in functionals]
    for answers in list_answers(policy, task, items, temperature=temperature, grad=True):
        for index, functional in enumerate(functionals):
            mean = functional(answers).sum() / len(items)
            parts = torch.autograd.grad(mean, list(parameters.values()), retain_graph=index + 1 < len(functionals))
            values[index] += mean.item()
            for name, part in zip(parameters, parts, strict=True):
                totals[index][name] += part
    return list(zip(values, totals, strict=True))


def effective_share(
    policy: LanguageModel,
    behavior: LanguageModel,
    task: Task,
    items: Sequence[PromptItem | Prompt],
    temperature: float = 1.0,
) -> Tensor:
    """The expected effective share ESS/N of sequence weights π/μ under the behaviour policy μ [P].

    1 / E_μ[(π/μ)²] = 1 / (1 + χ²(π‖μ)), the limit of (Σ w)² / (N Σ w²).
    """
    shares = []
    ours = list_answers(policy, task, items, temperature=temperature)
    theirs = list_answers(behavior, task, items, temperature=temperature)
    for new, old in zip(ours, theirs, strict=True):
        shares.append(1 / (2 * new.logp.sum(dim=2) - old.logp.sum(dim=2)).exp().sum(dim=1))
    return torch.cat(shares)


def prefix_values(answers: Answers) -> Tensor:
    """V(prefix) = E[R | prefix] for every prefix of the tree [P, S], by backward recursion from the longest ones."""
    tree, chance = answers.tree, answers.next_logp.exp()
    value = chance.new_zeros(chance.shape[:2])
    ends = torch.where(tree.answer >= 0, answers.reward[:, tree.answer.clamp(min=0)], 0)
    for depth in range(int(tree.depth.max()), -1, -1):
        at = (tree.depth == depth).nonzero().squeeze(1)
        onward = torch.where(tree.child[at] >= 0, value[:, tree.child[at].clamp(min=0)], 0)
        value[:, at] = (chance[:, at] * (ends[:, at] + onward)).sum(dim=2)
    return value


def exact_values(policy: LanguageModel, task: Task, batch: RolloutBatch, temperature: float = 1.0) -> Tensor:
    """The column `value` [N, T]: V(s_t), the expected outcome reward before the token at t is chosen.

    Args:
        policy: the policy whose values are wanted.
        task: the task from which the prompts came; scores every answer.
        batch: single-turn responses of at most `task.max_new_tokens` tokens.

    Raises:
        InputError: a response is longer, holds text that the policy did not write, or goes on behind its end.
    """
    tree = answer_tree_of(policy, task.max_new_tokens)
    tokens, mask = batch.tokens, batch.mask
    if bool((batch.response & ~mask).any()) or int(batch.length.max()) > task.max_new_tokens:
        raise InputError("batch", "responses with other text or too many tokens", "one turn of at most "
                         f"{task.max_new_tokens} tokens, all written by the policy")  # fmt: skip
    answers = list_answers(policy, task, batch.prompts, temperature=temperature)
    values = torch.cat([prefix_values(part) for part in answers])
    column = torch.zeros(tokens.shape, dtype=values.dtype, device=values.device)
    prefix = torch.zeros_like(batch.prompt)
    for position in range(min(tokens.shape[1], task.max_new_tokens)):
        here = mask[:, position]
        if bool((prefix[here] < 0).any()):
            raise InputError("batch", "a response that goes on behind the end token", "the end token last")
        column[:, position] = torch.where(here, values[batch.prompt, prefix.clamp(min=0)], 0)
        prefix = torch.where(here, tree.child[prefix.clamp(min=0), tokens[:, position]], prefix)
    return column
