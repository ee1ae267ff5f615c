"""What Adam has seen so far: second moments of gradients from a training run, as weights of inner products.

A small change u of the gradient changes Adam's next step by u / (√v̂ + ε), value by value, as long as it leaves v̂ as it
is (arXiv 1412.6980, algorithm 1). So ⟨u, v⟩ = Σ u v / (√v̂ + ε) is how far a step along v goes along u, and it takes the
place of the plain product, which is that of SGD. One learning rate is assumed for all parameters.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradaxis.errors import InputError
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy

MOMENT, LARGEST = "exp_avg_sq", "max_exp_avg_sq"
"""PyTorch's names of v, and of the largest v̂ so far, which takes its place under AMSGrad."""

EPSILON, BETA = 1e-8, 0.999
"""Defaults of ε and β₂, for files that do not say."""

WRAPPERS = ("optimizer", "optimizer_state_dict", "optimizer_states")
"""Keys under which checkpoints keep the state of the optimizer."""


@dataclass(frozen=True)
class OptimizerState:
    """`weights` 1 / (√v̂ + ε) by parameter, float32 on the CPU, and `facts` for provenance.

    Among the facts: `steps`, the fewest and most steps of a parameter, or None where the moments were taken as
    corrected already; `untouched`, the share of values whose gradient was always 0. There the weight is 1 / ε, which
    is not what Adam would do to a gradient that arrives: it would enter v̂.
    """

    weights: Mapping[str, Tensor]
    facts: Mapping[str, Any]


SGD = OptimizerState(
    {}, {"kind": "sgd", "note": "directions are those of SGD: no state of the optimizer was given (--optimizer-state)"}
)
"""No state: the plain inner product."""


@dataclass(frozen=True)
class Moment:
    """One parameter's v, the steps behind it (None: it is v̂ already), β₂ and ε."""

    value: Tensor
    step: float | None
    beta: float
    epsilon: float

    def weight(self) -> Tensor:
        corrected = self.value.double() / (1.0 if self.step is None else 1.0 - self.beta**self.step)
        return (1.0 / (corrected.sqrt() + self.epsilon)).float()


