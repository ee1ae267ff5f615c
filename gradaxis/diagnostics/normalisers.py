"""How the normaliser of a method that couples the batch moves with each unit, read off the method's own derivatives.

Letters: n units, N sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradaxis.diagnostics.statistics import Array


def scale_without(
    whole: Mapping[str, Tensor], without: Sequence[Mapping[str, Tensor]], units: NDArray[np.int64]
) -> Array:
    """By how much leaving each unit out scales the gradients of the others, beside a mean of n over one of n − 1: [n].

        (n − 1)/n · <w₍₋ⱼ₎, w> / <w, w>    over the rows of the others

    1 for a method without a normaliser. The error of the normaliser is the spread of its logarithm (`expand_trace`).

    Args:
        whole: derivatives of the objective by quantity, each [N, T]. without: the same with each unit left out, laid
            into the rows of the batch, zero on the unit's own. units: the number of each sequence's unit, [N].
    """
    n = len(without)
    squares = sum((value.double().square().sum(dim=1) for value in whole.values()), start=torch.zeros(()))
    rest = float(squares.sum()) - np.bincount(units, squares.cpu().numpy(), n)
    products = np.array(
        [sum(float((left[name].double() * value.double()).sum()) for name, value in whole.items() if name in left)
         for left in without]
    )  # fmt: skip
    known = (rest > 0) & (products > 0)
    return np.where(known, (n - 1) / n * products / np.where(known, rest, 1.0), 1.0)
