"""Per-token quantities against one unpadded row at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gradaxis.errors import GradaxisError, InputError, NotYetError
from gradaxis.estimators.policies import HuggingFacePolicy
from gradaxis.estimators.quantities import token_quantities
from gradaxis.estimators.rollouts import Prompt, RolloutBatch

Make = Callable[..., RolloutBatch]
MakePolicy = Callable[..., HuggingFacePolicy]


def test_hand_numbers() -> None:
    # logits (ln 9, 0) at temperature 2 are (ln 3, 0): probabilities 3/4 and 1/4
    logits = torch.tensor([[[math.log(9.0), 0.0]]], dtype=torch.float64)
    found = token_quantities(logits, torch.tensor([[1]]), ("entropy", "logp"), temperature=2.0)
    assert list(found) == ["entropy", "logp"]
    assert float(found["logp"]) == pytest.approx(math.log(0.25))
    assert float(found["entropy"]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_half_precision_is_computed_in_float32() -> None:
    assert (
        token_quantities(torch.zeros(1, 1, 3).bfloat16(), torch.tensor([[0]]), ["logp"], 1.0)["logp"].dtype
        is torch.float32
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen2-tied", "qwen2-moe"])
def test_equal_one_unpadded_row_at_a_time(
    architecture: str, device: str, tiny_policy: MakePolicy, tiny_batch: Make, naive: Callable[..., dict[str, Tensor]]
) -> None:
    policy, batch = tiny_policy(architecture, device), tiny_batch(device=device)
    found = policy.quantities(batch, ("logp", "entropy"))
    for row in range(batch.size):
        expected = naive(policy, batch, row)
        length = len(expected["logp"])
        for name in ("logp", "entropy"):
            inside = batch.mask[row, :length]
            torch.testing.assert_close(
                found[name][row, :length][inside], expected[name].detach()[inside], atol=1e-6, rtol=1e-6
            )
            assert bool(found[name][row][~batch.mask[row]].eq(0).all())


def test_micro_batches_and_the_order_of_rows_do_not_matter(tiny_policy: MakePolicy, tiny_batch: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    whole = policy.quantities(batch, ("logp",))["logp"]
    torch.testing.assert_close(policy.quantities(batch, ("logp",), micro_batch=2)["logp"], whole, atol=1e-6, rtol=0.0)
    order = torch.tensor([4, 2, 0])
    torch.testing.assert_close(
        policy.quantities(batch.rows(order), ("logp",))["logp"], whole[order], atol=1e-6, rtol=0.0
    )


def test_gradients_flow_only_when_asked(tiny_policy: MakePolicy, tiny_batch: Make) -> None:
    policy, batch = tiny_policy("llama", params="*.mlp.*"), tiny_batch()
    assert not policy.quantities(batch, ("logp",))["logp"].requires_grad
    policy.quantities(batch, ("logp",), grad=True)["logp"].sum().backward()
    with_gradient = {name for name, value in policy.model.named_parameters() if value.grad is not None}
    assert with_gradient == set(policy.parameters())


def test_memory_that_runs_out_halves_the_micro_batch_and_says_so(tiny_policy: MakePolicy, tiny_batch: Make) -> None:
    policy, batch = tiny_policy("llama"), tiny_batch()
    expected = policy.quantities(batch, ("logp",))["logp"]
    most = 2

    def refuse(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if len(arguments[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    policy.model.get_input_embeddings().register_forward_pre_hook(refuse)
    with pytest.warns(UserWarning, match="out of memory"):
        found = policy.quantities(batch, ("logp",), micro_batch=6)["logp"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0.0)
    most = 0
    with pytest.raises(GradaxisError, match="one sequence at a time"), pytest.warns(UserWarning, match="out of memory"):
        policy.quantities(batch, ("logp",))


def test_rollouts_that_do_not_fit_are_refused(tiny_policy: MakePolicy, tiny_batch: Make) -> None:
    policy, batch = tiny_policy("gpt2"), tiny_batch()
    tokens = batch.tokens.clone()
    tokens[0, 0] = 23
    with pytest.raises(InputError, match=r"token id 23.*ids from 0 to 22"):
        policy.quantities(replace(batch, tokens=tokens))
    with pytest.raises(InputError, match="no tokens"):
        policy.quantities(replace(batch, prompts=(Prompt("", ()), *batch.prompts[1:])))
    with pytest.raises(InputError, match="at most 32"):
        policy.quantities(replace(batch, prompts=(Prompt("long", (1,) * 40), *batch.prompts[1:])))
    with pytest.raises(InputError, match="padded on the right"):
        policy.quantities(replace(batch, response=batch.response.flip(1), mask=batch.mask.flip(1)))
    with pytest.raises(InputError, match="temperature"):
        policy.quantities(replace(batch, provenance={"temperature": 0.0}))
    with pytest.raises(NotYetError, match="kl"):
        policy.quantities(batch, ("kl",))


def test_ids_off_the_response_are_never_read(tiny_policy: MakePolicy, tiny_batch: Make) -> None:
    policy, batch = tiny_policy("gpt2"), tiny_batch()
    wild = torch.where(batch.response, batch.tokens, -100)
    torch.testing.assert_close(
        policy.quantities(replace(batch, tokens=wild))["logp"], policy.quantities(batch)["logp"], atol=0.0, rtol=0.0
    )


def test_logits_that_are_not_numbers_are_an_error(tiny_policy: MakePolicy, tiny_batch: Make) -> None:
    policy = tiny_policy("llama")
    with torch.no_grad():
        policy.model.lm_head.weight[0] = torch.nan
    with pytest.raises(InputError, match="not a number"):
        policy.quantities(tiny_batch())
