"""The reward side: from rewards to the advantage of every policy token.

    signal → shaping → selection → [accrue] → baseline → scale → credit

A value flows through the slots at one level: a sample, a token or a turn. Everything here is without gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError, NotYetError
from gradaxis.estimators.gates import open_gate
from gradaxis.estimators.inputs import Inputs, apply
from gradaxis.estimators.layout import copy_to_tokens, place_at_end
from gradaxis.estimators.levels import Level, collect, count_entries, find_peers, lay_out, spread, widen
from gradaxis.estimators.operators import find_peer_check
from gradaxis.taxonomy import Placed

Slots = Mapping[str, tuple[Placed, ...]]


@dataclass(frozen=True)
class Advantage:
    """What the reward side hands over.

    `value` [N, T] is the advantage at policy tokens, zero elsewhere; `level` says where it came from; `outcome` [N] is
    the reward as the signal left it. `kept` [N] is true for samples that selection left in, `counted` [N] for those
    that divisors count.
    """

    value: Tensor
    level: Level
    outcome: Tensor
    kept: Tensor
    counted: Tensor


@dataclass(frozen=True)
class _Flow:
    """The state between two operators. `reward` is the value as the comparison found it, None before."""

    value: Tensor
    level: Level
    outcome: Tensor
    kept: Tensor
    counted: Tensor
    reward: Tensor | None = None


def evaluate_reward(slots: Slots, streams: Mapping[str, Slots], inputs: Inputs) -> Advantage:
    """Run the reward slots of an entry and of its streams. Raises NotYetError for levels that cannot be mixed."""
    inputs = inputs.detach()
    batch = inputs.batch
    everyone = torch.ones_like(batch.group, dtype=torch.bool)
    flow = _Flow(batch.reward, "sample", batch.reward, everyone, everyone)
    flow = _signal(slots, flow, inputs)
    flow = _select(slots.get("selection", ()), _run(slots.get("shaping", ()), flow, inputs), inputs)
    named = {name: _run_stream(stream, flow, inputs) for name, stream in streams.items()}
    flow = _compare(slots, flow, inputs, named)
    return Advantage(widen(flow.value, flow.level, batch), flow.level, flow.outcome, flow.kept, flow.counted)


def _run_stream(slots: Slots, main: _Flow, inputs: Inputs) -> Tensor:
    """The advantage of a named stream at each token, [N, T], with the samples that the main stream kept."""
    if slots.get("selection"):
        raise NotYetError("a stream with a selection of its own is not computed yet")
    flow = replace(main, value=inputs.batch.reward, level="sample", outcome=inputs.batch.reward)
    flow = _run(slots.get("shaping", ()), _signal(slots, flow, inputs), inputs)
    flow = _compare(slots, flow, inputs, {})
    return widen(flow.value, flow.level, inputs.batch)


def _signal(slots: Slots, flow: _Flow, inputs: Inputs) -> _Flow:
    for placed in slots.get("signal", ()):
        value = apply(placed, inputs, {"reward": flow.value, "advantage": flow.value})
        level: Level = "turn" if "turn_reward" in placed.declaration.reads else flow.level
        flow = replace(flow, value=value, level=level)
    return replace(flow, outcome=flow.value) if flow.level == "sample" else flow


def _select(selection: tuple[Placed, ...], flow: _Flow, inputs: Inputs) -> _Flow:
    """Drop samples. Each operator sees all samples that were counted before it."""
    batch = inputs.batch
    for placed in selection:
        peers = find_peers("group", "sample", batch)
        seen = {"outcome": flow.outcome, "peers": peers, "counted": flow.kept}
        kept = apply(placed, inputs, seen)
        if placed.where:
            kept = kept | ~open_gate(placed.where, flow.outcome, "sample", flow.outcome, batch)
        kept = flow.kept & kept
        counted = flow.counted & kept if placed.parameters.get("statistics") == "kept" else flow.counted
        flow = replace(flow, kept=kept, counted=counted)
    return flow


def _compare(slots: Slots, flow: _Flow, inputs: Inputs, streams: Mapping[str, Tensor]) -> _Flow:
    credit = slots.get("credit", ())
    flow = _run(tuple(placed for placed in credit if placed.stage == "accrue"), flow, inputs)
    flow = replace(flow, reward=flow.value)
    for slot in ("baseline", "scale"):
        flow = _run(slots.get(slot, ()), flow, inputs)
    return _run(tuple(placed for placed in credit if placed.stage != "accrue"), flow, inputs, streams)


def _run(
    operators: tuple[Placed, ...], flow: _Flow, inputs: Inputs, streams: Mapping[str, Tensor] | None = None
) -> _Flow:
    for placed in operators:
        flow = _step(placed, flow, inputs, streams or {})
    return flow


def _step(placed: Placed, flow: _Flow, inputs: Inputs, streams: Mapping[str, Tensor]) -> _Flow:
    """One operator on the flowing value, at the level where it stands or the finer one that it asks for."""
    batch, reads = inputs.batch, placed.declaration.reads
    if flow.level == "turn":
        flow = _leave_turns(placed, flow, inputs)
    if "streams" in reads:
        flow = replace(flow, value=widen(flow.value, flow.level, batch), level="token")
    flowing: dict[str, Any] = {"streams": streams, "advantage": flow.value}
    flowing["reward"] = flow.value if flow.reward is None else flow.reward
    if flow.level == "turn" and "mask" in reads:
        for name in ("advantage", "reward"):
            flowing[name], flowing["mask"] = lay_out(flowing[name], batch)
    if "peers" in reads:
        flowing["peers"] = find_peers(str(placed.over), flow.level, batch)
        flowing["counted"] = count_entries(flow.counted, flow.level, batch)
        _check_peers(placed, flowing, flow.level, inputs)
    result = apply(placed, inputs, flowing)
    if flow.level == "turn":
        result, level = collect(result, batch) if "mask" in reads else result, flow.level
    else:
        level = "token" if result.dim() == 2 else "sample"
    if placed.where:
        before = _at_level(flow, level, batch.mask)
        gate = open_gate(placed.where, before, level, flow.outcome, batch)
        result = torch.where(gate, result, before)
    return replace(flow, value=result, level=level)


def _leave_turns(placed: Placed, flow: _Flow, inputs: Inputs) -> _Flow:
    """Before an operator that reads log-probabilities, the advantage of turns is copied to their tokens."""
    reads = placed.declaration.reads
    if any("logp" in name for name in reads) and flow.reward is not None:
        return replace(flow, value=widen(flow.value, "turn", inputs.batch), level="token")
    if any("logp" in name for name in reads) or not {"mask", "peers", "streams"} & set(reads):
        raise NotYetError(f"{placed.operator} is not computed yet on the rewards of turns")
    return flow


def _at_level(flow: _Flow, level: Level, mask: Tensor) -> Tensor:
    """The value before an operator, in the shape of what the operator returned."""
    if level == flow.level:
        return flow.value
    return place_at_end(flow.value, mask) if flow.reward is None else copy_to_tokens(flow.value, mask)


def _check_peers(placed: Placed, flowing: Mapping[str, Any], level: Level, inputs: Inputs) -> None:
    """Refuse an operator that compares with others where there are none. Not asked of batches without data."""
    check = find_peer_check(placed.operator)
    if check is None or inputs.mask.is_meta:
        return
    arguments = [flowing[name] for name in placed.declaration.reads]
    alone = check(*arguments, **placed.parameters)
    if alone is None or not bool(alone.any()):
        return
    groups = spread(inputs.batch.group, level, inputs.batch)[alone].unique().tolist()
    which = ", ".join(map(str, groups[:5])) + (" …" if len(groups) > 5 else "")
    raise InputError(
        f"group {which}", f"one sample to compare over {placed.over}", f"at least two, for {placed.operator}",
        "Sample more answers to the prompt, leave the group out, or use a baseline that needs no others.",
    )  # fmt: skip
