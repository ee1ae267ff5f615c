"""All trajectories of a small decision problem, and the row of a table in which each token is chosen.

Letters: P prompts, N trajectories of all of them, T response positions, V tokens that the policy chooses among, S rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch

Prefix = tuple[int, ...]
Law = Mapping[int, float]
"""Token to probability, of an environment's next token; an empty one says that the episode is over."""

Key = tuple[tuple[int, ...], Prefix]
"""The tokens of a prompt and those of a response: a trajectory, whatever number its prompt has in a batch."""

MOST_TRAJECTORIES = 20_000


@dataclass(frozen=True)
class Space:
    """Every trajectory, prompt by prompt; prompts may have different numbers of them.

    `prompt` and `truncated` [N]. `tokens`, `mask` (chosen by the policy) and `response` [N, T], right-padded. `node`
    [N, T] numbers the pair of prompt and prefix at which a token is chosen, `row` [N, T] the row of logits that the
    policy chooses it from; −1 off the response, and off the mask. `environment_logp` float64 [N] is the log-probability
    in nats of all that the environment does. `anchor` [N, T] numbers the state of the environment at a policy token, −1
    off the mask. `rows` is S.
    """

    prompts: tuple[Prompt, ...]
    vocabulary: int
    max_new_tokens: int
    rows: int
    prompt: Tensor
    tokens: Tensor
    mask: Tensor
    response: Tensor
    truncated: Tensor
    node: Tensor
    row: Tensor
    anchor: Tensor
    environment_logp: Tensor

    @property
    def size(self) -> int:
        """N, the number of trajectories."""
        return len(self.prompt)

    def to(self, device: torch.device | str) -> Space:
        """The same with its tensors on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class _Step:
    token: int
    node: int
    row: int
    anchor: int
    chance: float


def build_space(
    prompts: int | Sequence[Prompt],
    vocabulary: int,
    max_new_tokens: int,
    end: int | None = None,
    row: Callable[[int, Prefix], Hashable] = lambda prompt, prefix: (prompt, prefix),
    environment: Callable[[int, Prefix], Law | None] = lambda prompt, prefix: None,
    anchor: Callable[[int, Prefix], Hashable] | None = None,
) -> Space:
    """Walk through all that can happen.

    Args:
        prompts: P, or the prompts themselves, whose tokens must differ.
        vocabulary: V; the policy chooses among the tokens 0 to V − 1, of which an environment may say others too.
        max_new_tokens: positions after which a response is over, observations included.
        end: the token of the policy that ends a response; None where every response goes on to the last position.
        row: what decides, given the prompt's number and the tokens so far, which row of logits the policy uses: equal
            results are one row. By default every prefix of every prompt has its own.
        environment: the law of the next token where it is the environment's turn, None where it is the policy's, and
            an empty law where the episode is over.
        anchor: what names the state of the environment at a policy token; by default the row.

    Raises:
        InputError: prompts whose tokens are equal, a law that does not sum to one, or too many trajectories.
    """
    known = _number_prompts(prompts) if isinstance(prompts, int) else tuple(prompts)
    if len({prompt.tokens for prompt in known}) < len(known):
        raise InputError("prompts", "equal tokens", "prompts that differ in their tokens")
    nodes, rows, anchors = count(), dict[Hashable, int](), dict[Hashable, int]()

    def walk(prompt: int, prefix: Prefix, path: tuple[_Step, ...]) -> Iterator[tuple[tuple[_Step, ...], bool]]:
        ended = bool(path) and path[-1].row >= 0 and path[-1].token == end
        law = None if ended or len(prefix) == max_new_tokens else environment(prompt, prefix)
        if ended or law == {} or len(prefix) == max_new_tokens:
            yield path, end is not None and not ended and law != {}
            return
        node = next(nodes)
        if law is None:
            key = row(prompt, prefix)
            place = rows.setdefault(key, len(rows))
            state = anchors.setdefault(key if anchor is None else anchor(prompt, prefix), len(anchors))
            steps = [_Step(token, node, place, state, 1.0) for token in range(vocabulary)]
        else:
            if abs(sum(law.values()) - 1) > 1e-12 or min(law.values()) <= 0:
                raise InputError("environment", f"the law {dict(law)}", "positive numbers whose sum is 1")
            steps = [_Step(token, node, -1, -1, chance) for token, chance in law.items()]
        for step in steps:
            yield from walk(prompt, (*prefix, step.token), (*path, step))

    paths, cut, owner = [], [], []
    for prompt in range(len(known)):
        for path, truncated in walk(prompt, (), ()):
            paths.append(path)
            cut.append(truncated)
            owner.append(prompt)
            if len(paths) > MOST_TRAJECTORIES:
                raise InputError("space", f"more than {MOST_TRAJECTORIES} trajectories", "fewer", "Shorten responses")
    width = max(len(path) for path in paths)

    def lay(name: str, filler: int) -> Tensor:
        return torch.tensor([[*(getattr(s, name) for s in path), *[filler] * (width - len(path))] for path in paths])

    environment_law = [[step.chance for step in path] for path in paths]
    return Space(
        prompts=known, vocabulary=vocabulary, max_new_tokens=max_new_tokens, rows=len(rows),
        prompt=torch.tensor(owner), tokens=lay("token", 0), mask=lay("row", -1) >= 0, response=lay("node", -1) >= 0,
        truncated=torch.tensor(cut), node=lay("node", -1), row=lay("row", -1), anchor=lay("anchor", -1),
        environment_logp=torch.stack([torch.tensor(law, dtype=torch.float64).log().sum() for law in environment_law]),
    )  # fmt: skip


def trajectory_keys(source: Space | RolloutBatch) -> list[Key]:
    """Prompt tokens and response tokens of each row."""
    lengths = source.response.sum(dim=1).tolist()
    return [
        (source.prompts[prompt].tokens, tuple(tokens[:length]))
        for prompt, tokens, length in zip(source.prompt.tolist(), source.tokens.tolist(), lengths, strict=True)
    ]


def find_trajectories(index: Mapping[Key, int], batch: RolloutBatch) -> Tensor:
    """The trajectory that each row of a batch is, int64 [n]. Raises InputError for a row that is none."""
    found = [index.get(key, -1) for key in trajectory_keys(batch)]
    if -1 in found:
        raise InputError(f"rollouts, row {found.index(-1)}", "a response to its prompt that is not listed",
                         "a trajectory of this policy")  # fmt: skip
    return torch.tensor(found, dtype=torch.int64)


def _number_prompts(number: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"prompt {index}", (index,)) for index in range(number))
