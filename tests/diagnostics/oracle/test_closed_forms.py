"""Closed forms of one prompt on its own samples, written out from the trajectories' scores.

With binary rewards, A_i = (r_i − r̄) φ(k) and k right answers among G:

    E g   = E[φ sd²] (μ1 − μ0),                                          sd² = k (G − k) / G²
    Cov g = (1/G) E[φ² sd² ((1 − k/G) C1 + (k/G) C0)] + Var(φ sd²) (μ1 − μ0)(μ1 − μ0)ᵀ

with μ and C the mean and covariance of the feature among right and wrong answers; for summed scores μ1 − μ0 is
∇J / (p (1 − p)).
"""

from __future__ import annotations

from math import comb, sqrt
from typing import NamedTuple

import numpy as np
import pytest

from gradaxis.diagnostics.oracle import group_moments
from gradaxis.diagnostics.variants import place, replace_slots
from gradaxis.estimators import compile

EXACT = {"rtol": 0, "atol": 1e-13}
SPACES = ["fixed", "variable"]
SIZES = [2, 3, 8]
PLAIN_GRPO = "grpo[scale.ddof=0,scale.epsilon=0,terms.coefficient=0]"


class Truth(NamedTuple):
    """Probability and reward of each trajectory [N], its summed score [N, D] and its length [N]."""

    probability: np.ndarray
    reward: np.ndarray
    score: np.ndarray
    length: np.ndarray

    @property
    def gradient(self) -> np.ndarray:
        """∇J [D]."""
        return (self.probability * self.reward) @ self.score

    def among(self, reward: float, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of a feature among the answers of one reward."""
        chosen = self.reward == reward
        weight = self.probability[chosen] / self.probability[chosen].sum()
        mean = weight @ feature[chosen]
        away = feature[chosen] - mean
        return mean, (away * weight[:, None]).T @ away


def _truth(listing) -> Truth:
    batch, vectors = listing.batch, listing.vectors.numpy()
    places = listing.atoms["logp"].numpy()
    score = np.where(places[:, :, None] >= 0, vectors[places.clip(min=0)], 0).sum(axis=1)
    return Truth(listing.probability.numpy(), batch.reward.numpy(), score, batch.length.numpy())


def _moments(name: str, listing, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = group_moments([compile(name)], listing, group_size).law()
    return mean.numpy(), covariance.numpy()


def _binary_form(truth: Truth, feature: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance for φ(k), k = 0 … G."""
    size = len(phi) - 1
    right = float(truth.probability[truth.reward == 1].sum())
    k = np.arange(size + 1)
    law = np.array([comb(size, n) * right**n * (1 - right) ** (size - n) for n in k])
    variance = k * (size - k) / size**2
    (mean1, spread1), (mean0, spread0) = truth.among(1, feature), truth.among(0, feature)
    gain = law @ (phi * variance)
    inside = law @ (phi**2 * variance * (1 - k / size)) * spread1 + law @ (phi**2 * variance * k / size) * spread0
    between = law @ (phi * variance - gain) ** 2 * np.outer(mean1 - mean0, mean1 - mean0)
    return gain * (mean1 - mean0), inside / size + between


@pytest.mark.parametrize("group_size", SIZES)
@pytest.mark.parametrize("space", SPACES)
def test_dr_grpo_has_the_gain_of_the_mean_that_holds_the_sample(space, group_size, small) -> None:
    """(G − 1)/G, over the constant that stands for the length; any length, any binary reward."""
    _, listing = small(space, "binary", False)
    truth, limit = _truth(listing), listing.batch.provenance["max_new_tokens"]
    mean, covariance = _moments("dr-grpo", listing, group_size)
    np.testing.assert_allclose(mean, (group_size - 1) / group_size * truth.gradient / limit, **EXACT)
    expected = _binary_form(truth, truth.score / limit, np.ones(group_size + 1))
    np.testing.assert_allclose(mean, expected[0], **EXACT)
    np.testing.assert_allclose(covariance, expected[1], **EXACT)


@pytest.mark.parametrize("reward", ["binary", "graded", "continuous"])
@pytest.mark.parametrize("group_size", [2, 3, 6])
def test_rloo_is_the_u_statistic(group_size, reward, small) -> None:
    """Gain 1 for every reward. Its kernel is h(y, y') = (r − r')(s − s')/2, and its covariance
    2/(G (G − 1)) (2 (G − 2) ζ1 + ζ2) with ζ1 = Cov E[h | y] and ζ2 = Cov h."""
    _, listing = small("variable", reward, False)
    truth = _truth(listing)
    mean, covariance = _moments("rloo[shaping.coefficient=0]", listing, group_size)
    np.testing.assert_allclose(mean, truth.gradient, **EXACT)
    p, r, s = truth.probability, truth.reward, truth.score
    kernel = (r[:, None] - r)[:, :, None] * (s[:, None] - s) / 2 - truth.gradient
    pairs = np.einsum("a,b,abi,abj->ij", p, p, kernel, kernel)
    single = np.einsum("b,abi->ai", p, kernel)
    alone = np.einsum("a,ai,aj->ij", p, single, single)
    expected = 2 / (group_size * (group_size - 1)) * (2 * (group_size - 2) * alone + pairs)
    np.testing.assert_allclose(covariance, expected, **EXACT)


@pytest.mark.parametrize("group_size", SIZES)
def test_grpo_on_answers_of_one_length(group_size, small) -> None:
    """Gain Σ_k C(G, k) p^(k−1) (1−p)^(G−k−1) √(k (G−k)) / G, and the covariance in full."""
    _, listing = small("fixed", "binary", False)
    truth, size = _truth(listing), group_size
    feature = truth.score / 3
    p = float(truth.probability[truth.reward == 1].sum())
    gain = sum(comb(size, k) * p ** (k - 1) * (1 - p) ** (size - k - 1) * sqrt(k * (size - k)) / size
               for k in range(1, size))  # fmt: skip
    mean, covariance = _moments(PLAIN_GRPO, listing, size)
    np.testing.assert_allclose(mean, gain * truth.gradient / 3, **EXACT)
    k = np.arange(size + 1)
    law = np.array([comb(size, n) * p**n * (1 - p) ** (size - n) for n in k])
    spread = np.sqrt(k * (size - k)) / size
    inside = ((1 - p) - (1 - p) ** size) * truth.among(1, feature)[1] + (p - p**size) * truth.among(0, feature)[1]
    noise = (law @ spread**2 - (law @ spread) ** 2) / (p * (1 - p)) ** 2
    between = noise * np.outer(truth.gradient, truth.gradient) / 9
    np.testing.assert_allclose(covariance, inside / size + between, **EXACT)


@pytest.mark.parametrize("group_size", SIZES)
def test_grpo_on_answers_of_several_lengths(group_size, small) -> None:
    """The feature is the mean score, whose expectation is not zero: no multiple of ∇J any more."""
    _, listing = small("variable", "binary", False)
    truth, k = _truth(listing), np.arange(group_size + 1)
    spread = np.sqrt(k * (group_size - k)) / group_size
    phi = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    mean, covariance = _moments(PLAIN_GRPO, listing, group_size)
    expected = _binary_form(truth, truth.score / truth.length[:, None], phi)
    np.testing.assert_allclose(mean, expected[0], **EXACT)
    np.testing.assert_allclose(covariance, expected[1], **EXACT)
    cosine = mean @ truth.gradient / np.linalg.norm(mean) / np.linalg.norm(truth.gradient)
    assert cosine < 0.999


@pytest.mark.parametrize("group_size", SIZES)
def test_degrees_of_freedom_are_a_gain(group_size, small) -> None:
    _, listing = small("variable", "graded", False)
    name = "grpo[scale.ddof={},scale.epsilon=0,terms.coefficient=0]"
    (mean0, covariance0), (mean1, covariance1) = (_moments(name.format(d), listing, group_size) for d in (0, 1))
    ratio = (group_size - 1) / group_size
    np.testing.assert_allclose(mean1, sqrt(ratio) * mean0, **EXACT)
    np.testing.assert_allclose(covariance1, ratio * covariance0, **EXACT)


@pytest.mark.parametrize("reward", ["binary", "continuous"])
def test_reinforce_is_a_mean_of_independent_answers(reward, small) -> None:
    _, listing = small("variable", reward, False)
    truth = _truth(listing)
    mean, covariance = _moments("reinforce", listing, 5)
    np.testing.assert_allclose(mean, truth.gradient, **EXACT)
    second = np.einsum("a,ai,aj->ij", truth.probability * truth.reward**2, truth.score, truth.score)
    np.testing.assert_allclose(covariance, (second - np.outer(mean, mean)) / 5, **EXACT)


def test_product_ratio_is_unbiased_and_pays_in_variance(small, registry) -> None:
    """On samples of another policy: E[w r s] = ∇J, and the second moment is E[w² r² s sᵀ]."""
    _, listing = small("variable", "continuous", True)
    ratio = place(registry, "form_ratio", unit="sequence", pool="product", anchor="behavior")
    bare = replace_slots(registry.method("reinforce"), "product", registry.methods, ratio=(ratio,))
    found_mean, found_covariance = group_moments([compile(bare)], listing, 3).law()
    truth = _truth(listing)
    weight = listing.policy_probability.numpy() / truth.probability
    gradient = (truth.probability * weight * truth.reward) @ truth.score
    np.testing.assert_allclose(found_mean, gradient, **EXACT)
    second = np.einsum("a,ai,aj->ij", truth.probability * (weight * truth.reward) ** 2, truth.score, truth.score)
    np.testing.assert_allclose(found_covariance, (second - np.outer(gradient, gradient)) / 3, **EXACT)
