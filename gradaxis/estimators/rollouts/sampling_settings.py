"""The sampling settings, stated in full."""

from __future__ import annotations

from dataclasses import dataclass

from gradaxis.errors import InputError


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are drawn. The defaults draw from the policy itself, whatever the model's generation config says.

    Attributes:
        group_size: G, the answers that are compared with one another.
        groups: groups a prompt. More of them say more of a prompt without changing what a group is.
        temperature: above 0; the logits are divided by it.
        top_k: 0 keeps all tokens. top_p: 1 keeps all tokens. With either cut the law is no longer the policy's own,
            which the batch's provenance says (`law: truncated`).
        max_new_tokens: the end token included; None takes the task's.
        seed: of every draw. An answer depends on the seed, its prompt's number and its own number among that prompt's
            answers, not on G or on micro-batches (up to the rounding of the model's arithmetic).
        end_tokens: None takes those of the model (`find_end_tokens`).
        plain: give the prompts as plain text although the tokenizer has a chat template.

    Raises:
        InputError: a value is out of range.
    """

    group_size: int = 8
    groups: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int = 0
    end_tokens: tuple[int, ...] | None = None
    plain: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "group_size": (self.group_size >= 1, "at least 1"),
            "groups": (self.groups >= 1, "at least 1"),
            "temperature": (0 < self.temperature < float("inf"), "a number above 0 (greedy=True is apart)"),
            "top_k": (self.top_k >= 0, "0 (keep all) or more"),
            "top_p": (0 < self.top_p <= 1, "a number in (0, 1]"),
            "max_new_tokens": (self.max_new_tokens is None or self.max_new_tokens >= 1, "at least 1"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (fine, expected) in allowed.items():
            if not fine:
                raise InputError(name, str(getattr(self, name)), expected)

    @property
    def law(self) -> str:
        """`iid` when answers are independent draws from the policy, `truncated` when tokens are cut off."""
        return "iid" if self.top_k == 0 and self.top_p == 1 else "truncated"
