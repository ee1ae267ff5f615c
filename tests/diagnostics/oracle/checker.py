"""Checks a document of exact moments from nothing but what stands in it: `python checker.py FILE`.

Probabilities and scores are computed from the logits, every group is gone through one by one, and the estimators are
written out here from their papers. Nothing of the package is imported.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from math import comb, prod
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-12
Array = np.ndarray


class Table:
    """All that can happen, as arrays: N trajectories, T positions, padded; `mask` [N, T] is the policy's part."""

    def __init__(self, testbed: dict[str, Any]) -> None:
        listed = testbed["trajectories"]
        self.response = np.array([len(one["tokens"]) for one in listed])
        self.width = self.response.max()
        self.mask = self._lay(listed, "mask", False).astype(bool)
        self.tokens, self.rows = self._lay(listed, "tokens", 0), self._lay(listed, "rows", -1)
        self.value = self._lay(listed, "value", 0.0)
        self.prompt = np.array([one["prompt"] for one in listed])
        self.reward = np.array([one["reward"] for one in listed])
        self.environment = np.array([one["environment_logp"] for one in listed])
        self.length = self.mask.sum(axis=1)
        self.laws = {name: _log_softmax(np.array(logits)) for name, logits in testbed["logits"].items()}
        chosen = np.where(self.mask, self.tokens, 0)  # an environment says what the policy cannot
        self.logp = {name: np.where(self.mask, law[self.rows, chosen], 0.0) for name, law in self.laws.items()}
        self.score = self._scores(self.laws["policy"])
        self.limit = testbed["max_new_tokens"]

    def _lay(self, listed: list[dict[str, Any]], name: str, filler: Any) -> Array:
        return np.array([[*one[name], *[filler] * (self.width - len(one[name]))] for one in listed])

    def _scores(self, law: Array) -> Array:
        """∇ log π of each token in the logits, [N, T, S·V]: one at its own, minus the row's probabilities."""
        found = np.zeros((*self.mask.shape, *law.shape))
        for i, t in zip(*np.nonzero(self.mask), strict=True):
            found[i, t, self.rows[i, t]] -= np.exp(law[self.rows[i, t]])
            found[i, t, self.rows[i, t], self.tokens[i, t]] += 1
        return found.reshape(*self.mask.shape, -1)

    def probability(self, policy: str) -> Array:
        return np.exp(self.logp[policy].sum(axis=1) + self.environment)

    def values(self) -> Array:
        """E[R | prefix] before each of the policy's tokens, [N, T]."""
        weight, found = self.probability("policy"), np.zeros(self.mask.shape)
        for i, t in zip(*np.nonzero(self.mask), strict=True):
            same = self.through(i, t)
            found[i, t] = (weight[same] @ self.reward[same]) / weight[same].sum()
        return found

    def through(self, i: int, t: int) -> Array:
        """The trajectories that have the first t tokens of the i-th, and go on, bool [N]."""
        same = (self.prompt == self.prompt[i]) & (self.tokens[:, :t] == self.tokens[i, :t]).all(axis=1)
        return same & (self.response > t)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


# The estimators. Each gives the coefficient of every token's score [U, R, T] for U batches of R rows [U, R]. ----------


def reinforce(entry: Entry, table: Table, rows: Array) -> Array:
    """The reward times the summed score, averaged over answers (Williams 1992)."""
    return _tokens(table, rows, table.reward[rows]) / rows.shape[1]


def rloo(entry: Entry, table: Table, rows: Array) -> Array:
    """Ahmadian et al. 2024, section 2.3: each reward minus the mean of the others; k1 to the reference inside it."""
    beta = entry.get("shaping", "penalise_kl_in_reward", "coefficient", 0.0)
    reward = (table.reward - beta * (table.logp["old"] - table.logp["reference"]).sum(axis=1))[rows]
    size = entry.group_size
    grouped = reward.reshape(len(rows), -1, size)
    others = (grouped.sum(axis=2, keepdims=True) - grouped) / (size - 1)
    return _tokens(table, rows, (grouped - others).reshape(rows.shape)) / rows.shape[1]


