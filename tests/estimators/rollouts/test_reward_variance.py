from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats

from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch
from gradaxis.estimators.rollouts.reward_variance import reward_variance_shares


def make_batch(prompt, reward, length, truncated=None, names=("reward",)) -> RolloutBatch:
    reward = torch.tensor(reward, dtype=torch.float64)
    rows, width = len(prompt), max(length)
    every = torch.arange(rows)
    mask = torch.arange(width)[None, :] < torch.tensor(length)[:, None]
    return RolloutBatch(
        prompts=(Prompt("x", (1,)),) * (max(prompt) + 1), prompt=torch.tensor(prompt), group=torch.tensor(prompt),
        trajectory=every, rewards=reward[:, None] if reward.dim() == 1 else reward, reward_names=names,
        truncated=torch.tensor(truncated or [False] * rows), policy_version=torch.zeros_like(every),
        tokens=torch.ones(rows, width, dtype=torch.int64), mask=mask, response=mask, completions=("",) * rows,
    )  # fmt: skip


def test_by_hand() -> None:
    # Centred rewards: (-1, 1), (-2, 2); centred lengths: (-1, 1), (1, -1). Their product is 2·1 − 2·2 = −2, their
    # squares 10 and 4: R² = 4 / 40.
    found = reward_variance_shares(make_batch([0, 0, 1, 1], [0.0, 2.0, 10.0, 14.0], [1, 3, 7, 5]))
    assert found.length == pytest.approx(0.1)
    assert found.variance == pytest.approx(10 / 4)
    assert (found.sequences, found.prompts, found.chance) == (4, 2, pytest.approx(1 / 2))
    assert found.truncated == 0.0
    assert found.form is None
    assert found.together == pytest.approx(0.1)


def test_differences_between_prompts_explain_nothing() -> None:
    # Long prompts have high rewards, but within a prompt the two are unrelated.
    found = reward_variance_shares(make_batch([0] * 4 + [1] * 4, [0, 1, 0, 1, 8, 9, 8, 9], [1, 1, 2, 2, 8, 8, 9, 9]))
    assert found.length == pytest.approx(0.0, abs=1e-12)


def test_length_alone_and_form_alone() -> None:
    found = reward_variance_shares(make_batch([0] * 4, [1.0, 2.0, 3.0, 4.0], [1, 2, 3, 4]))
    assert found.length == pytest.approx(1.0)
    rewards = [[0.0, 0.2], [0.0, 0.0], [0.0, 0.2], [0.0, 0.2]]
    found = reward_variance_shares(make_batch([0] * 4, rewards, [3, 3, 3, 3], names=("right", "form")))
    assert found.form == pytest.approx(1.0)
    assert found.length == 0.0


def test_agrees_with_a_regression_on_dummy_variables() -> None:
    """Frisch, Waugh and Lovell: the same R² from residuals of an ordinary regression with one dummy a prompt."""
    random = np.random.default_rng(0)
    prompt = np.repeat(np.arange(6), [5, 8, 3, 1, 9, 4])
    length = random.integers(1, 12, len(prompt))
    truncated = length > 9
    form = 0.2 * random.integers(0, 2, len(prompt))
    right = random.normal(size=len(prompt)) + 0.1 * length + prompt
    rewards = np.stack([right, form], axis=1).tolist()
    batch = make_batch(prompt.tolist(), rewards, length.tolist(), truncated.tolist(), ("right", "form"))
    found = reward_variance_shares(batch)
    outcome, dummies = right + form, np.eye(6)[prompt]

    def error(*regressors: np.ndarray) -> float:
        design = np.column_stack([dummies, *regressors])
        return float(np.linalg.lstsq(design, outcome, rcond=None)[1].sum() or np.nan)

    for regressors, share in [
        ([length], found.length), ([truncated], found.truncated), ([form], found.form),
        ([length, truncated, form], found.together),
    ]:  # fmt: skip
        assert share == pytest.approx(1 - error(*regressors) / error(), rel=1e-9)
    assert (found.sequences, found.prompts) == (29, 5)  # the prompt with one row does not count


def test_chance_is_what_an_unrelated_length_explains() -> None:
    """With normal rewards the share of an unrelated regressor is Beta(1/2, (N − P − 1)/2), whose mean is 1/(N − P)."""
    random = np.random.default_rng(1)
    prompt = np.repeat(np.arange(4), 4)
    shares = []
    for _ in range(400):
        length = random.permutation(16) + 1
        found = reward_variance_shares(make_batch(prompt.tolist(), random.normal(size=16).tolist(), length.tolist()))
        assert found.chance == pytest.approx(1 / 12)
        shares.append(found.length)
    assert stats.kstest(shares, stats.beta(0.5, 5.5).cdf).pvalue > 0.001


def test_no_variance_is_no_share() -> None:
    found = reward_variance_shares(make_batch([0, 0, 1, 1], [0.1, 0.1, 0.7, 0.7], [1, 2, 3, 4]))
    assert found.length is found.truncated is found.form is found.together is found.chance is None
    assert found.variance == 0.0
    assert "does not vary" in found.reason
    found = reward_variance_shares(make_batch([0, 1], [0.0, 1.0], [1, 2]))
    assert found.length is None
    assert "one answer only" in found.reason
    assert found.sequences == 0


def test_the_order_of_rows_is_of_no_consequence() -> None:
    batch = make_batch([0, 0, 0, 1, 1, 1], [0.0, 2.0, 1.0, 5.0, 3.0, 3.5], [1, 3, 4, 7, 5, 2])
    shuffled, found = (reward_variance_shares(each) for each in (batch.rows([4, 0, 3, 5, 1, 2]), batch))
    assert asdict(shuffled) == pytest.approx(asdict(found))
