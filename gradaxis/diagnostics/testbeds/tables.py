"""Named testbeds: tables of at most sixteen trajectories a prompt with rewards of every kind, and a small transformer.

Each has a policy, one that drifted away from it and samples where the testbed is stale, a reference and a teacher, so
that every method that ships runs on it. Token 0 ends an answer of a table where answers have an end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from gradaxis.errors import UsageError
from gradaxis.estimators.policies import (
    Listing,
    Space,
    TabularPolicy,
    build_space,
    embedded_policy,
    list_embedded,
    list_tabular,
)
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask

Prefix = tuple[int, ...]
END = 0
SPREAD = 0.8
DRIFT = 0.35
"""Standard deviations of the logits, and of what the policy that samples differs by on a stale testbed."""


@dataclass(frozen=True)
class Recipe:
    """What a testbed is made of: its space for P prompts, its rewards and, with turns, their step rewards."""

    space: Callable[[int], Space]
    reward: Callable[[int, Prefix], float]
    step_reward: Callable[[int, Prefix], float] | None = None


def load_testbed(name: str, stale: bool = False, prompts: int = 3, seed: int = 0, drift: float = DRIFT) -> Listing:
    """A testbed by name, as a listing.

    Args:
        name: of TESTBEDS.
        stale: whether the policy that samples is `drift` away from the one at which gradients are taken.
        prompts: P. With shared rows more prompts are more rewards on one table, else more rows.
        seed: of the logits, and of the problems that the transformer is given.
        drift: standard deviation of what the sampling policy's logits differ by; the transformer's older checkpoint is
            as far away as it is.

    Raises:
        UsageError: there is no testbed of that name.
    """
    if name not in TESTBEDS:
        raise UsageError(f"no testbed {name!r} ({', '.join(TESTBEDS)})")
    if name == TRANSFORMER:
        return _embedded(stale, prompts, seed)
    recipe = TABLES[name]
    space = recipe.space(prompts)
    generator = torch.Generator().manual_seed(seed)
    policy = TabularPolicy.random(space, generator, SPREAD, "policy")

    def away(spread: float, of: str) -> TabularPolicy:
        return policy.moved(TabularPolicy.random(space, generator, spread).logits.detach(), of)

    behavior, reference, teacher = away(drift, "behavior"), away(0.5, "reference"), away(0.9, "teacher")
    return list_tabular(
        policy, recipe.reward, behavior=behavior if stale else None, reference=reference, teacher=teacher,
        step_reward=recipe.step_reward, task=name,
    )  # fmt: skip


def _fixed(prompts: int) -> Space:
    """Three tokens of two: eight answers."""
    return build_space(prompts, vocabulary=2, max_new_tokens=3)


def _eos(prompts: int) -> Space:
    """One to three tokens of three, the first of which ends: fifteen answers."""
    return build_space(prompts, vocabulary=3, max_new_tokens=3, end=END)


def _shared(prompts: int) -> Space:
    """The same answers, with one table for all prompts."""
    return build_space(prompts, vocabulary=3, max_new_tokens=3, end=END, row=lambda prompt, prefix: prefix)


def _sum_is_even(prompt: int, answer: Prefix) -> float:
    return float((sum(answer) + prompt) % 2 == 0)


def _has_target(prompt: int, answer: Prefix) -> float:
    """Right where the prompt's own token stands anywhere: one in a while, and another token for another prompt."""
    return float(1 + prompt % 2 in answer)


def _graded(prompt: int, answer: Prefix) -> float:
    """Half a point for an answer that ends by itself, and another for one that begins with the prompt's token."""
    return 0.5 * (answer[-1] == END) + 0.5 * (answer[0] == 1 + prompt % 2)


def _continuous(prompt: int, answer: Prefix) -> float:
    """Different for every answer, and more for longer ones."""
    return sum((token + 1) * (0.31 + 0.07 * (prompt % 5)) ** place for place, token in enumerate(answer)) - 1


def _world(prompts: int) -> Space:
    """A move, what the world says to it, and an answer of two moves: thirteen episodes.

    The world says 2 or 3, with chances that the first move decides; after the second move it may be over at once. What
    it says is all that the policy remembers, so that one state is reached on two ways.
    """
    laws: Mapping[Prefix, Mapping[int, float]] = {(0,): {2: 0.7, 3: 0.3}, (1,): {2: 0.4, 3: 0.6}, (1, 3): {}}
    return build_space(
        prompts, vocabulary=2, max_new_tokens=4, environment=lambda prompt, prefix: laws.get(prefix),
        row=lambda prompt, prefix: (prompt, prefix[1:]),
    )  # fmt: skip


def _step(prompt: int, so_far: Prefix) -> float:
    """A little for a bold first move; the second turn earns by whether it answers what the world said."""
    if len(so_far) == 1:
        return 0.25 * so_far[0]
    said, first, second = so_far[1:]
    return float(first == said % 2) + 0.5 * (second == prompt % 2)


def _episode(prompt: int, episode: Prefix) -> float:
    """The sum of what the turns earn."""
    return _step(prompt, episode[:1]) + (_step(prompt, episode) if len(episode) == 4 else 0.0)


class ShortArithmetic(ArithmeticTask):
    """The embedded task with answers of at most three tokens: 400 a prompt, and sums of one or two digits that end."""

    max_new_tokens = 3


def _embedded(stale: bool, prompts: int, seed: int) -> Listing:
    """The embedded checkpoints in float64, over all their parameters: a few seconds for three prompts."""
    task = ShortArithmetic()
    policy, behavior, reference, teacher = (
        embedded_policy(role, dtype="float64") for role in ("policy", "stale", "reference", "teacher")
    )
    return list_embedded(
        policy, task, task.prompts(prompts, seed), behavior=behavior if stale else None, reference=reference,
        teacher=teacher,
    )  # fmt: skip


TABLES: Mapping[str, Recipe] = MappingProxyType(
    {
        "fixed-length": Recipe(_fixed, _sum_is_even),
        "eos": Recipe(_eos, _has_target),
        "graded": Recipe(_eos, _graded),
        "continuous": Recipe(_eos, _continuous),
        "shared-rows": Recipe(_shared, _has_target),
        "environment": Recipe(_world, _episode, _step),
    }
)
"""`fixed-length`, `eos` and `shared-rows` have two rewards, `graded` three, `continuous` and `environment` many."""

TRANSFORMER = "embedded"
TESTBEDS = (*TABLES, TRANSFORMER)