def grpo(entry: Entry, table: Table, rows: Array) -> Array:
    """Shao et al. 2024, equations 3 and 4: standardised rewards, clipped token ratios, means within answers, k3."""
    pull = _clipped(entry, _ratio(table, rows), _standardised(entry, table, rows)[:, :, None])
    return (pull - _k3(entry, table, rows)) / table.length[rows][:, :, None] / rows.shape[1] * table.mask[rows]


def dr_grpo(entry: Entry, table: Table, rows: Array) -> Array:
    """Liu et al. 2025: centred rewards, clipped token ratios, one constant for every length."""
    centred = _centred(entry, table, rows)[:, :, None]
    return _clipped(entry, _ratio(table, rows), centred) / table.limit / rows.shape[1] * table.mask[rows]


def gspo(entry: Entry, table: Table, rows: Array) -> Array:
    """Zheng et al. 2025, equations 5 to 7: one ratio an answer, the geometric mean of its tokens'; k3 as in GRPO."""
    log_ratio = (table.logp["policy"] - table.logp["old"]).sum(axis=1) / table.length
    ratio = np.exp(log_ratio)[rows][:, :, None] * np.ones(table.mask[rows].shape)
    pull = _clipped(entry, ratio, _standardised(entry, table, rows)[:, :, None])
    return (pull - _k3(entry, table, rows)) / table.length[rows][:, :, None] / rows.shape[1] * table.mask[rows]


def cispo(entry: Entry, table: Table, rows: Array) -> Array:
    """MiniMax-M1 2025, equations 4 and 5: a capped ratio without gradient weighs the score; a mean over tokens."""
    low, high = (entry.get("trust_region", "clip_weight", name) for name in ("low", "high"))
    weight = np.minimum(_ratio(table, rows), 1 + high)
    weight = weight if low is None else np.maximum(weight, 1 - low)
    pull = weight * _standardised(entry, table, rows)[:, :, None]
    return pull * table.mask[rows] / table.length[rows].sum(axis=1)[:, None, None]


def ppo(entry: Entry, table: Table, rows: Array) -> Array:
    """Schulman et al. 2017, equations 7, 11 and 12: clipped token ratios, a critic's advantages, a mean over tokens."""
    gamma, lam = (entry.get("credit", "estimate_gae", name) for name in ("gamma", "lam"))
    advantage = np.zeros(table.mask.shape)
    for i in range(len(advantage)):
        later, after = 0.0, 0.0
        for place, t in enumerate(np.flatnonzero(table.mask[i])[::-1]):
            reward = table.reward[i] if place == 0 else 0.0
            later = reward + gamma * after - table.value[i, t] + gamma * lam * later
            advantage[i, t], after = later, table.value[i, t]
    pull = _clipped(entry, _ratio(table, rows), advantage[rows])
    return pull * table.mask[rows] / table.length[rows].sum(axis=1)[:, None, None]


ESTIMATORS = {"reinforce": reinforce, "rloo": rloo, "grpo": grpo, "dr-grpo": dr_grpo, "gspo": gspo, "cispo": cispo,
              "ppo": ppo}  # fmt: skip


class Entry:
    """Parameters of an entry by slot and operator, without the operators that a part leaves out."""

    def __init__(self, document: dict[str, Any], without: list[str]) -> None:
        self.id, self.slots, self.without = document["entry"]["id"], document["entry"]["slots"], without
        self.group_size: int = document["update"]["group_size"]

    def get(self, slot: str, operator: str, name: str, otherwise: Any = None) -> Any:
        for item in self.slots[slot]:
            if item["operator"] == operator and f"{slot}.{item['label']}" not in self.without:
                return item["parameters"][name]
        return otherwise


def _tokens(table: Table, rows: Array, amount: Array) -> Array:
    return amount[:, :, None] * table.mask[rows]


