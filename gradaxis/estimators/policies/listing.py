"""Every trajectory of a small policy, with all that makes its gradients exact.

A gradient atom is the gradient of one quantity at one place where it can stand: ∇θ log π(a | s), or ∇θ H(π(·|s)). All
gradients that a compiled estimator can give are sums of atoms, so that their inner products need no model.

Letters: P prompts, N trajectories, T response positions, A atoms, D parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.policies.functionals import Functional, answer_entropy, expected_length, expected_reward
from gradaxis.estimators.policies.space import Key, find_trajectories, trajectory_keys
from gradaxis.estimators.rollouts.batch import RolloutBatch


@dataclass(frozen=True)
class ListedOutcomes:
    """The trajectories of a listing prompt by prompt, as functionals read them (`Outcomes`)."""

    probability: Tensor
    reward: Tensor
    logp: Tensor
    entropy: Tensor
    length: Tensor


@dataclass(frozen=True)
class Listing:
    """Every trajectory, prompt by prompt, and the atoms of which all gradients are made.

    `batch` holds the N trajectories in float64 with every column, turns and the greedy companion; a prompt's
    trajectories are one group. `probability` [N] is that under the law that samples (the behaviour policy, or the
    policy itself), `policy_probability` [N] that under the policy at which gradients are taken; each sums to one over a
    prompt. `environment_logp` [N] is the part of both that no policy has a hand in, in nats.

    `node` int64 [N, T] numbers the pairs of prompt and prefix at which tokens are chosen, −1 off the response. `atoms`
    maps a quantity to the atom that stands at each token, int64 [N, T], −1 off the mask. `inner` [A, A] holds the inner
    products of the atoms, and `vectors` [A, D] the atoms themselves where that is affordable.
    """

    batch: RolloutBatch
    probability: Tensor
    policy_probability: Tensor
    environment_logp: Tensor
    node: Tensor
    atoms: Mapping[str, Tensor]
    inner: Tensor
    vectors: Tensor | None = None

    @property
    def size(self) -> int:
        """N, the number of trajectories."""
        return self.batch.size

    @property
    def prompts(self) -> int:
        """P, the number of prompts."""
        return len(self.batch.prompts)

    @property
    def stale(self) -> bool:
        """Whether another policy than the one at which gradients are taken samples."""
        return not torch.equal(self.probability, self.policy_probability)

    def coefficients_to_vector(self, total: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        """The weights [A] of the atoms in Σ_{q,i,t} total[q]_{i,t} ∇q_{i,t}.

        Args:
            total: quantity to coefficients, [N, T] or, with `rows`, [n, T].
            rows: the trajectory of each row of `total`, int64 [n]; by default all in order.
        """
        found = torch.zeros(len(self.inner), dtype=torch.float64, device=self.inner.device)
        for name, value in total.items():
            atoms = self.atoms[name] if rows is None else self.atoms[name][rows]
            live = atoms >= 0
            found = found.index_add(0, atoms[live], value.double()[live])
        return found

    def rows_to_vectors(self, total: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The weights [n, A] of each row alone; arguments as for `coefficients_to_vector`."""
        found = torch.zeros(len(rows), len(self.inner) + 1, dtype=torch.float64, device=self.inner.device)
        for name, value in total.items():
            found = found.scatter_add(1, self.atoms[name][rows] % found.shape[1], value.double())
        return found[:, :-1]  # off the mask −1 is the last column

    def outcomes(self, quantities: Mapping[str, Tensor] | None = None) -> ListedOutcomes:
        """What functionals read, of the policy at which gradients are taken: P prompts, R trajectories.

        Args:
            quantities: `logp` and `entropy` [N, T], in which the result is differentiable; the batch's by default.
        """
        batch = self.batch
        given = quantities or {name: batch.column(name) for name in ("logp", "entropy")}
        logp, entropy = (torch.where(batch.mask, given[name], 0.0) for name in ("logp", "entropy"))
        probability = (logp.sum(dim=1) + self.environment_logp).exp()
        return self._lay_out(probability, logp, entropy)

    def sampled_outcomes(self) -> ListedOutcomes:
        """The same of the law that samples; its entropy is that of the policy, whose column the batch holds."""
        behavior = self.batch.column("behavior_logp")
        return self._lay_out(self.probability, behavior, self.batch.column("entropy"))

    def _lay_out(self, probability: Tensor, logp: Tensor, entropy: Tensor) -> ListedOutcomes:
        place, real = self._places
        reward = self.batch.reward
        return ListedOutcomes(
            torch.where(real, probability[place], 0.0), reward[place], logp[place], entropy[place],
            self.batch.length[place],
        )  # fmt: skip

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Rows by prompt [P, R], the last of a prompt repeated, and which are no repetition."""
        counts = torch.bincount(self.batch.prompt, minlength=self.prompts)
        first = counts.cumsum(0) - counts
        within = torch.arange(int(counts.max()), device=counts.device).expand(self.prompts, -1)
        return first[:, None] + within.minimum(counts[:, None] - 1), within < counts[:, None]

    def value(self, functional: Functional) -> Tensor:
        """A functional of every prompt [P], without gradients."""
        return functional(self.outcomes())

    def derivatives(self, functional: Functional, prompt: int | None = None) -> dict[str, Tensor]:
        """∂Φ/∂q by quantity [N, T], for the functional's mean over prompts, or for one prompt alone."""
        leaves = {name: self.batch.column(name).clone().requires_grad_() for name in ("logp", "entropy")}
        with torch.enable_grad():
            found = functional(self.outcomes(leaves))
            scalar = found.mean() if prompt is None else found[prompt]
            parts = torch.autograd.grad(scalar, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, parts, strict=True))

    def gradient(self, functional: Functional = expected_reward, prompt: int | None = None) -> Tensor:
        """The exact gradient of a functional as weights of the atoms [A]: by default ∇J."""
        return self.coefficients_to_vector(self.derivatives(functional, prompt))

    def token_entropy(self, share: Tensor | None = None) -> tuple[float, Tensor]:
        """Entropy a token in nats, E[Σ_t H] / E[|y|], and its gradient as weights of the atoms [A].

        Args:
            share: how much each prompt counts in both means [P]; by default all count alike.
        """
        shares = self.inner.new_full((self.prompts,), 1 / self.prompts) if share is None else share

        def weighed(functional: Functional) -> Functional:
            return lambda outcomes: self.prompts * shares * functional(outcomes)

        entropy, length = weighed(answer_entropy), weighed(expected_length)
        mean = float(self.value(entropy).mean() / self.value(length).mean())
        slope = self.gradient(entropy) - mean * self.gradient(length)
        return mean, slope / self.value(length).mean()

    def to_parameters(self, weights: Tensor) -> Tensor:
        """The vector [..., D] in parameter space of weights [..., A]. Raises InputError without `vectors`."""
        if self.vectors is None:
            raise InputError("listing", "inner products of the atoms only", "the atoms themselves")
        return weights @ self.vectors

    def expected_rewards(self) -> Tensor:
        """E[R | prefix] under the policy, before the token at each position is chosen [N, T]; zero off the response."""
        return self._conditional_means()[0]

    def advantages(self) -> Tensor:
        """The exact advantage A*(prefix, a) = E[R | prefix a] − E[R | prefix] of each policy token [N, T].

        It is r + V(prefix a) − V(prefix) with V the reward still to come: what has been earned cancels. Where the
        environment speaks next, the mean over what it may say is taken.
        """
        before, after = self._conditional_means()
        return torch.where(self.batch.mask, after - before, 0.0)

    def _conditional_means(self) -> tuple[Tensor, Tensor]:
        """E[R | prefix] before and after each position [N, T]."""
        batch, response = self.batch, self.batch.response
        at = self.node.clamp(min=0)
        mass = self.policy_probability[:, None].expand(at.shape)[response]
        sums = torch.zeros(2, int(at.max()) + 1, dtype=torch.float64, device=at.device)
        sums[0].index_add_(0, at[response], mass)
        sums[1].index_add_(0, at[response], mass * batch.reward[:, None].expand(at.shape)[response])
        before = torch.where(response, (sums[1] / sums[0])[at], 0.0)
        last = batch.response.sum(dim=1, keepdim=True) - 1
        after = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], dim=1)
        after = after.scatter(1, last, batch.reward[:, None])
        return before, torch.where(response, after, 0.0)

    def locate(self, batch: RolloutBatch) -> Tensor:
        """The trajectory that each row of another batch is, int64 [n]. Raises InputError for a row that is none."""
        return find_trajectories(self._index, batch).to(self.inner.device)

    @cached_property
    def _index(self) -> dict[Key, int]:
        return {key: row for row, key in enumerate(trajectory_keys(self.batch))}
