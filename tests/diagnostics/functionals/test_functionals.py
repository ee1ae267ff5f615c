"""Functionals on a table: gradients against automatic differentiation of their definition, and the estimators of both
against sums over all groups.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from gradaxis.diagnostics.exact_functionals import exact_functionals, listed_functionals
from gradaxis.diagnostics.functional_plan import exact_key, piece_key, plan_functionals
from gradaxis.diagnostics.functionals import Source, mean_of_products, standard_functionals
from gradaxis.diagnostics.testbeds import draw
from gradaxis.diagnostics.user_functionals import load_functionals, user_functional
from gradaxis.errors import InputError
from gradaxis.estimators.policies import (
    answer_entropy,
    embedded_policy,
    exact,
    exact_gradient,
    expected_length,
    list_answers,
    mean_step_entropy,
    pass_at_k,
)
from gradaxis.estimators.rollouts.sampling import sample_rollouts
from gradaxis.estimators.rollouts.sampling_settings import SamplingSettings
from gradaxis.estimators.rollouts.scoring import score_columns
from gradaxis.estimators.rollouts.tasks import load_task


def vowels(data, completion, facts):
    """A number that a user may come up with."""
    return facts["length"] ** 2 - facts["reward"] + facts["rewards"]["form"] * facts["truncated"]


OWN = [user_functional("vowels", vowels)]


def law_of(policy, one):
    """Probability of each answer [P, R] and entropies [P, R, T] as functions of the logits."""
    quantities = policy.quantities(one.batch, ("logp", "entropy"), grad=True)
    logp, entropy = (quantities[name].view(3, -1, one.batch.tokens.shape[1]) for name in ("logp", "entropy"))
    return logp.sum(dim=2).exp(), entropy


def definitions(policy, one):
    """Every functional written out as what its name says, differentiable in the logits."""
    chance, entropy = law_of(policy, one)
    batch, shape = one.batch, chance.shape
    length, reward = batch.length.double().view(shape), batch.reward.view(shape)
    good = (batch.reward > 0.999).double().view(shape)
    ref = batch.column("ref_logp").sum(dim=1).view(shape)
    mean = lambda value: (chance * value).sum(dim=1).mean()  # noqa: E731
    p = (chance * good).sum(dim=1)
    user = torch.tensor([v.item() ** 2 for v in batch.length]).view(shape) - reward
    user = user + (batch.rewards[:, 1] * batch.truncated).view(shape)
    return {
        "reward": mean(reward), "length": mean(length),
        "length of wrong answers": mean(length * (1 - good)) / mean(1 - good),
        "token entropy": mean(entropy.sum(dim=2)) / mean(length),
        "sequence entropy": mean(entropy.sum(dim=2) / length),
        "answer entropy": -mean(chance.log()),
        "kl": mean(chance.log() - ref), "forward kl": (ref.exp() * (ref - chance.log())).sum(dim=1).mean(),
        "pass@2": (1 - (1 - p) ** 2).mean(), "pass@4": (1 - (1 - p) ** 4).mean(),
        "part right": mean(batch.rewards[:, 0].view(shape)), "part form": mean(batch.rewards[:, 1].view(shape)),
        "vowels": mean(user),
    }  # fmt: skip


def truth(policy, one):
    """Value and gradient in the logits of every functional."""
    found = {}
    for name, value in definitions(policy, one).items():
        found[name] = (float(value.detach()), torch.autograd.grad(value, policy.logits, retain_graph=True)[0].flatten())
    return found


def groups_of_four(one):
    return draw(one, 2, 1, 4, torch.Generator().manual_seed(0))


def test_listed_functionals_are_those_of_the_definitions(bed):
    policy, one = bed.table(), bed.listing()
    functionals = [*standard_functionals(groups_of_four(one)), *OWN]
    found, expected = listed_functionals(one, functionals), truth(policy, one)
    assert set(found.values) == set(expected)
    for name, (value, gradient) in expected.items():
        assert found.values[name] == pytest.approx(value, rel=1e-12), name
        if name not in ("reward", "token entropy"):  # those are directions under names of their own
            vector = one.to_parameters(found.directions[f"functional:{name}"]["atoms"])
            torch.testing.assert_close(vector.flatten(), gradient, rtol=0, atol=1e-12)


def test_a_prompt_that_stands_twice_weighs_twice(bed):
    one = bed.listing()
    functionals = standard_functionals(groups_of_four(one))
    twice = listed_functionals(one, functionals, [0, 0, 2]).values["length"]
    alone = [listed_functionals(one, functionals, [prompt]).values["length"] for prompt in (0, 2)]
    assert twice == pytest.approx((2 * alone[0] + alone[1]) / 3)


@pytest.mark.parametrize("stale", [False, True])
def test_pieces_estimate_values_and_gradients_without_bias(stale, bed):
    """The mean over all groups of two answers to each prompt, weighted by their probability, is the exact gradient."""
    policy, one = bed.table(), bed.listing(stale)
    functionals = [*standard_functionals(one.batch.rows([0, 1])), *OWN]  # groups of two: pass@2
    exact = truth(policy, one)
    rows, weights = [], []
    for prompt in range(bed.PROMPTS):
        own = torch.nonzero(one.batch.prompt == prompt).squeeze(1).tolist()
        for pair in itertools.product(own, repeat=2):
            rows += pair
            weights.append(float(one.probability[list(pair)].prod()) / bed.PROMPTS)
    batch = one.batch.rows(rows)
    batch = replace(batch, group=torch.arange(len(weights)).repeat_interleave(2))
    weight = torch.tensor(weights, dtype=torch.float64).repeat_interleave(2)
    source = Source.of_rollouts(batch, fresh=not stale)
    source = replace(source, share=weight / 2)
    for functional in functionals:
        values, gradients = [], []
        for name in (functional.top, functional.bottom):
            if name is None:
                continue
            piece = functional.pieces[name](source)
            values.append(float((source.share * piece.value).sum()))
            vector = one.coefficients_to_vector(source.totals(piece), torch.tensor(rows))
            gradients.append(one.to_parameters(vector).flatten())
        value, gradient = values[0], gradients[0]
        if functional.bottom is not None:
            value = values[0] / values[1]
            gradient = (gradients[0] - value * gradients[1]) / values[1]
        assert value == pytest.approx(exact[functional.name][0], rel=1e-10), functional.name
        torch.testing.assert_close(gradient, exact[functional.name][1], rtol=0, atol=1e-10)


def test_means_of_products_are_those_of_all_choices():
    values = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counted = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0]]).bool()
    for k in range(1, 5):
        found = mean_of_products(values, counted, k)
        for row in range(3):
            chosen = [math.prod(c) for c in itertools.combinations(values[row][counted[row]].tolist(), k)]
            expected = sum(chosen) / len(chosen) if chosen else 0.0
            assert float(found[row]) == pytest.approx(expected, rel=1e-12)


def test_what_the_rollouts_lack_is_said(bed):
    one = bed.listing()
    batch = groups_of_four(one)
    bare = replace(batch, columns={name: value for name, value in batch.columns.items() if name != "ref_logp"})
    plan = plan_functionals(bare, fresh=True)
    assert plan.lacking["kl"].needs == ("ref_logp",)
    assert "--reference" in plan.lacking["kl"].remedy
    assert "length" in plan.pieces
    wrong = replace(batch, rewards=torch.zeros_like(batch.rewards))
    assert "right" in plan_functionals(wrong, fresh=True).lacking["pass@4"].reason
    assert plan_functionals(replace(batch, rewards=batch.rewards + 1), True).lacking["length of wrong answers"].reason
    single = replace(batch, group=torch.arange(batch.size))
    assert not [name for name in plan_functionals(single, True).functionals if name.startswith("pass@")]


def test_a_functional_from_a_file(tmp_path, bed):
    path = tmp_path / "mine.py"
    path.write_text("def tools(data, completion, facts):\n    return completion.count('1') + 0 * facts['length']\n")
    (functional,) = load_functionals([f"{path}:tools"])
    assert functional.name == "tools"
    one = bed.listing()
    piece = functional.pieces["tools"](Source.of_listing(one.batch, one.policy_probability, bed.PROMPTS))
    assert piece.value.tolist() == [text.count("1") for text in one.batch.completions]
    with pytest.raises(InputError, match="two functions named"):
        load_functionals([f"{path}:tools", f"{path}:tools"])
    with pytest.raises(InputError, match="functional"):
        load_functionals([f"{path}:tool"])


def test_a_functional_that_fails_names_the_answer(bed):
    one = bed.listing()
    source = Source.of_listing(one.batch, one.policy_probability, bed.PROMPTS)
    for wrong in (lambda data, completion, facts: math.nan, lambda data, completion, facts: data["nothing"]):
        with pytest.raises(InputError, match="on the answer"):
            user_functional("mine", wrong).pieces["mine"](source)


@pytest.mark.parametrize("point", ["fresh", "stale"])
def test_on_the_embedded_transformer_estimates_agree_with_enumeration(point, evidence):
    """Unit gradients of pieces have the exact inner products as their means, and values the exact values.

    Of functionals that no rare answer rules: 64 answers cannot tell how long or how far from the reference an answer in
    a thousand is.
    """
    found = evidence(point)
    functionals = found.functionals.functionals
    chosen = [functionals[name] for name in ("answer entropy", "sequence entropy", "part right")]
    far = []
    for one in chosen:
        for other in chosen:
            values = found.of(piece_key(one.top), exact_key(other.name))[:, 0]
            true = float(found.of(exact_key(one.name), exact_key(other.name))[0, 0])
            far.append(abs(values.mean() - true) / (values.std(ddof=1) / math.sqrt(found.n)))
        value, weights = found.exact_values["functionals"][one.name], found.functionals.pieces[one.top].value
        means = torch.stack([weights[torch.from_numpy(found.units == unit)].mean() for unit in range(found.n)])
        far.append(float((means.mean() - value).abs() / (means.std() / math.sqrt(found.n))))
    assert max(far) < 4.07, far  # Student's quantile at 99.9 % for 16 prompts


def test_exact_gradients_of_the_transformer_are_those_of_the_definitions():
    policy, reference = (embedded_policy(name, dtype="float64") for name in ("policy", "reference"))
    task = load_task("arithmetic")
    batch = sample_rollouts(policy, task, task.prompts(3, 0), SamplingSettings(group_size=4, seed=0))
    batch = score_columns(batch, policy=policy, reference=reference)
    found = exact_functionals(policy, task, batch.prompts, standard_functionals(batch), reference=reference)
    (theirs,) = list_answers(reference, task, batch.prompts)
    ref = theirs.logp.sum(dim=2)

    def divergence(answers):
        return (answers.probability * (answers.logp.sum(dim=2) - ref)).sum(dim=1)

    def forward(answers):
        return (ref.exp() * (ref - answers.logp.sum(dim=2))).sum(dim=1)

    def form(answers):
        return (answers.probability * answers.rewards[:, :, 1]).sum(dim=1)

    definitions = {
        "length": expected_length, "answer entropy": answer_entropy, "sequence entropy": mean_step_entropy,
        "pass@2": pass_at_k(2), "pass@4": pass_at_k(4), "kl": divergence, "forward kl": forward, "part form": form,
    }  # fmt: skip
    for name, definition in definitions.items():
        value = float(exact(policy, task, batch.prompts, definition).mean())
        assert found.values[name] == pytest.approx(value, rel=1e-6)
        gradient = exact_gradient(policy, task, batch.prompts, definition)
        scale = max(float(part.abs().max()) for part in gradient.values())
        for parameter, part in gradient.items():
            gap = float((found.directions[f"functional:{name}"][parameter] - part).abs().max())
            assert gap < 1e-6 * scale, (name, parameter)