def _ratio(table: Table, rows: Array) -> Array:
    return np.exp(table.logp["policy"] - table.logp["old"])[rows]


def _clipped(entry: Entry, ratio: Array, advantage: Array) -> Array:
    """ratio · A where the clipped surrogate still has a gradient, else 0."""
    low, high = (entry.get("trust_region", "clip_ratio", name) for name in ("low", "high"))
    free = np.where(advantage >= 0, ratio <= 1 + high, ratio >= 1 - low)
    return ratio * advantage * free


def _centred(entry: Entry, table: Table, rows: Array) -> Array:
    grouped = table.reward[rows].reshape(len(rows), -1, entry.group_size)
    return (grouped - grouped.mean(axis=2, keepdims=True)).reshape(rows.shape)


def _standardised(entry: Entry, table: Table, rows: Array) -> Array:
    ddof, epsilon = (entry.get("scale", "divide_by_spread", name) for name in ("ddof", "epsilon"))
    grouped = table.reward[rows].reshape(len(rows), -1, entry.group_size)
    equal = np.ptp(grouped, axis=2, keepdims=True) == 0
    spread = grouped.std(axis=2, ddof=ddof, keepdims=True) + epsilon
    away = grouped - grouped.mean(axis=2, keepdims=True)
    return np.where(equal, 0.0, away / np.where(equal, 1.0, spread)).reshape(rows.shape)


def _k3(entry: Entry, table: Table, rows: Array) -> Array:
    """β times the derivative of e^(−d) − 1 + d with d = log π − log π_ref."""
    beta = entry.get("terms", "penalise_kl", "coefficient", 0.0)
    return beta * (1 - np.exp(table.logp["reference"] - table.logp["policy"]))[rows]


# Moments by enumeration ----------------------------------------------------------------------------------------------


def moments(entry: Entry, document: dict[str, Any], table: Table) -> tuple[Array, Array]:
    """Mean [D] and covariance [D, D] of the gradient of one update."""
    size, groups = entry.group_size, document["update"]["groups"]
    own = [np.flatnonzero(table.prompt == prompt) for prompt in range(document["update"]["prompts"])]
    units = [rows for rows in own for _ in range(groups)]
    if document["entry"]["couples"] == "batch":
        return _enumerate(entry, table, [rows for rows in units for _ in range(size)])
    parts = [_enumerate(entry, table, [rows] * size) for rows in units]
    mean, covariance = (np.stack(found) for found in zip(*parts, strict=True))
    return mean.mean(axis=0), covariance.sum(axis=0) / len(units) ** 2


def _enumerate(entry: Entry, table: Table, places: list[Array]) -> tuple[Array, Array]:
    rows = np.array(list(product(*places)))
    probability = table.probability("behavior")[rows].prod(axis=1)
    gradient = np.einsum("urt,urtd->ud", ESTIMATORS[entry.id](entry, table, rows), table.score[rows], optimize=True)
    mean = probability @ gradient
    away = gradient - mean
    return mean, (away * probability[:, None]).T @ away


# The check -----------------------------------------------------------------------------------------------------------


