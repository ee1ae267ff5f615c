"""A small table on which every functional is known: three prompts that share rows of logits, answers of one to three
tokens over a vocabulary of three with an end, right answers that differ by prompt, and a form reward beside them.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gradaxis.diagnostics.complete import complete_evidence
from gradaxis.diagnostics.exact_functionals import listed_functionals
from gradaxis.diagnostics.plan import plan_evidence
from gradaxis.diagnostics.testbeds import draw, exact_directions, gram_numbers
from gradaxis.estimators.policies import TabularPolicy, build_space, list_tabular

END = 0
PROMPTS = 3
SPACE = build_space(PROMPTS, 3, 3, end=END, row=lambda prompt, prefix: prefix)


def reward(prompt, answer):
    """Right answers hold as many tokens before the end as the prompt's number, or stand on its own token."""
    return float(len([token for token in answer if token != END]) == prompt + 1 or answer[0] == prompt)


def table(seed=0, spread=0.8):
    return TabularPolicy.random(SPACE, torch.Generator().manual_seed(seed), spread)


def moved(policy, seed, spread):
    step = torch.randn(policy.logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return policy.moved(spread * step)


def listing(stale=False, policy=None):
    """The listing of a table, its reference a drift of 0.6 away, and sampled by another 0.3 away where it is stale."""
    policy = policy or table()
    found = list_tabular(policy, reward, behavior=moved(policy, 11, 0.3) if stale else None,
                         reference=moved(table(), 12, 0.6), teacher=moved(table(), 13, 0.6))  # fmt: skip
    form = found.batch.length.double() / 10
    rewards = torch.stack([found.batch.reward, form], dim=1)
    return replace(found, batch=replace(found.batch, rewards=rewards, reward_names=("right", "form")))


def evidence_on(one, batch, methods, registry, point, exact=False, own=(), slots=False):
    """The evidence of rollouts of a listing, with exact directions of all functionals where asked for."""
    chosen = registry.select(",".join(methods))
    plan = plan_evidence(point, batch, chosen, registry, slots=slots, own=own)
    patterns = plan.patterns
    assert patterns is not None
    directions, numbers = {}, {}
    if exact:
        prompts = [int(prompt.text.split()[-1]) for prompt in batch.prompts]
        found = listed_functionals(one, plan.evidence.functionals.known, prompts)
        directions = exact_directions(one, batch)
        directions.update({name: vector["atoms"] for name, vector in found.directions.items()})
        numbers = {"functionals": found.values}
    plan = replace(plan, evidence=replace(plan.evidence, exact_values=numbers))
    return complete_evidence(plan, gram_numbers(one, batch, patterns, directions))


def sample(one, n, seed, groups=1, group_size=4):
    return draw(one, n, groups, group_size, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def bed():
    """The functions above."""
    return SimpleNamespace(PROMPTS=PROMPTS, SPACE=SPACE, table=table, moved=moved, listing=listing, sample=sample,
                           evidence_on=evidence_on)  # fmt: skip
