"""Where in a model each selected parameter meets its input, and so how its gradients are formed row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradaxis.estimators.policies.forward import output_head
from gradaxis.estimators.quantities import at_least_float32


@dataclass(frozen=True)
class Site:
    """A module whose own parameters act on every position alike. `names` maps its attributes to selected names."""

    module: nn.Module
    kind: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A matrix with a row a token (or a learned position): an embedding, the head, or both in one (tied).

    `scale` is what the embedding multiplies a looked-up row by. `bias` is the name of the head's bias, if selected;
    `name` is None when only that is.
    """

    name: str | None
    embedding: nn.Embedding | None = None
    head: nn.Linear | None = None
    scale: float = 1.0
    bias: str | None = None


@dataclass(frozen=True)
class Plan:
    """How every selected parameter is covered. `rest` are those that need one backward pass a sequence of their own."""

    sites: tuple[Site, ...]
    tables: tuple[Table, ...]
    rest: tuple[str, ...]


def plan_sites(model: Any, selected: Mapping[str, nn.Parameter], checkpointed: tuple[nn.Module, ...] = ()) -> Plan:
    """Assigns every selected parameter to a site, a table or the rest. None is left out.

    Args:
        model: a causal language model of transformers.
        selected: parameters by name.
        checkpointed: modules whose forward pass is repeated in the backward pass; tables inside them are the rest.
    """
    names = {id(value): name for name, value in selected.items()}
    owners: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in selected}
    for module in model.modules():
        for attribute, value in module.named_parameters(recurse=False):
            if id(value) in names:
                owners[names[id(value)]].append((module, attribute))
    head = output_head(model)
    inside = {id(inner) for layer in checkpointed for inner in layer.modules()}
    grouped: dict[int, tuple[nn.Module, str, dict[str, str]]] = {}
    tables, rest = [], []
    bias: str | None = None
    for name, places in owners.items():
        modules = [module for module, _ in places]
        tied_or_table = _table(name, modules, head) if all(id(module) not in inside for module in modules) else None
        if tied_or_table is not None and all(attribute == "weight" for _, attribute in places):
            tables.append(tied_or_table)
        elif len(places) == 1 and modules[0] is head and type(head) is nn.Linear:
            bias = name
        elif len(places) == 1 and (kind := _kind(modules[0])) is not None:
            grouped.setdefault(id(modules[0]), (modules[0], kind, {}))[2][places[0][1]] = name
        else:
            rest.append(name)
    if bias is not None:
        of_head = next((table for table in tables if table.head is not None), None)
        tables = [table for table in tables if table is not of_head]
        of_head = of_head or Table(None, head=head)  # type: ignore[arg-type]
        tables.append(Table(of_head.name, of_head.embedding, of_head.head, of_head.scale, bias))
    return Plan(tuple(Site(*group) for group in grouped.values()), tuple(tables), tuple(rest))


def _table(name: str, modules: list[nn.Module], head: nn.Module) -> Table | None:
    embeddings = [module for module in modules if isinstance(module, nn.Embedding)]
    heads = [module for module in modules if module is head and type(module) is nn.Linear]
    if len(embeddings) + len(heads) != len(modules) or len(embeddings) > 1 or len(heads) > 1:
        return None
    scale = embedding_scale(embeddings[0]) if embeddings else 1.0
    if scale is None:
        return None
    return Table(name, embeddings[0] if embeddings else None, heads[0] if heads else None, scale)  # type: ignore[arg-type]


def embedding_scale(module: nn.Embedding) -> float | None:
    """The factor between a row of the table and what the module returns; None when it is not a plain look-up."""
    if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        return None
    if type(module) is nn.Embedding:
        return 1.0
    ids = torch.arange(min(2, module.num_embeddings), device=module.weight.device)[None]
    with torch.no_grad():
        try:
            found = at_least_float32(module(ids).detach())
        except (TypeError, RuntimeError, AttributeError, IndexError):
            return None
        rows = at_least_float32(module.weight.detach()[: ids.shape[1]])[None]
    if found.shape != rows.shape or not bool(rows.ne(0).any()):
        return None
    scale = float((found * rows).sum() / rows.square().sum())
    return scale if torch.allclose(found, scale * rows, rtol=1e-2 if module.weight.itemsize < 4 else 1e-5) else None


def _kind(module: nn.Module) -> str | None:
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        return "linear"
    if type(module) is Conv1D:
        return "transposed"
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return "layer_norm"
    return "rms_norm" if _is_rms_norm(module) else None


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether the derivative of the output in the weight is the normalised input, tried on one input."""
    own = dict(module.named_parameters(recurse=False))
    if "RMSNorm" not in type(module).__name__ or list(own) != ["weight"] or own["weight"].dim() != 1:
        return False
    weight = own["weight"]
    steps = torch.arange(2 * weight.numel(), device=weight.device, dtype=torch.float32)
    value = (steps.sin() + 0.1).to(weight.dtype).view(1, 2, -1)
    with torch.enable_grad():
        probe = weight.detach().clone().requires_grad_()
        try:
            output = torch.func.functional_call(module, {"weight": probe}, (value,))
            (found,) = torch.autograd.grad(output.sum(), probe)
        except (RuntimeError, TypeError, AttributeError):
            return False
    expected = normalised_by_rms(module, value).sum(dim=(0, 1))
    tolerance = 1e-4 if weight.itemsize >= 4 else 5e-2
    return torch.allclose(at_least_float32(found), expected, rtol=tolerance, atol=tolerance)


def normalised_by_rms(module: Any, value: Tensor) -> Tensor:
    """x / √(mean x² + ε) over the last dimension, in float32 or better; ε under any of the names in use."""
    value = at_least_float32(value)
    epsilon = next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), None)
    if epsilon is None:
        epsilon = torch.finfo(value.dtype).eps
    return value * torch.rsqrt(value.square().mean(dim=-1, keepdim=True) + epsilon)
