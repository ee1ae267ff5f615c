"""A softmax policy with one row of logits a state, and all its trajectories.

Letters: P prompts, N trajectories, T response positions, S rows, V tokens that the policy chooses among.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.policies.listing import Listing
from gradaxis.estimators.policies.listing_rows import Reward, StepReward, describe, number_turns, reward_trajectories
from gradaxis.estimators.policies.space import Key, Space, find_trajectories, trajectory_keys
from gradaxis.estimators.quantities import check_quantities
from gradaxis.estimators.rollouts.batch import RolloutBatch


class TabularPolicy:
    """π(a | s) = softmax(z_s)_a, with a row of logits z_s for each state of a space.

    Args:
        space: the trajectories, which say what row a token is chosen from.
        logits: z [S, V]; taken over in float64 as the one parameter, on their device.
        name: how results call the policy.

    Raises:
        InputError: logits of another shape, or not finite.
    """

    def __init__(self, space: Space, logits: Tensor, name: str = "table") -> None:
        expected = (space.rows, space.vocabulary)
        if tuple(logits.shape) != expected or not bool(logits.isfinite().all()):
            raise InputError("logits", f"shape {tuple(logits.shape)}", f"finite numbers of shape {expected}")
        self.space, self.name = space.to(logits.device), name
        self.logits = logits.detach().clone().to(torch.float64).requires_grad_()

    @classmethod
    def random(
        cls, space: Space, generator: torch.Generator, spread: float = 1.0, name: str = "table"
    ) -> TabularPolicy:
        """Logits drawn from a normal law of standard deviation `spread`."""
        logits = torch.randn(space.rows, space.vocabulary, dtype=torch.float64, generator=generator)
        return cls(space, spread * logits, name)

    def moved(self, step: Tensor, name: str | None = None) -> TabularPolicy:
        """Another policy, whose logits are these plus `step` [S, V]."""
        return TabularPolicy(self.space, self.logits.detach() + step, name or self.name)

    @property
    def vocabulary(self) -> int:
        return self.space.vocabulary

    @property
    def device(self) -> torch.device:
        return self.logits.device

    @property
    def dtype(self) -> torch.dtype:
        return self.logits.dtype

    @property
    def identity(self) -> str:
        """Name and fingerprint of the logits, for provenance."""
        return f"{self.name}@{sha256(self.logits.detach().cpu().numpy().tobytes()).hexdigest()[:12]}"

    def parameters(self) -> dict[str, Tensor]:
        """The logits [S, V], which require gradients."""
        return {"logits": self.logits}

    def quantities(
        self,
        batch: RolloutBatch,
        names: Sequence[str] = ("logp", "entropy"),
        grad: bool = False,
        micro_batch: int | None = None,
    ) -> dict[str, Tensor]:
        """Per-token quantities in nats, [n, T] each, zero off the mask.

        Args:
            batch: trajectories of the space, in any order and number.
            names: of QUANTITIES.
            grad: whether the result can be differentiated in the logits.
            micro_batch: not needed for a table; accepted as other policies accept it.

        Raises:
            InputError: a response that is no trajectory of the space. NotYetError: an unknown quantity.
        """
        check_quantities(names)
        rows = self._rows(batch)
        with torch.set_grad_enabled(grad):
            return {name: torch.where(batch.mask, value, 0.0) for name, value in self._at(rows, batch.tokens).items()
                    if name in names}  # fmt: skip

    def at_trajectories(self) -> dict[str, Tensor]:
        """`logp` and `entropy` of every trajectory of the space, [N, T] each, without gradients."""
        with torch.no_grad():
            found = self._at(self.space.row, self.space.tokens)
        return {name: torch.where(self.space.mask, value, 0.0) for name, value in found.items()}

    def _at(self, rows: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        law = self.logits.log_softmax(dim=1)
        entropy = -(law.exp() * law).sum(dim=1)
        rows = rows.clamp(min=0)
        return {"logp": law[rows, tokens.clamp(max=self.vocabulary - 1)], "entropy": entropy[rows]}

    def _rows(self, batch: RolloutBatch) -> Tensor:
        """The row of logits at each position [n, T], −1 off the mask."""
        found = self.space.row[find_trajectories(self._index, batch).to(self.device)]
        width = batch.tokens.shape[1]
        padded = torch.nn.functional.pad(found, (0, max(0, width - found.shape[1])), value=-1)
        return padded[:, :width]

    @cached_property
    def _index(self) -> dict[Key, int]:
        return {key: row for row, key in enumerate(trajectory_keys(self.space))}


def list_tabular(
    policy: TabularPolicy,
    reward: Reward,
    behavior: TabularPolicy | None = None,
    reference: TabularPolicy | None = None,
    teacher: TabularPolicy | None = None,
    old: TabularPolicy | None = None,
    step_reward: StepReward | None = None,
    task: str = "table",
) -> Listing:
    """Every trajectory of a tabular policy, with or without an environment, and its atoms.

    Args:
        policy: at whose logits gradients are taken.
        reward: the outcome reward, given the prompt's number and the tokens of the response.
        behavior: the policy that samples; by default the policy itself.
        reference, teacher: give the columns `ref_logp` and `teacher_logp`, which are missing without them.
        old: the policy at the start of the update; by default the one that samples.
        step_reward: the environment's reward of a turn, given the prompt's number and the tokens up to the turn's end;
            by default the outcome reward at the last turn and nothing before.
        task: its name in the provenance.
    """
    space = policy.space
    live = policy.at_trajectories()
    sampled = (behavior or policy).at_trajectories()["logp"]
    others = {"behavior": behavior or policy, "old": old or behavior or policy, "ref": reference, "teacher": teacher}
    columns = {f"{name}_logp": one.at_trajectories()["logp"] for name, one in others.items() if one is not None}
    rewards = reward_trajectories(space, reward)
    identities = {f"{name}_logp": one.identity for name, one in others.items() if one is not None}
    return describe(
        space=space,
        columns={**live, **columns},
        rewards=rewards,
        turns=number_turns(space, rewards, step_reward),
        probability=(sampled.sum(dim=1) + space.environment_logp).exp(),
        atoms=_places(space),
        vectors=_vectors(policy),
        provenance={"task": task, "scored_by": {"logp": policy.identity, **identities}},
    )


def _places(space: Space) -> dict[str, Tensor]:
    """Atom s·V + a is ∇ log π(a | s); S·V + s is ∇ H(π(·|s))."""
    logp = space.row * space.vocabulary + space.tokens
    entropy = space.rows * space.vocabulary + space.row
    return {name: torch.where(space.mask, atom, -1) for name, atom in (("logp", logp), ("entropy", entropy))}


def _vectors(policy: TabularPolicy) -> Tensor:
    """The atoms in the space of logits: ∇z log π(a) = e_a − π and ∇z H = −π ⊙ (log π + H), each in its own row."""
    law = policy.logits.detach().log_softmax(dim=1)
    rows, size = law.shape
    scores = torch.eye(size, dtype=law.dtype, device=law.device)[None] - law.exp()[:, None]
    entropy = -(law.exp() * law).sum(dim=1, keepdim=True)
    slopes = -law.exp() * (law + entropy)
    own = torch.eye(rows, dtype=law.dtype, device=law.device)
    return torch.cat(
        [
            torch.einsum("sij,st->sitj", scores, own).reshape(rows * size, rows * size),
            torch.einsum("sj,st->stj", slopes, own).reshape(rows, rows * size),
        ]
    )