def read_optimizer_state(path: str | Path, policy: HuggingFacePolicy, allow_pickle: bool = False) -> OptimizerState:
    """Reads the second moments of the parameters that count.

    Args:
        path: a safetensors file of v by parameter name (`name` or `name.exp_avg_sq`), with `step`, `beta2` and `eps` in
            its metadata and taken as v̂ without a step; or a checkpoint of torch.optim.Adam or AdamW (`state_dict()`,
            alone or under `optimizer`), whose parameters are named or stand in the order of the model.
        policy: whose parameters they are.
        allow_pickle: whether a checkpoint that is a pickle may be read; of its objects, only tensors and plain data.

    Raises:
        InputError: no such file, a pickle that was not allowed, moments that are missing or of another shape, of no
            step, negative or not finite.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError("--optimizer-state", f"{file}, which does not exist", "a file")
    safe = file.suffix == ".safetensors"
    moments = _read_safetensors(file) if safe else _read_checkpoint(file, policy, allow_pickle)
    weights, steps, untouched, size = {}, set(), 0, 0
    for name, parameter in policy.parameters().items():
        moment = moments.get(name)
        if moment is None or moment.value.shape != parameter.shape:
            got = "no second moment" if moment is None else f"a second moment of shape {tuple(moment.value.shape)}"
            raise InputError(
                f"--optimizer-state {file.name}", f"{got} for {name}", f"one of shape {tuple(parameter.shape)}",
                "Leave parameters out that were not trained (--params)",
            )  # fmt: skip
        if not bool((torch.isfinite(moment.value) & (moment.value >= 0)).all()) or not moment.epsilon > 0:
            got = f"moments of {name} that are negative or not finite, or an ε that is not positive"
            raise InputError(f"--optimizer-state {file.name}", got, "second moments of Adam")
        if moment.step is not None and not (moment.step >= 1 and 0 <= moment.beta < 1):
            got = f"step {moment.step} and beta2 {moment.beta} for {name}"
            raise InputError(f"--optimizer-state {file.name}", got, "one step or more, and a beta2 from 0 to below 1")
        weights[name] = moment.weight()
        untouched, size = untouched + int((moment.value == 0).sum()), size + moment.value.numel()
        steps.add(moment.step)
    known = sorted(step for step in steps if step is not None)
    return OptimizerState(weights, {
        "kind": "adam", "file": str(path), "steps": [known[0], known[-1]] if known else None,
        "untouched": untouched / size,
    })  # fmt: skip


def _read_safetensors(file: Path) -> dict[str, Moment]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as stored:
            about = stored.metadata() or {}
            values = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
        step = float(about["step"]) if "step" in about else None
        beta, epsilon = float(about.get("beta2", BETA)), float(about.get("eps", EPSILON))
    except (SafetensorError, ValueError) as error:
        raise InputError("--optimizer-state", f"{file.name}: {error}", "second moments in safetensors") from error
    return {name.removesuffix("." + MOMENT): Moment(value, step, beta, epsilon) for name, value in values.items()}


def _read_checkpoint(file: Path, policy: HuggingFacePolicy, allow_pickle: bool) -> dict[str, Moment]:
    if not allow_pickle:
        remedy = "A pickle can run code: store exp_avg_sq by name as safetensors, or pass --allow-pickle"
        raise InputError("--optimizer-state", f"a pickle ({file.name})", "safetensors", remedy)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(
            "--optimizer-state", f"{file.name}: {error}", "a checkpoint of tensors and plain data"
        ) from error
    stored = _find_state(loaded, file)
    numbers = [number for group in stored["param_groups"] for number in group["params"]]
    names = _names_of(stored, numbers, policy, file)
    found = {}
    for group in stored["param_groups"]:
        for number in group["params"]:
            entry = stored["state"].get(number)
            if entry is None or MOMENT not in entry:
                continue  # a parameter that was never updated; it is missed only if it counts
            value = entry[LARGEST if group.get("amsgrad") and LARGEST in entry else MOMENT]
            found[names[number]] = Moment(
                value, float(entry.get("step", 0)), float(group.get("betas", (0.9, BETA))[1]),
                float(group.get("eps", EPSILON)),
            )  # fmt: skip
    return found


def _find_state(loaded: Any, file: Path) -> Mapping[str, Any]:
    """The state of the optimizer, alone or in what training loops wrap it in."""
    inside = [loaded[key] for key in WRAPPERS if isinstance(loaded, dict) and key in loaded]
    for one in (loaded, *(inner[0] if isinstance(inner, list) and inner else inner for inner in inside)):
        if isinstance(one, dict) and {"state", "param_groups"} <= one.keys():
            return one
    got = ", ".join(map(str, list(loaded)[:4])) if isinstance(loaded, dict) else type(loaded).__name__
    raise InputError(f"--optimizer-state {file.name}", got, "`state` and `param_groups`, as optimizer.state_dict() has")


def _names_of(stored: Mapping[str, Any], numbers: list[int], policy: HuggingFacePolicy, file: Path) -> dict[int, str]:
    """The name of every parameter that the optimizer numbers.

    Those that the checkpoint gives; else the first order of the model's parameters in which all shapes fit.
    """
    given = [name for group in stored["param_groups"] for name in group.get("param_names", ())]
    if len(given) == len(numbers):
        return dict(zip(numbers, given, strict=True))
    shapes = {number: entry[MOMENT].shape for number, entry in stored["state"].items() if MOMENT in entry}
    orders = list(_orders(policy))
    for order in orders:
        fits = len(order) == len(numbers) and all(
            shapes.get(number, value.shape) == value.shape
            for number, value in zip(numbers, order.values(), strict=True)
        )
        if fits:
            return dict(zip(numbers, order, strict=True))
    sizes = json.dumps(sorted({len(order) for order in orders})).strip("[]")
    raise InputError(
        f"--optimizer-state {file.name}", f"{len(numbers)} parameters whose shapes do not follow the model's order",
        f"the shapes of its {sizes} parameters in order",
        "Store exp_avg_sq by parameter name as safetensors, or give the optimizer named parameters",
    )  # fmt: skip


def _orders(policy: HuggingFacePolicy) -> Iterator[Mapping[str, Tensor]]:
    """Orders in which optimizers number parameters: all of the model, or those that count, as they stand there; and
    matrices before vectors, as where only the former decay."""
    for named in (dict(policy.model.named_parameters()), dict(policy.parameters())):
        yield named
        yield {name: value for wide in (True, False) for name, value in named.items() if (value.dim() > 1) == wide}
