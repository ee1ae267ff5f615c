"""A few patterns of coefficients that span what every method puts on a sequence.

A method m puts the coefficients C_m[i] (one number a quantity and token) on sequence i, and its gradient is linear in
them. So B patterns a sequence that span the C_m[i] of all methods serve them all, whatever their number.

Letters: N sequences, M methods, B patterns, C quantities, T response positions, K = C·T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.quantities import QUANTITIES


@dataclass(frozen=True)
class Patterns:
    """`vectors` [N, B, C, T] float64, orthonormal within a sequence; a sequence of lower `rank` [N] has zeros behind.

    Row i·B + b of a Gram matrix is the gradient of Σ_{c,t} vectors[i, b, c, t] q_c[i, t]. `tolerance` is the part of a
    method's norm on a sequence that may lie outside.
    """

    vectors: Tensor
    quantities: tuple[str, ...]
    rank: Tensor
    tolerance: float = 0.0

    @property
    def size(self) -> int:
        """B, the largest rank."""
        return self.vectors.shape[1]

    @property
    def live(self) -> Tensor:
        """Which (sequence, pattern) pairs are not padding, bool [N, B]."""
        return torch.arange(self.size, device=self.rank.device) < self.rank[:, None]

    def rows(self, index: Tensor) -> Patterns:
        """The patterns of the sequences of `index` (int64)."""
        return Patterns(self.vectors[index], self.quantities, self.rank[index], self.tolerance)

    def express(self, total: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """A method's coefficients in terms of the patterns.

        Args:
            total: quantity to [N, T].

        Returns:
            Weights [N, B] float64, so that the method's gradient is Σ_{i,b} weights[i, b] g[i, b]; and the residual,
            the largest over sequences of |C − projection| / |C|. Above the tolerance the patterns must be built anew
            with this method among them.

        Raises:
            InputError: a quantity that the patterns lack has coefficients, or the shape differs.
        """
        for name in total:
            if name not in self.quantities and bool(total[name].ne(0).any()):
                raise InputError("total", f"coefficients of {name!r}", f"of {', '.join(self.quantities)} only")
        stacked = _stack([total], self.quantities)[:, 0]
        if stacked.shape != (len(self.vectors), self.vectors[0, 0].numel()):
            raise InputError("total", f"shape {tuple(next(iter(total.values())).shape)}", "that of the patterns' batch")
        basis = self.vectors.flatten(2)
        weights = torch.einsum("nbk,nk->nb", basis, stacked)
        rest = (stacked - torch.einsum("nbk,nb->nk", basis, weights)).norm(dim=1)
        residual = rest / stacked.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        return weights, float(residual.max())


def build_patterns(
    coefficients: Sequence[Mapping[str, Tensor]],
    tolerance: float = 1e-6,
    complete: bool = False,
    mask: Tensor | None = None,
) -> Patterns:
    """Patterns that span the coefficients of all methods, sequence by sequence.

    The coefficients of a sequence are stacked with unit norm a method, and the leading right singular vectors are kept
    until no method has more than `tolerance` of its norm outside.

    Args:
        coefficients: of each method, quantity to [N, T] (`Coefficients.total`); a quantity may be absent.
        tolerance: relative.
        complete: one pattern a token and quantity instead, so that whatever is asked later lies in the span.
        mask: bool [N, T], with `complete`: the tokens. By default those on which some method has a coefficient.

    Raises:
        InputError: no methods, shapes that differ, or coefficients that are not finite.
    """
    if not coefficients:
        raise InputError("coefficients", "no methods", "at least one")
    names = tuple(name for name in QUANTITIES if any(name in total for total in coefficients))
    stacked = _stack(coefficients, names)
    if not bool(stacked.isfinite().all()):
        raise InputError("coefficients", "values that are not finite", "finite numbers")
    length = stacked.shape[2] // len(names)
    if complete:
        return _complete(stacked, names, length, mask)
    norm = stacked.norm(dim=2, keepdim=True)
    unit = torch.where(norm > 0, stacked / norm.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    left, values, right = torch.linalg.svd(unit, full_matrices=False)
    shares = (left * values[:, None]).square()
    outside = torch.cat([shares.flip(2).cumsum(dim=2).flip(2), torch.zeros_like(shares[:, :, :1])], dim=2).sqrt()
    rank = (outside.amax(dim=1) > tolerance).sum(dim=1)
    size = max(1, int(rank.max()))
    keep = torch.arange(size, device=rank.device) < rank[:, None]
    vectors = torch.where(keep[:, :, None], right[:, :size], 0.0)
    return Patterns(vectors.unflatten(2, (len(names), length)), names, rank, tolerance)


def _stack(coefficients: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> Tensor:
    """[N, M, C·T] float64, zero where a method lacks a quantity."""
    shapes = {tuple(value.shape) for total in coefficients for value in total.values()}
    if len(shapes) != 1:
        raise InputError("coefficients", f"shapes {sorted(shapes)}", "one shape [N, T]")
    first = next(iter(next(total for total in coefficients if total).values()))
    nothing = torch.zeros_like(first, dtype=torch.float64)
    rows = [torch.stack([total.get(name, nothing).detach().double() for name in names], 1) for total in coefficients]
    return torch.stack(rows, dim=1).flatten(2)


def _complete(stacked: Tensor, names: tuple[str, ...], length: int, mask: Tensor | None) -> Patterns:
    touched = stacked.ne(0).any(dim=1)
    if mask is not None:
        if mask.shape != (len(stacked), length):
            raise InputError("mask", f"shape {tuple(mask.shape)}", f"({len(stacked)}, {length})")
        touched = mask.to(stacked.device).repeat(1, len(names))
    rank = touched.sum(dim=1)
    vectors = stacked.new_zeros(len(stacked), max(1, int(rank.max())), stacked.shape[2])
    sequence, place = touched.nonzero(as_tuple=True)
    vectors[sequence, (touched.cumsum(dim=1) - 1)[sequence, place], place] = 1.0
    return Patterns(vectors.unflatten(2, (len(names), length)), names, rank)
