"""Finding the final answer in a completion, so that a scorer never sees the text around it."""

from __future__ import annotations

import re

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LINE = re.compile(
    r"^\W*(?:the\s+)?(?:final\s+)?answer(?:\s+is\b|\s*[:=])[\s:=*]*(.+?)[\s*]*$", re.IGNORECASE | re.MULTILINE
)
_BOXED = r"\boxed{"


def extract_answer(completion: str) -> str | None:
    """The final answer that a completion marks, or None when it marks none.

    Three marks count, and the first kind that is present decides: `<answer>…</answer>`, `\\boxed{…}`, and a line that
    begins with "answer:", "final answer:" or "the answer is". Of several of one kind the last counts. White space
    around the answer is removed, and so is one full stop after an answer that was found on a line.

    >>> extract_answer("<answer>1</answer> no: <answer> 12 </answer>")
    '12'
    >>> extract_answer("so\\nAnswer: 12.")
    '12'
    >>> extract_answer("it may be 12")
    """
    tagged = _TAGGED.findall(completion)
    if tagged:
        return tagged[-1].strip()
    boxed = _last_boxed(completion)
    if boxed is not None:
        return boxed.strip()
    lines = _LINE.findall(completion)
    return lines[-1].strip().removesuffix(".") if lines else None


def _last_boxed(text: str) -> str | None:
    """The content of the last closed box, braces inside it matched."""
    start = text.rfind(_BOXED)
    while start >= 0:
        depth = 1
        for end in range(start + len(_BOXED), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[start + len(_BOXED) : end]
        start = text.rfind(_BOXED, 0, start)
    return None
