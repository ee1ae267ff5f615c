"""Rollout batches for estimator tests."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch

from gradaxis.estimators.rollouts import Prompt, RolloutBatch, Turns


@pytest.fixture
def ragged_batch() -> Callable[..., RolloutBatch]:
    """A maker of random batches by seed: uneven groups, ragged responses, NaN wherever a value must not be read."""
    return make_ragged_batch


def make_ragged_batch(seed: int, smallest_group: int = 2) -> RolloutBatch:
    random = Random(seed)
    prompts, groups, rewards, flags = [], [], [], []
    for group in range(random.randint(2, 5)):
        silent = random.choice([0.0, 1.0]) if group > 0 and random.random() < 0.5 else None
        for _ in range(random.randint(smallest_group, 5)):
            prompts.append(group // 2)
            groups.append(10 - group)
            rewards.append(random.choice([0.0, 0.1, 1.0]) if silent is None else silent)
            turns = [random.randint(1, 3) for _ in range(random.randint(1, 3))]
            row: list[bool] = []
            for turn in turns:
                row += [False] * (random.randint(1, 2) if row else 0) + [True] * turn
            flags.append(row)
    rewards[:2] = [1.0, 0.0]
    width, size = max(map(len, flags)) + 1, len(flags)
    mask = torch.tensor([[*row, *[False] * (width - len(row))] for row in flags])
    response = torch.tensor([[t < len(row) for t in range(width)] for row in flags])

    def column(low: float, high: float) -> torch.Tensor:
        values = torch.tensor(
            [[random.uniform(low, high) for _ in range(width)] for _ in range(size)], dtype=torch.float64
        )
        return torch.where(mask, values, torch.nan)

    logp = column(-3.0, -0.6)
    columns = {f"{name}_logp": logp + column(-0.6, 0.6) for name in ("old", "behavior", "ref", "teacher")}
    columns |= {"logp": logp, "value": column(0.0, 1.0), "entropy": column(0.1, 2.0)}
    spans = [(i, t) for i, row in enumerate(flags) for t in range(len(row)) if row[t] and (t == 0 or not row[t - 1])]
    ends = [next((k for k in range(t, len(flags[i])) if not flags[i][k]), len(flags[i])) for i, t in spans]
    step = [random.choice([0.0, 0.5, 1.0]) for _ in spans]
    turns = Turns(
        torch.tensor([i for i, _ in spans]), torch.tensor([t for _, t in spans]), torch.tensor(ends),
        torch.tensor(step, dtype=torch.float64), torch.tensor([random.randint(0, 2) for _ in spans]),
    )  # fmt: skip
    count = max(prompts) + 1
    batch = _plain(count, prompts, groups, rewards, mask, response)
    greedy = _plain(count, list(range(count)), list(range(count)), [random.random() for _ in range(count)],
                    torch.ones(count, 2, dtype=torch.bool), torch.ones(count, 2, dtype=torch.bool))  # fmt: skip
    return RolloutBatch(**{**vars(batch), "columns": columns, "turns": turns, "companions": {"greedy": greedy}})


def _plain(
    count: int, prompts: list[int], groups: list[int], rewards: list[float], mask: torch.Tensor, response: torch.Tensor
) -> RolloutBatch:
    size = len(prompts)
    return RolloutBatch(
        prompts=tuple(Prompt(f"prompt {i}", (i,)) for i in range(count)),
        prompt=torch.tensor(prompts),
        group=torch.tensor(groups),
        trajectory=torch.arange(size),
        rewards=torch.tensor(rewards, dtype=torch.float64).unsqueeze(1),
        reward_names=("task",),
        truncated=torch.zeros(size, dtype=torch.bool),
        policy_version=torch.zeros(size, dtype=torch.int64),
        tokens=torch.ones(mask.shape, dtype=torch.int64),
        mask=mask,
        response=response,
        completions=("text",) * size,
        provenance={"max_new_tokens": 16},
    )
