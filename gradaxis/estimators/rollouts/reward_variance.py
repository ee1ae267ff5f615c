"""How much of the reward is length and form: the share of its variance within prompts that they explain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradaxis.estimators.rollouts.batch import RolloutBatch


@dataclass(frozen=True)
class RewardVarianceShares:
    """Shares in [0, 1] of the outcome reward's variance within prompts; None where the share has no meaning.

    Attributes:
        sequences: N, the rows of prompts with at least two rows. prompts: P, these prompts.
        variance: the mean square of the reward about its prompt's mean, in squared reward units.
        length: R² on the answer's length in tokens.
        truncated: R² on the mark of a truncated answer.
        form: R² on the part of the reward that is named `form`; None when there is no such part.
        together: R² on all of them at once.
        chance: what one regressor explains when it has nothing to do with the reward, 1 / (N − P): a share near it
            says nothing.
        reason: why there are no shares, or empty.
    """

    sequences: int
    prompts: int
    variance: float
    length: float | None = None
    truncated: float | None = None
    form: float | None = None
    together: float | None = None
    chance: float | None = None
    reason: str = ""


def reward_variance_shares(batch: RolloutBatch) -> RewardVarianceShares:
    """Regresses the outcome reward on length and form, both as differences from their prompt's mean.

    R² = 1 − ‖r − Xβ‖² / ‖r‖² with r and X centred within prompts and β by least squares. A regressor that does not vary
    within any prompt explains nothing: its share is 0. Prompts with one row are left out. It is an association: a right
    answer may be long because the problem is.
    """
    counts = torch.bincount(batch.prompt, minlength=int(batch.prompt.max()) + 1)
    rows = (counts[batch.prompt] > 1).nonzero()[:, 0]
    prompt = batch.prompt[rows]
    sequences, prompts = len(rows), int((counts > 1).sum())
    if sequences == 0:
        return RewardVarianceShares(0, 0, 0.0, reason="every prompt has one answer only")
    reward = _centre(batch.reward[rows].double(), prompt, counts)
    variance = float(reward.square().mean())
    # Rounding alone leaves about 1e-16 of the largest reward.
    if float(reward.abs().max()) <= 1e-9 * max(1.0, float(batch.reward.abs().max())):
        reason = "the reward does not vary within any prompt"
        return RewardVarianceShares(sequences, prompts, 0.0, reason=reason)
    regressors = {"length": batch.length, "truncated": batch.truncated}
    if "form" in batch.reward_names:
        regressors["form"] = batch.rewards[:, batch.reward_names.index("form")]
    centred = {name: _centre(value[rows].double(), prompt, counts) for name, value in regressors.items()}
    shares = {name: _explained(reward, value[:, None]) for name, value in centred.items()}
    return RewardVarianceShares(
        sequences, prompts, variance, length=shares["length"], truncated=shares["truncated"], form=shares.get("form"),
        together=_explained(reward, torch.stack(list(centred.values()), dim=1)), chance=1 / (sequences - prompts),
    )  # fmt: skip


def _centre(value: Tensor, prompt: Tensor, counts: Tensor) -> Tensor:
    """Differences from the prompt's mean [N]."""
    sums = torch.zeros(len(counts), dtype=value.dtype, device=value.device).index_add(0, prompt, value)
    return value - sums[prompt] / counts[prompt]


def _explained(target: Tensor, regressors: Tensor) -> float:
    """R² of a least-squares fit without intercept; regressors [N, k] may be constant or linearly dependent."""
    left, singular, _ = torch.linalg.svd(regressors, full_matrices=False)
    scale = regressors.abs().max().clamp(min=1.0)
    basis = left[:, singular > 1e-9 * scale]
    fitted = basis @ (basis.T @ target)
    return float((fitted.square().sum() / target.square().sum()).clamp(max=1.0))
