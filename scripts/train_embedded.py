"""Trains the embedded checkpoints again from a seed: reference, policy, stale snapshot and teacher.

    python scripts/train_embedded.py --output DIR --seed S

The reference is a short supervised run on the arithmetic task. The policy is the reference after updates by
REINFORCE with a leave-one-out baseline and Adam on its own samples. The stale snapshot is the policy some updates
earlier: the one whose sequence weights leave closest to half of the samples effective. The teacher goes on from the
reference with supervision. Everything runs on one core in float32; the figures at the end are exact, in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gradaxis.estimators.policies.exact import (
    answer_entropy,
    effective_share,
    exact,
    expected_reward,
)
from gradaxis.estimators.policies.functionals import silent_group_probability, success_rate
from gradaxis.estimators.rollouts.arithmetic import ArithmeticTask, all_problems
from gradaxis.estimators.rollouts.encoding import encode_prompt
from gradaxis.estimators.rollouts.items import PromptItem

PAD, END = "<pad>", "<end>"
VOCABULARY = [PAD, END, "+", "=", "0", "1", "2", "3"]
PAD_ID, END_ID = 0, 1
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '=' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '=' }}{% endif %}"
)

REFERENCE_STEPS, TEACHER_STEPS = 200, 1000
UPDATES, PROMPTS, GROUP = 60, 128, 8
SUPERVISED_RATE, POLICY_RATE = 2e-3, 4e-4


@dataclass(frozen=True)
class Checkpoint:
    """A model with its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; text outside the vocabulary is an error, not an unknown token."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, chat_template=CHAT_TEMPLATE, padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Saves it under the class name that every version of transformers knows."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build_model() -> LlamaForCausalLM:
    """Two layers of width 64 with tied embeddings, 4 query heads on 2 key-value heads."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=END_ID,
        # No padding token in the model: the policy may emit it, and its embedding must then carry gradient.
        pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=END_ID, pad_token_id=PAD_ID, bos_token_id=None
    )
    return model


def pad_rows(rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [N, width]."""
    width = max(len(row) for row in rows)
    gaps = [[PAD_ID] * (width - len(row)) for row in rows]
    ids = [gap + row if left else row + gap for row, gap in zip(rows, gaps, strict=True)]
    seen = [[0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
            for row, gap in zip(rows, gaps, strict=True)]  # fmt: skip
    return torch.tensor(ids), torch.tensor(seen)


def train_supervised(checkpoint: Checkpoint, steps: int, generator: torch.Generator) -> None:
    """Minimises the cross-entropy of right answers, the end token included, on random problems."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    problems = ArithmeticTask().prompts(len(all_problems()))
    weight = sampling_weights(problems)
    prompts = [list(encode_prompt(tokenizer, item).tokens) for item in problems]
    answers = [tokenizer(item.data["answer"] + END, add_special_tokens=False)["input_ids"] for item in problems]
    optimiser = torch.optim.AdamW(model.parameters(), lr=SUPERVISED_RATE, weight_decay=0.01)
    for _ in range(steps):
        chosen = torch.multinomial(weight, 64, replacement=True, generator=generator).tolist()
        ids, seen = pad_rows([prompts[i] + answers[i] for i in chosen], left=False)
        labels = ids.masked_fill(seen == 0, -100)
        for row, i in enumerate(chosen):
            labels[row, : len(prompts[i])] = -100
        optimiser.zero_grad()
        model(input_ids=ids, attention_mask=seen, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def sampling_weights(problems: list[PromptItem]) -> Tensor:
    """Probabilities that give sums of one, two and three digits the same share."""
    lengths = torch.tensor([len(item.data["answer"]) for item in problems])
    return 1.0 / (lengths[:, None] == lengths[None, :]).sum(dim=1)


def sample(checkpoint: Checkpoint, prompts: list[list[int]], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Answers at temperature 1: token ids with the prompt, attention mask, and the answers' own mask [N, T]."""
    model, length = checkpoint.model, ArithmeticTask.max_new_tokens
    ids, seen = pad_rows(prompts, left=True)
    alive, mask = torch.ones(len(ids), dtype=torch.bool), []
    with torch.no_grad():
        for _ in range(length):
            logits = model(input_ids=ids, attention_mask=seen, position_ids=positions(seen)).logits[:, -1]
            token = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
            ids, seen = torch.cat([ids, token], dim=1), torch.cat([seen, torch.ones_like(token)], dim=1)
            mask.append(alive)
            alive = alive & (token[:, 0] != END_ID)
    return ids, seen, torch.stack(mask, dim=1)


def positions(seen: Tensor) -> Tensor:
    """Positions of left-padded rows."""
    return (seen.cumsum(dim=1) - 1).clamp(min=0)


def train_policy(checkpoint: Checkpoint, updates: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
    """Ascends the expected reward by REINFORCE, leave-one-out; gives the weights before each update and at the end."""
    model, tokenizer, task = checkpoint.model, checkpoint.tokenizer, ArithmeticTask()
    problems = task.prompts(len(all_problems()))
    weight = sampling_weights(problems)
    optimiser = torch.optim.Adam(model.parameters(), lr=POLICY_RATE)
    snapshots = [copy.deepcopy(model.state_dict())]
    for _ in range(updates):
        chosen = torch.multinomial(weight, PROMPTS, replacement=False, generator=generator)
        items = [problems[i] for i in chosen.repeat_interleave(GROUP).tolist()]
        ids, seen, mask = sample(checkpoint, [list(encode_prompt(tokenizer, item).tokens) for item in items], generator)
        answers = ids[:, -task.max_new_tokens :]
        rewards = torch.tensor([
            sum(task.score(item, decode(tokenizer, row[kept])).values())
            for item, row, kept in zip(items, answers, mask, strict=True)
        ]).view(PROMPTS, GROUP)  # fmt: skip
        advantage = ((rewards - rewards.mean(dim=1, keepdim=True)) * GROUP / (GROUP - 1)).flatten()
        logits = model(input_ids=ids, attention_mask=seen, position_ids=positions(seen)).logits
        logp = logits[:, -task.max_new_tokens - 1 : -1].log_softmax(dim=-1).gather(2, answers[:, :, None])[:, :, 0]
        optimiser.zero_grad()
        (-(advantage[:, None] * logp * mask).sum(dim=1).mean()).backward()
        optimiser.step()
        snapshots.append(copy.deepcopy(model.state_dict()))
    return snapshots


def decode(tokenizer: PreTrainedTokenizerFast, answer: Tensor) -> str:
    """The completion without its end token."""
    tokens = answer.tolist()
    return str(tokenizer.decode(tokens[:-1] if tokens[-1] == END_ID else tokens))


def in_float64(checkpoint: Checkpoint) -> Checkpoint:
    """A copy in double precision."""
    return Checkpoint(copy.deepcopy(checkpoint.model).double().eval(), checkpoint.tokenizer)


def figures(checkpoint: Checkpoint, items: list[PromptItem]) -> dict[str, Any]:
    """What the checkpoint is like on the prompts, exactly."""
    task, policy = ArithmeticTask(), in_float64(checkpoint)
    success = exact(policy, task, items, success_rate)
    lengths = torch.arange(1, task.max_new_tokens + 1)
    mass = exact(policy, task, items, lambda a: a.probability @ (a.length[:, None] == lengths).double()).mean(dim=0)
    return {
        "reward": exact(policy, task, items, expected_reward).mean().item(),
        "success": success.mean().item(),
        "success, lowest and highest": [success.min().item(), success.max().item()],
        "success below .05, between, above .95": [
            int((success < 0.05).sum()), int(((success >= 0.05) & (success <= 0.95)).sum()), int((success > 0.95).sum())
        ],
        "entropy of the answer, nats": exact(policy, task, items, answer_entropy).mean().item(),
        "mass by length": mass.tolist(),
        "silent groups at G = 8": exact(policy, task, items, lambda a: silent_group_probability(a, 8)).mean().item(),
    }  # fmt: skip


def main() -> None:
    """Trains, saves and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the four checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)  # initial weights
    generator = torch.Generator().manual_seed(arguments.seed)
    items = ArithmeticTask().prompts(24, seed=0)

    reference = Checkpoint(build_model(), build_tokenizer())
    train_supervised(reference, REFERENCE_STEPS, generator)
    teacher = copy.deepcopy(reference)
    train_supervised(teacher, TEACHER_STEPS, generator)
    policy = copy.deepcopy(reference)
    snapshots = train_policy(policy, UPDATES, generator)
    stale, age, share = choose_stale(policy, snapshots, items)

    checkpoints = {"reference": reference, "policy": policy, "stale": stale, "teacher": teacher}
    for name, checkpoint in checkpoints.items():
        checkpoint.model.save_pretrained(arguments.output / name)
        save_tokenizer(checkpoint.tokenizer, arguments.output / name)
    report = {name: figures(checkpoint, items) for name, checkpoint in checkpoints.items()}
    print(json.dumps(report, indent=2))
    print(f"stale: {age} updates before the policy, ESS/N {share:.3f}")
    print(f"parameters: {sum(value.numel() for value in reference.model.parameters())}")
    print(f"seconds: {time.perf_counter() - start:.0f}, of one core: {time.process_time():.0f}")


def choose_stale(
    policy: Checkpoint, snapshots: list[dict[str, Tensor]], items: list[PromptItem]
) -> tuple[Checkpoint, int, float]:
    """The snapshot whose effective share against the policy is closest to one half; its age in updates, the share.

    Every fourth snapshot is tried, but not the start.
    """
    found: list[tuple[float, int, float]] = []
    for age in range(4, len(snapshots) - 1, 4):
        candidate = Checkpoint(copy.deepcopy(policy.model), policy.tokenizer)
        candidate.model.load_state_dict(snapshots[-1 - age])
        share = effective_share(in_float64(policy), in_float64(candidate), ArithmeticTask(), items).mean().item()
        found.append((abs(share - 0.5), age, share))
    _, age, share = min(found)
    stale = Checkpoint(copy.deepcopy(policy.model), policy.tokenizer)
    stale.model.load_state_dict(snapshots[-1 - age])
    return stale, age, share


if __name__ == "__main__":
    main()
