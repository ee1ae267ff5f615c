"""What probes report of prompts as draws, one entry a number, with its true value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from calibration_study import Batch, Statistic

from gradaxis.diagnostics.statistics import (
    Estimate,
    Leave,
    cosine_change_of_means,
    cosine_of_means,
    critical_batch_size,
    effective_rank,
    efficiency,
    gain_of_means,
    inner_of_means,
    inner_product,
    leave_out_inner,
    mean_interval,
    noise,
    ratio_at_equal_gain,
    ratio_of_inner_products,
    ratio_of_noise,
    share_interval,
    squared_mean,
    trace_covariance,
)

CHANGE, PRODUCT = "change of the cosine", "inner product with a functional's gradient"


def _root(value: float) -> float:
    return math.sqrt(value) if value > 0 else math.nan


def _clip(low: float, square: bool = False) -> Callable[[float], float]:
    def clipped(value: float) -> float:
        value = min(max(value, low), 1.0)
        return value**2 if square else value

    return clipped


def _gain(batch: Batch, name: str) -> Leave:
    cross = batch(name, "t")
    return Leave(inner_of_means(cross), leave_out_inner(cross))


def _cosine(batch: Batch, name: str) -> float:
    return inner_of_means(batch(name, "t")) / _root(inner_of_means(batch(name)) * inner_of_means(batch("t")))


def _size(batch: Batch, name: str) -> float:
    return inner_of_means(batch(name)) + trace_covariance(batch(name)) / batch.n


def _plain(name: str, of: str) -> Statistic:
    """The mean over prompts of a plain number, as the reward is."""
    return Statistic(
        name, lambda b: Estimate(float(b.plain[of].mean()), mean_interval(b.plain[of])), lambda t: t.plain[of],
        lambda b: (float(b.plain[of].mean()),), shifts=False,
    )  # fmt: skip


def _of_one(name: str, label: str) -> list[Statistic]:
    return [
        Statistic(f"\\|G\\|², {label}", lambda b: squared_mean(b(name)), lambda t: t.inner(name, name),
                  lambda b: (inner_of_means(b(name)),), signed=True),
        Statistic(f"tr Σ, {label}", lambda b: noise(b(name), b.scales.get(name)), lambda t: t.trace[name],
                  lambda b: (math.log(trace_covariance(b(name))),), math.exp, shifts=False),
        Statistic(f"effective rank, {label}", lambda b: effective_rank(b(name)), lambda t: t.rank[name],
                  lambda b: (math.log(max(effective_rank(b(name)).value, 1.0)),), math.exp, shifts=False),
        Statistic(f"critical batch size, signal-to-noise, {label}",
                  lambda b: critical_batch_size(b(name), b.scales.get(name)),
                  lambda t: t.trace[name] / t.inner(name, name),
                  lambda b: (trace_covariance(b(name)), inner_of_means(b(name)))),
    ]  # fmt: skip


def statistics_of(labels: Mapping[str, str]) -> list[Statistic]:
    """What probes report of prompts as draws: of methods `a` and `b`, the reference `t`, a functional `f`, entropy `h`.

    `p` has the noise of `a` and a mean along the reference's: its cosine is 1, the edge of what a cosine can be.
    """
    pair = f"{labels['a']} beside {labels['b']}"
    found = [
        *_of_one("a", labels["a"]),
        *_of_one("b", labels["b"]),
        Statistic("gain", lambda b: gain_of_means(b("a", "t"), b("t")), lambda t: t.inner("a", "t") / t.inner("t", "t"),
                  lambda b: (inner_of_means(b("a", "t")), inner_of_means(b("t")))),
        Statistic("cosine, orthogonal bias", lambda b: cosine_of_means(b("a"), b("t"), b("a", "t")),
                  lambda t: t.cosine("a", "t"),
                  lambda b: (inner_of_means(b("a", "t")), _root(inner_of_means(b("a")) * inner_of_means(b("t")))),
                  _clip(-1.0)),
        Statistic("cosine whose true value is 1", lambda b: cosine_of_means(b("p"), b("t"), b("p", "t")), lambda t: 1.0,
                  lambda b: (inner_of_means(b("p", "t")), _root(inner_of_means(b("p")) * inner_of_means(b("t")))),
                  _clip(-1.0)),
        Statistic("efficiency eff_n", lambda b: efficiency(b("a"), b("a"), b("a", "t"), b("t"), b.scales.get("a")),
                  lambda t: t.cosine("a", "t") ** 2 / (1 + t.trace["a"] / t.inner("a", "a") / t.n),
                  lambda b: (inner_of_means(b("a", "t")), _root(inner_of_means(b("t")) * _size(b, "a"))),
                  _clip(0.0, square=True)),
        Statistic(f"ratio of noise, {pair}", lambda b: ratio_of_noise(b("a"), b("b"), b.pair("a", "b")),
                  lambda t: t.trace["a"] / t.trace["b"],
                  lambda b: (math.log(trace_covariance(b("a")) / trace_covariance(b("b"))),), math.exp, shifts=False),
        Statistic(f"ratio of noise, {labels['t']} beside {labels['b']}",
                  lambda b: ratio_of_noise(b("t"), b("b"), b.pair("t", "b")),
                  lambda t: t.trace["t"] / t.trace["b"],
                  lambda b: (math.log(trace_covariance(b("t")) / trace_covariance(b("b"))),), math.exp, shifts=False),
        Statistic("ratio of noise at equal gain",
                  lambda b: ratio_at_equal_gain(b("a"), b("b"), _gain(b, "a"), _gain(b, "b"), b.pair("a", "b")),
                  lambda t: t.trace["a"] / t.trace["b"] * (t.inner("b", "t") / t.inner("a", "t")) ** 2,
                  lambda b: (_root(trace_covariance(b("a"))) * inner_of_means(b("b", "t")),
                             _root(trace_covariance(b("b"))) * inner_of_means(b("a", "t"))),
                  lambda value: max(value, 0.0) ** 2),
        Statistic(CHANGE,
                  lambda b: cosine_change_of_means(b("a"), b("b"), b("t"), b("a", "t"), b("b", "t")),
                  lambda t: t.cosine("b", "t") - t.cosine("a", "t"),
                  lambda b: (_cosine(b, "b") - _cosine(b, "a"),)),
        Statistic(PRODUCT, lambda b: inner_product(b("a", "f")),
                  lambda t: t.inner("a", "f"), lambda b: (inner_of_means(b("a", "f")),)),
        Statistic("entropy price", lambda b: ratio_of_inner_products(-b("a", "h"), b("a", "t")),
                  lambda t: -t.inner("a", "h") / t.inner("a", "t"),
                  lambda b: (-inner_of_means(b("a", "h")), inner_of_means(b("a", "t")))),
        Statistic("share, prompts as clusters",
                  lambda b: Estimate(float(b.plain["share"].mean()), share_interval(b.plain["share"], b.plain["size"])),
                  lambda t: t.plain["share"], lambda b: (float(b.plain["share"].mean()),), _clip(0.0),
                  shifts=False),
        _plain("mean reward", "reward"),
    ]  # fmt: skip
    differences = [one for one in found if one.name in (CHANGE, PRODUCT)]
    return found + [replace(one, name=f"{one.name}: its sign", signed=True, powered=False) for one in differences]
