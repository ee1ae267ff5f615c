"""The law that one token is drawn from, and the draw.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_logp(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Log-probabilities, in nats, of the law that a token is drawn from: float64 [B, V], −inf where it is cut off.

    The logits are divided by the temperature; top-k keeps the k most probable tokens; of these, top-p keeps the
    shortest run from the top whose probability reaches p (Holtzman et al., arXiv 1904.09751, section 3.1). What is kept
    is renormalised. Tokens that are equally probable are cut in the order of their ids.

    Args:
        logits: [B, V].
        temperature: above 0.
        top_k: 0 keeps all.
        top_p: in (0, 1]; 1 keeps all.

    >>> token_logp(torch.tensor([[2.0, 1.0, 1.0]]).log(), top_k=2).exp()  # 2 : 1, the second of the ties is cut
    tensor([[0.6667, 0.3333, 0.0000]], dtype=torch.float64)
    """
    logp = torch.log_softmax(logits.double() / temperature, dim=-1)
    if (not top_k or top_k >= logp.shape[-1]) and top_p >= 1:
        return logp
    ordered, order = logp.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[..., top_k:] = -torch.inf
        ordered = torch.log_softmax(ordered, dim=-1)
    probability = ordered.exp()
    before = probability.cumsum(dim=-1) - probability
    ordered = ordered.masked_fill((before >= top_p) & (before > 0), -torch.inf)
    return torch.log_softmax(torch.full_like(logp, -torch.inf).scatter(-1, order, ordered), dim=-1)


def draw_tokens(logp: Tensor, uniforms: Tensor) -> Tensor:
    """Draws one token a row by the inverse of the cumulative distribution, int64 [B].

    A row's token depends on that row's law and uniform number alone, not on what else is in the batch.

    Args:
        logp: log-probabilities [B, V], float64.
        uniforms: one number a row in [0, 1), float64 [B].

    >>> law = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64).log().expand(3, 3)
    >>> draw_tokens(law, torch.tensor([0.0, 0.49, 0.5], dtype=torch.float64))
    tensor([0, 0, 2])
    """
    cumulative = logp.exp().cumsum(dim=-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