class Report:
    """What was compared, and what did not agree."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def equal(self, name: str, stated: Any, found: Any) -> None:
        if stated is None or found is None:
            if stated is not None or found is not None:
                self.problems.append(f"{name}: stated {stated}, found {found}")
            return
        one, other = np.asarray(stated, dtype=float), np.asarray(found, dtype=float)
        if one.shape != other.shape:
            self.problems.append(f"{name}: shape {one.shape}, found {other.shape}")
        elif one.size and not (np.abs(one - other) <= TOLERANCE * np.maximum(1, np.abs(other))).all():
            self.problems.append(f"{name}: off by {np.abs(one - other).max():.3g}")


def check(document: dict[str, Any]) -> list[str]:
    """Everything in the document that does not follow from its logits, rewards and parameters."""
    report = Report()
    if document["schema"] != 1:
        return [f"schema {document['schema']} is not known"]
    if document["entry"]["id"] not in ESTIMATORS:
        return [f"no formula for {document['entry']['id']}"]
    testbed, table = document["testbed"], Table(document["testbed"])
    _check_testbed(testbed, table, report)
    weight = table.probability("policy") / document["update"]["prompts"]
    gradient = (weight * table.reward) @ table.score.sum(axis=1)
    report.equal("objective", document["exact"]["objective"], weight @ table.reward)
    report.equal("gradient", document["exact"]["gradient"], gradient)
    means = {}
    for part in ("whole", "task"):
        stated = document[part]
        mean, covariance = moments(Entry(document, stated.get("without", [])), document, table)
        means[part], trace = mean, np.trace(covariance)
        report.equal(f"{part}: mean", stated["mean"], mean)
        report.equal(f"{part}: covariance", stated["covariance"], covariance)
        report.equal(f"{part}: trace", stated["trace"], trace)
        report.equal(f"{part}: b_simple", stated["b_simple"], trace / (mean @ mean) if mean.any() else None)
        report.equal(f"{part}: count vectors", stated["count_vectors"], _count_vectors(document, stated["types"]))
    _check_bias(document["task"], means["task"], gradient, report)
    report.equal("declared shift", document["declared"]["shift"], means["whole"] - means["task"])
    if document["declared"]["operators"] != document["task"]["without"]:
        report.problems.append("declared operators are not those that the task part leaves out")
    return report.problems


def _count_vectors(document: dict[str, Any], types: list[int]) -> int:
    """Ways in which the groups can hold members of so many types: of all groups together where the batch is coupled."""
    size = document["update"]["group_size"]
    single = [comb(size + number - 1, number - 1) for number in types]
    return prod(single) ** document["update"]["groups"] if document["entry"]["couples"] == "batch" else sum(single)


def _check_testbed(testbed: dict[str, Any], table: Table, report: Report) -> None:
    for name, law in table.laws.items():
        report.equal(f"logits of {name}, normalised", testbed["logits"][name], law)
        report.equal("vocabulary", testbed["vocabulary"], law.shape[1])
    listed = testbed["trajectories"]
    for field, policy in (("probability", "behavior"), ("policy_probability", "policy")):
        found = table.probability(policy)
        report.equal(field, [one[field] for one in listed], found)
        sums = [found[table.prompt == prompt].sum() for prompt in range(len(testbed["prompts"]))]
        report.equal(f"sum of {field}", sums, [1.0] * len(sums))
    report.equal("value", table.value, table.values())
    law = table.laws["policy"]
    entropy = -(np.exp(law) * law).sum(axis=1)
    atoms = np.array(testbed["atom_gradients"])
    for i, t in zip(*np.nonzero(table.mask), strict=True):
        row, one = table.rows[i, t], listed[i]["atoms"]
        report.equal("gradient of a token", atoms[one["logp"][t]], table.score[i, t])
        slope = np.zeros(law.shape)
        slope[row] = -np.exp(law[row]) * (law[row] + entropy[row])
        report.equal("gradient of an entropy", atoms[one["entropy"][t]], slope.ravel())


def _check_bias(stated: dict[str, Any], mean: Array, gradient: Array, report: Report) -> None:
    length = np.linalg.norm(gradient)
    gain = mean @ gradient / length**2
    report.equal("bias", stated["bias"], mean - gradient)
    report.equal("gain", stated["gain"], gain)
    report.equal("relative bias", stated["relative_bias"], np.linalg.norm(mean - gradient) / length)
    report.equal("cosine", stated["cosine"], mean @ gradient / np.linalg.norm(mean) / length)
    across = np.linalg.norm(mean - gain * gradient) / np.linalg.norm(gain * gradient)
    report.equal("orthogonal relative bias", stated["orthogonal_relative_bias"], across)


if __name__ == "__main__":
    found = check(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("\n".join(found) or "every number follows")
    sys.exit(bool(found))
