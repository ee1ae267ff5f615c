"""Which trajectories a small decision problem has, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from gradaxis.errors import InputError, NotYetError
from gradaxis.estimators.policies import TabularPolicy, build_space, list_tabular
from gradaxis.estimators.rollouts.batch import Prompt
from gradaxis.estimators.rollouts.checks import check_batch


def responses(space, prompt=0):
    rows = torch.nonzero(space.prompt == prompt).squeeze(1).tolist()
    return [tuple(space.tokens[row, : int(space.response[row].sum())].tolist()) for row in rows]


@pytest.mark.parametrize(("vocabulary", "longest", "end"), [(2, 4, None), (3, 3, 0), (3, 2, 2), (2, 4, 1), (4, 1, 0)])
def test_all_answers(vocabulary, longest, end):
    expected = {
        answer
        for length in range(1, longest + 1)
        for answer in product(range(vocabulary), repeat=length)
        if end not in answer[:-1] and (answer[-1] == end or length == longest)
    }
    space = build_space(2, vocabulary, longest, end=end)
    for prompt in range(2):
        found = responses(space, prompt)
        assert len(found) == len(set(found))
        assert set(found) == expected
    cut = [answer[-1] != end and end is not None for answer in [*responses(space), *responses(space, 1)]]
    assert space.truncated.tolist() == cut
    assert torch.equal(space.mask, space.response)
    prefixes = {answer[:position] for answer in expected for position in range(len(answer))}
    assert space.rows == 2 * len(prefixes)
    assert int(space.node.max()) + 1 == 2 * len(prefixes)


def test_shared_rows_are_one_row():
    apart = build_space(3, 3, 3, end=0)
    shared = build_space(3, 3, 3, end=0, row=lambda prompt, prefix: prefix)
    assert (apart.rows, shared.rows) == (3 * 7, 7)
    assert torch.equal(apart.node, shared.node)  # the prefixes of two prompts stay two, whatever their rows
    assert torch.equal(shared.row[shared.prompt == 0], shared.row[shared.prompt == 2])


def test_environment_tokens_are_off_the_mask_and_their_law_is_counted():
    # The policy says 0 or 1; the world answers 5 or 6 after 0, and after 1 it ends the episode.
    def world(prompt, prefix):
        return {(0,): {5: 0.2, 6: 0.8}, (1,): {}}.get(prefix)

    space = build_space(1, vocabulary=2, max_new_tokens=3, environment=world)
    assert set(responses(space)) == {(0, 5, 0), (0, 5, 1), (0, 6, 0), (0, 6, 1), (1,)}
    for row, answer in enumerate(responses(space)):
        assert space.mask[row].tolist() == ([True, False, True] if len(answer) == 3 else [True, False, False])
        chance = {5: 0.2, 6: 0.8}[answer[1]] if len(answer) == 3 else 1.0
        assert float(space.environment_logp[row].exp()) == pytest.approx(chance, rel=1e-14)
    assert space.rows == 3


def test_turns_are_runs_of_policy_tokens_with_the_states_they_begin_in():
    # Two tokens, a word of the world, one token. The second turn's state is the word alone.
    def world(prompt, prefix):
        return {7: 0.5, 8: 0.5} if len(prefix) == 2 else None

    space = build_space(2, 2, 4, environment=world, anchor=lambda prompt, prefix: prefix[2:] or "start")
    listing = list_tabular(TabularPolicy(space, torch.zeros(space.rows, 2)), lambda prompt, answer: float(answer[-1]))
    turns, batch = listing.batch.turns, listing.batch
    check_batch(batch)
    assert turns is not None
    assert turns.sequence.tolist() == [row for row in range(space.size) for _ in range(2)]
    assert turns.start.tolist() == [0, 3] * space.size
    assert turns.end.tolist() == [2, 4] * space.size
    assert torch.equal(turns.reward.reshape(-1, 2), torch.stack([torch.zeros(space.size), batch.reward], 1))
    assert len(set(turns.anchor[::2].tolist())) == 1
    words = batch.tokens[:, 2].tolist()
    states = {(word, anchor) for word, anchor in zip(words, turns.anchor[1::2].tolist(), strict=True)}
    assert len(states) == 2


def test_what_makes_no_space_is_refused():
    with pytest.raises(InputError, match="sum is 1"):
        build_space(1, 2, 2, environment=lambda prompt, prefix: {3: 0.5, 4: 0.6} if prefix else None)
    with pytest.raises(InputError, match="sum is 1"):
        build_space(1, 2, 2, environment=lambda prompt, prefix: {3: 0.0, 4: 1.0} if prefix else None)
    with pytest.raises(InputError, match="differ"):
        build_space([Prompt("one", (1,)), Prompt("two", (1,))], 2, 2)
    with pytest.raises(InputError, match="trajectories"):
        build_space(1, 10, 5)


def test_what_is_no_trajectory_has_no_quantities():
    space = build_space(1, 2, 2)
    policy = TabularPolicy(space, torch.zeros(3, 2))
    batch = list_tabular(policy, lambda prompt, answer: 0.0).batch
    with pytest.raises(InputError, match="row 0"):
        policy.quantities(replace(batch.rows([0]), tokens=torch.tensor([[0, 5]])))
    with pytest.raises(NotYetError, match="surprise"):
        policy.quantities(batch, ("surprise",))
    with pytest.raises(InputError, match="shape"):
        TabularPolicy(space, torch.zeros(2, 2))
    with pytest.raises(InputError, match="logits"):
        TabularPolicy(space, torch.full((3, 2), float("nan")))


def test_quantities_do_not_depend_on_padding_or_order():
    space = build_space(2, 3, 3, end=0)
    policy = TabularPolicy.random(space, torch.Generator().manual_seed(0))
    batch = list_tabular(policy, lambda prompt, answer: 0.0).batch
    order = torch.tensor([7, 3, 3, 20])
    found = policy.quantities(batch.rows(order))
    assert torch.equal(found["logp"], batch.column("logp")[order])
    assert torch.equal(found["entropy"], batch.column("entropy")[order])
    wide = {name: torch.nn.functional.pad(getattr(batch, name), (0, 2)) for name in ("tokens", "mask", "response")}
    padded = replace(batch, **wide, columns={})
    assert torch.equal(policy.quantities(padded, ("logp",))["logp"][:, :3], batch.column("logp"))


def test_greedy_answer_takes_the_likeliest_token_at_every_step():
    # The first token 0 (0.6) leads to 0 or 1 at 0.5 each, a tie; 1 (0.4) leads to 1 for sure, the likeliest answer.
    space = build_space(1, 2, 2)
    rows = {(): 0.6, (0,): 0.5, (1,): 1e-9}
    logits = torch.zeros(3, 2, dtype=torch.float64)
    for row in range(space.size):
        for position in range(2):
            p = rows[tuple(space.tokens[row, :position].tolist())]
            logits[space.row[row, position]] = torch.tensor([p, 1 - p], dtype=torch.float64).log()
    listing = list_tabular(TabularPolicy(space, logits), lambda prompt, answer: float(answer == (0, 0)))
    greedy = listing.batch.companions["greedy"]
    assert greedy.tokens.tolist() == [[0, 0]]
    assert greedy.reward.tolist() == [1.0]
    assert float(listing.probability.max()) == pytest.approx(0.4)


def test_columns_come_from_the_policies_that_they_name():
    space = build_space(1, 3, 2, end=0)
    generator = torch.Generator().manual_seed(0)
    named = {name: TabularPolicy.random(space, generator, name=name)
             for name in ("policy", "behavior", "old", "ref", "teacher")}  # fmt: skip
    listing = list_tabular(
        named["policy"], lambda prompt, answer: 1.0, named["behavior"], named["ref"], named["teacher"], named["old"]
    )
    for name, one in named.items():
        column = "logp" if name == "policy" else f"{name}_logp"
        law = one.logits.detach().log_softmax(dim=1)
        expected = torch.where(space.mask, law[space.row.clamp(min=0), space.tokens], 0)
        torch.testing.assert_close(listing.batch.column(column), expected)
        assert listing.batch.provenance["scored_by"][column].startswith(f"{name}@")
    torch.testing.assert_close(listing.probability, listing.batch.column("behavior_logp").sum(dim=1).exp())
    assert listing.stale
    fresh = list_tabular(named["policy"], lambda prompt, answer: 1.0)
    assert not fresh.stale
    assert torch.equal(fresh.probability, fresh.policy_probability)
    assert "ref_logp" not in fresh.batch.columns
    assert torch.equal(fresh.batch.column("old_logp"), fresh.batch.column("logp"))
