"""The tree of all answers over a small vocabulary.

Letters: R answers, T the longest answer in tokens, V vocabulary, S prefixes of up to T − 1 tokens. An answer ends with
the end token or is cut off after T tokens; any other token may stand anywhere, padding included, because a softmax
gives each of them some probability. So S = Σ_{t<T} (V − 1)^t and R = S + (V − 1)^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.errors import InputError

LARGEST_TREE = 20_000
"""More prefixes than this are refused: their attention mask alone would take gigabytes."""


@dataclass(frozen=True)
class AnswerTree:
    """Every answer, and the prefixes in which its tokens are chosen.

    Prefixes are numbered breadth first, 0 being the empty one: `token` (the last one), `parent`, `depth` [S], and
    `ancestors` [S, S], true at a prefix itself and at all that it extends but the empty one. `child` and `answer`
    [S, V] say where a next token leads: to a prefix or to an answer; −1 where it leads to the other kind.

    Of each answer: `tokens`, `mask` and `prefix` [R, T], right-padded, where `prefix` is the prefix in which the token
    at that position is chosen; `truncated` [R].
    """

    token: Tensor
    parent: Tensor
    depth: Tensor
    ancestors: Tensor
    child: Tensor
    answer: Tensor
    tokens: Tensor
    mask: Tensor
    prefix: Tensor
    truncated: Tensor


def build_tree(vocabulary: int, end: int, pad: int, max_new_tokens: int) -> AnswerTree:
    """All answers of one to `max_new_tokens` tokens.

    Args:
        vocabulary: V; every token can be emitted.
        end: the token that ends an answer.
        pad: what stands behind an answer in `tokens`.
        max_new_tokens: T.

    Raises:
        InputError: there would be more than `LARGEST_TREE` prefixes.
    """
    size = sum((vocabulary - 1) ** length for length in range(max_new_tokens))
    if size > LARGEST_TREE:
        raise InputError(
            "max_new_tokens", f"{max_new_tokens} over a vocabulary of {vocabulary}, which is {size} prefixes",
            f"at most {LARGEST_TREE} prefixes", "Only small policies with short answers can be enumerated",
        )  # fmt: skip
    prefixes: list[tuple[int, ...]] = [()]
    path: list[tuple[int, ...]] = [(0,)]
    answers: list[tuple[int, ...]] = []
    answer_path: list[tuple[int, ...]] = []
    child = [[-1] * vocabulary for _ in range(size)]
    answer = [[-1] * vocabulary for _ in range(size)]
    for index in range(size):  # breadth first: `prefixes` grows ahead of `index`
        for token in range(vocabulary):
            extended = (*prefixes[index], token)
            if token == end or len(extended) == max_new_tokens:
                answer[index][token] = len(answers)
                answers.append(extended)
                answer_path.append(path[index])
            else:
                child[index][token] = len(prefixes)
                path.append((*path[index], len(prefixes)))
                prefixes.append(extended)
    ancestors = torch.zeros(size, size, dtype=torch.bool)
    for index, indices in enumerate(path):
        ancestors[index, list(indices[1:])] = True

    def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (max_new_tokens - len(row))] for row in rows])

    return AnswerTree(
        token=torch.tensor([prefix[-1] if prefix else pad for prefix in prefixes]),
        parent=torch.tensor([indices[-2] if len(indices) > 1 else 0 for indices in path]),
        depth=torch.tensor([len(prefix) for prefix in prefixes]),
        ancestors=ancestors,
        child=torch.tensor(child),
        answer=torch.tensor(answer),
        tokens=padded(answers, pad),
        mask=padded([[1] * len(row) for row in answers], 0).bool(),
        prefix=padded(answer_path, 0),
        truncated=torch.tensor([row[-1] != end for row in answers]),
    )
