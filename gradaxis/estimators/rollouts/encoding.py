"""Prompts to tokens, and what a tokenizer must agree on with the rollouts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import Prompt
from gradaxis.estimators.rollouts.items import PromptItem


def encode_prompt(tokenizer: Any, item: PromptItem, plain: bool = False, end_tokens: Sequence[int] = ()) -> Prompt:
    """One prompt as text and tokens.

    With a chat template the template writes every special token, the opening of the answer included, and the tokenizer
    adds none of its own. Plain text gets the tokenizer's special tokens, but for a second beginning token where the
    text already starts with one, and for an end token behind the text, which would ask to go on from a finished text.

    Args:
        tokenizer: of the policy.
        item: the prompt of a task.
        plain: ignore the chat template.
        end_tokens: tokens that end an answer.

    Raises:
        InputError: there is no chat template and `plain` is false, the template fails, or the prompt has no tokens.
    """
    if not plain:
        text = _render(tokenizer, item)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    elif item.messages:
        raise InputError("plain", "true for a prompt made of messages", "prompts that are one text")
    else:
        text = item.text
        tokens = _encode_plain(tokenizer, text, end_tokens)
    if not tokens:
        raise InputError("prompt", f"{item.text!r}, which has no tokens", "a prompt of one token or more")
    return Prompt(text=text, tokens=tuple(tokens), data=dict(item.data))


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A short hash of the vocabulary: equal for tokenizers that give the same texts the same ids."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        digest.update(f"{index}\t{token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def find_end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends an answer: those of the model's generation config and the tokenizer's, sorted.

    Raises:
        InputError: neither names one.
    """
    generation = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = {*_as_ids(generation), *_as_ids(getattr(tokenizer, "eos_token_id", None))}
    if not found:
        remedy = "Give the settings' end_tokens; an empty tuple lets every answer run to its limit"
        raise InputError("model", "no end token in its generation config or tokenizer", "at least one", remedy)
    return tuple(sorted(found))


def _as_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _render(tokenizer: Any, item: PromptItem) -> str:
    if not getattr(tokenizer, "chat_template", None):
        remedy = "Pass --plain (SamplingSettings(plain=True)) to give the prompts as plain text"
        raise InputError("model", "a tokenizer without a chat template", "one with a chat template", remedy)
    try:
        return tokenizer.apply_chat_template(item.conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        got = f"{type(error).__name__}: {error} from the chat template on {item.text[:60]!r}"
        raise InputError("prompt", got, "messages that the model's chat template takes") from error


def _encode_plain(tokenizer: Any, text: str, end_tokens: Sequence[int]) -> list[int]:
    tokens, bare = tokenizer(text)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = getattr(tokenizer, "bos_token_id", None)
    if begin is not None and tokens[:2] == [begin, begin]:
        tokens = tokens[1:]
    ends = {*end_tokens, getattr(tokenizer, "eos_token_id", None)}
    if tokens and tokens[-1] in ends and tokens[-len(bare) :] != bare:  # not the text's own last token
        tokens = tokens[:-1]
    return tokens
