"""One batched forward pass, and backward passes through it that form every sequence's gradients layer by layer.

Letters: R rows, L positions, T response positions, H hidden size, V vocabulary.

Parameters are frozen inside, so that autograd builds no gradient of its own; graphs start at the embeddings' outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradaxis.estimators.gradients.blocks import site_blocks
from gradaxis.estimators.gradients.head import LogitCotangent, PlainHead
from gradaxis.estimators.gradients.sinks import Sink
from gradaxis.estimators.gradients.sites import Plan, Site
from gradaxis.estimators.gradients.tables import Looked, add_table
from gradaxis.estimators.policies.forward import intercepted_head, output_head, run_model
from gradaxis.estimators.policies.inputs import ModelInputs
from gradaxis.estimators.quantities import token_quantities


class InstrumentedPass:
    """A forward pass over R rows that can go backward more than once. Use as a context manager.

    After entering, `uncovered` names the selected parameters that this pass cannot form gradients of: those of the
    plan's rest, and those whose module was not called once with one input a row.

    Args:
        model: a causal language model of transformers.
        inputs: R rows.
        plan: where the selected parameters are.
        plain: whether the logits are the head's output and nothing more; then the head runs in chunks.
        recomputed: layers to run again in the backward pass, so that memory holds one layer and not all.
    """

    def __init__(
        self, model: Any, inputs: ModelInputs, plan: Plan, plain: bool, recomputed: Sequence[nn.Module] = ()
    ) -> None:
        self._model, self._inputs, self._plan, self._plain = model, inputs, plan, plain
        self._recomputed = tuple(recomputed)
        self._stack = ExitStack()
        self._calls: dict[int, int] = {}
        self._unfit: set[int] = set()
        self._leaves: dict[int, tuple[Tensor, Tensor]] = {}
        self._sink: Sink | None = None
        self._counting = True
        self._logits: Tensor | None = None
        self._head_output: Tensor | None = None
        self.uncovered: tuple[str, ...] = ()

    def __enter__(self) -> InstrumentedPass:
        try:
            self._enter()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._sink = None
        self._stack.close()

    def backward(self, coefficients: Mapping[str, Tensor], sink: Sink, again: bool = False) -> None:
        """Adds the gradients of Σ_{t,c} C[r, t, c] q_c[r, t], for every row r, to the sink.

        Args:
            coefficients: quantity to [R, T].
            sink: receives all parameters that are not `uncovered`.
            again: whether another backward pass will follow.
        """
        self._sink = sink
        leaves = {key: leaf for key, (_, leaf) in self._leaves.items()}
        head = output_head(self._model)
        logits: LogitCotangent | None = None
        if self._plain:
            hidden_cotangent = self._law.hidden_cotangent(coefficients)
            logits = self._law.logit_cotangent(coefficients)
            found = torch.autograd.grad(
                self._hidden, list(leaves.values()), hidden_cotangent, retain_graph=again, allow_unused=True
            )
        else:
            values = token_quantities(
                self._logits, self._inputs.tokens, tuple(coefficients), self._inputs.temperature
            )  # fmt: skip
            total = torch.stack([(values[name] * weight.to(values[name])).sum() for name, weight in coefficients.items()])
            wanted = list(leaves.values()) + ([] if self._head_output is None else [self._head_output])
            found = torch.autograd.grad(total.sum(), wanted, retain_graph=again, allow_unused=True)
            if self._head_output is not None:
                whole = found[-1]
                logits = lambda part: whole[..., part]  # noqa: E731
        cotangents = dict(zip(leaves, found, strict=False))
        for table in self._plan.tables:
            if {table.name, table.bias} & set(self.uncovered):
                continue
            looked = None
            if table.embedding is not None:
                ids, leaf = self._leaves[id(table.embedding)]
                cotangent = cotangents[id(table.embedding)]
                looked = Looked(ids, torch.zeros_like(leaf) if cotangent is None else cotangent)
            add_table(table, sink, looked, self._hidden.detach() if table.head is head else None, logits)

    def _enter(self) -> None:
        stack, model = self._stack, self._model
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_frozen(model))
        for layer in self._recomputed:
            stack.enter_context(_recompute(layer))
        tables = {id(table.embedding): table.embedding for table in self._plan.tables if table.embedding is not None}
        start = model.get_input_embeddings()
        for module in {**tables, id(start): start}.values():
            stack.callback(module.register_forward_hook(self._begin).remove)
        for site in self._plan.sites:
            stack.callback(site.module.register_forward_hook(self._tap(site)).remove)
        if not self._plain:
            stack.callback(output_head(model).register_forward_hook(self._keep_head_output).remove)

        def take(hidden: Tensor) -> Tensor:
            self._hidden = hidden
            return hidden[:, :1] if self._plain else hidden

        with intercepted_head(model, self._inputs, take):
            logits = run_model(model, self._inputs)
        self._counting = False
        if self._plain:
            self._law = PlainHead(output_head(model), self._hidden, self._inputs)  # type: ignore[arg-type]
        else:
            self._logits = logits
        self.uncovered = self._plan.rest + tuple(self._uncovered())

    def _uncovered(self) -> Iterator[str]:
        for site in self._plan.sites:
            key = id(site.module)
            if key in self._unfit or self._calls.get(key) != 1:
                self._unfit.add(key)
                yield from site.names.values()
        for table in self._plan.tables:
            key = id(table.embedding)
            if table.embedding is not None and (key in self._unfit or self._calls.get(key) != 1):
                yield from (name for name in (table.name, table.bias) if name is not None)

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """An embedding's output becomes a leaf of the graph, whose gradient is the table's cotangent."""
        key = id(module)
        self._calls[key] = self._calls.get(key, 0) + 1
        ids = arguments[0] if arguments else None
        leaf = output.detach().requires_grad_()
        if ids is None or ids.shape != self._inputs.ids.shape or output.shape[:2] != ids.shape:
            self._unfit.add(key)
        else:
            self._leaves[key] = (ids, leaf)
        return leaf.clone()

    def _tap(self, site: Site) -> Callable[..., Tensor]:
        def receive(value: Tensor, cotangent: Tensor) -> None:
            if self._sink is not None and id(site.module) not in self._unfit:
                for name, rows, block in site_blocks(site, value, cotangent):
                    self._sink.add(name, rows, block)

        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            value = arguments[0] if arguments else None
            if self._counting:
                self._calls[id(module)] = self._calls.get(id(module), 0) + 1
            rows = len(self._inputs.ids)
            if value is None or value.dim() < 3 or len(value) != rows or not output.requires_grad:
                if self._counting:
                    self._unfit.add(id(module))
                return output
            tapped = _Tap.apply(output, value.detach(), receive)
            assert isinstance(tapped, Tensor)
            return tapped

        return hook

    def _keep_head_output(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        self._head_output = output


class _Tap(torch.autograd.Function):
    """The identity, which hands a module's input and the cotangent of its output to `receive` in the backward pass.

    The input is saved for the backward pass like any other tensor, so that recomputed layers do not hold it.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, value: Tensor, receive: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(value)
        ctx.receive = receive
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        ctx.receive(ctx.saved_tensors[0], cotangents[0])
        return cotangents[0], None, None


def repeated_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The layers that transformers lets one recompute, outermost only."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inside:
            layers.append(module)
            inside.update(id(inner) for inner in module.modules())
    return tuple(layers)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)


@contextmanager
def _recompute(layer: nn.Module) -> Iterator[None]:
    """Inside, the layer keeps its input only, and runs again in the backward pass. Random state is not repeated."""
    own = layer.__dict__.get("forward")
    layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own
