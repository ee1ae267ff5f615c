"""The per-token quantities of a policy that surrogate losses are functions of.

Letters: N sequences, T response positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradaxis.errors import NotYetError

QUANTITIES = ("logp", "entropy")
"""What can be computed: `logp`, the log-probability of the sampled token, and `entropy`, of the next-token law."""


def check_quantities(names: Sequence[str]) -> None:
    """Raises NotYetError for a quantity that this version cannot compute."""
    for name in names:
        if name not in QUANTITIES:
            raise NotYetError(f"quantity {name!r}: this version computes {' and '.join(QUANTITIES)}")


def at_least_float32(value: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def token_quantities(logits: Tensor, tokens: Tensor, names: Sequence[str], temperature: float) -> dict[str, Tensor]:
    """Quantities in nats, [N, T] each, differentiable in `logits`.

        logp = z_y − log Σ_v exp z_v          entropy = log Σ_v exp z_v − Σ_v softmax(z)_v z_v          z = logits / τ

    Args:
        logits: [N, T, V], of the position that predicts each token.
        tokens: int64 [N, T].
        names: of QUANTITIES.
        temperature: τ, of the sampler.

    >>> token_quantities(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[1]]), ["logp", "entropy"], 1.0)
    {'logp': tensor([[-0.6931]]), 'entropy': tensor([[0.6931]])}
    """
    check_quantities(names)
    scaled = at_least_float32(logits) / temperature
    normaliser = scaled.logsumexp(dim=-1)
    found: dict[str, Tensor] = {}
    if "logp" in names:
        found["logp"] = scaled.gather(-1, tokens[..., None])[..., 0] - normaliser
    if "entropy" in names:
        found["entropy"] = normaliser - (scaled.softmax(dim=-1) * scaled).sum(dim=-1)
    return {name: found[name] for name in names}
