"""The gradients of everything that a language model can say in given contexts, and their inner products.

Letters: C contexts, V vocabulary, A = C·(V + 1) atoms, D parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy

MEMORY = 2**29
"""Bytes of gradients at once; with more of them the parameters are gone through in several parts."""

CONTEXTS_AT_ONCE = 16
ROWS_AT_ONCE = 256


def atom_products(
    policy: HuggingFacePolicy,
    contexts: Sequence[Sequence[int]],
    temperature: float = 1.0,
    keep_vectors: bool = False,
    memory: int = MEMORY,
) -> tuple[Tensor, Tensor | None]:
    """Inner products [A, A] of the gradients of log π(v | context), for every context and token, and of the entropies.

    Atom c·V + v is the first, atom C·V + c the second. All atoms of a context are sums of the gradients of V − 1
    differences of logits, u_v = ∇(z_v − z_0), which come from reverse-mode differentiation of that context alone, over
    all selected parameters; where they don't fit into memory at once, a few parameters at a time.

    Args:
        policy: of which `parameters()` count.
        contexts: the tokens before the one that is chosen.
        temperature: the logits are divided by it.
        keep_vectors: whether the atoms [A, D] are returned too.
        memory: bytes that the gradients over some of the parameters may take.
    """
    every = {name: value.detach() for name, value in policy.parameters().items()}
    count, free = len(contexts), policy.vocabulary - 1
    products = torch.zeros(count * free, count * free, dtype=torch.float64, device=policy.device)
    limit = memory // (products.element_size() * len(products))
    kept, logits = [], torch.zeros(0)
    for names in _parts({name: value.numel() for name, value in every.items()}, limit):
        part, logits = _slopes(policy, {name: every[name] for name in names}, contexts)
        _add_products(products, part.flatten(0, 1))
        if keep_vectors:
            kept.append(part)
    law = torch.log_softmax(logits / temperature, dim=1)
    inner = _to_atoms(_to_atoms(products.unflatten(0, (count, free)), law, temperature).T.unflatten(0, (count, free)),
                      law, temperature)  # fmt: skip
    return inner, _to_atoms(torch.cat(kept, dim=2), law, temperature) if keep_vectors else None


def _to_atoms(slopes: Tensor, law: Tensor, temperature: float) -> Tensor:
    """From the differences of logits [C, V − 1, K] to the atoms [A, K], linearly.

    ∇ log π(v) = (u_v − Σ_w π_w u_w) / τ with u_0 = 0, and ∇H = −Σ_v π_v log π_v ∇ log π(v).
    """
    full = torch.nn.functional.pad(slopes, (0, 0, 1, 0))
    scores = (full - torch.einsum("cv,cvk->ck", law.exp(), full)[:, None]) / temperature
    entropy = -torch.einsum("cv,cvk->ck", law.exp() * law, scores)
    return torch.cat([scores.flatten(0, 1), entropy])


def _add_products(products: Tensor, rows: Tensor) -> None:
    """products += rows rowsᵀ, with half of the work, since it is symmetric."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(rows))
        block = rows[start:stop] @ rows[start:].T
        products[start:stop, start:] += block
        products[stop:, start:stop] += block[:, stop - start :].T


def _slopes(
    policy: HuggingFacePolicy, chosen: Mapping[str, Tensor], contexts: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """∇(z_v − z_0) of each context [C, V − 1, values of `chosen`], and the logits [C, V]."""
    others = {name: value.detach() for name, value in policy.model.named_parameters() if name not in chosen}
    width = sum(value.numel() for value in chosen.values())
    found = torch.empty(len(contexts), policy.vocabulary - 1, width, dtype=torch.float64, device=policy.device)
    logits = torch.empty(len(contexts), policy.vocabulary, dtype=torch.float64, device=policy.device)

    def differences(values: Mapping[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor]:
        arguments = {"input_ids": tokens[None], "use_cache": False}
        last = functional_call(policy.model, {**others, **values}, kwargs=arguments).logits[0, -1]
        return last[1:] - last[0], last

    differentiate = vmap(jacrev(differences, has_aux=True), (None, 0))
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
        warnings.filterwarnings("ignore", message="There is a performance drop")
        for rows in _of_one_length(contexts):
            tokens = torch.tensor([list(contexts[row]) for row in rows], device=policy.device)
            parts, logits[rows] = differentiate(dict(chosen), tokens)
            found[rows] = torch.cat([parts[name].flatten(2) for name in chosen], dim=2)
    return found, logits


def _parts(sizes: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Names in runs whose sizes add up to at most the limit; one that is larger stands alone."""
    part: list[str] = []
    for name, size in sizes.items():
        if part and sum(sizes[other] for other in part) + size > limit:
            yield part
            part = []
        part.append(name)
    yield part


def _of_one_length(contexts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of contexts of equal length, a few at a time: none of them needs padding."""
    by_length: dict[int, list[int]] = {}
    for place, context in enumerate(contexts):
        by_length.setdefault(len(context), []).append(place)
    for places in by_length.values():
        for start in range(0, len(places), CONTEXTS_AT_ONCE):
            yield places[start : start + CONTEXTS_AT_ONCE]
