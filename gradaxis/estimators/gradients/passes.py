"""One batched forward pass, and backward passes through it that form every row's gradients layer by layer.

Letters: R rows, L positions, T response positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gradaxis.estimators.gradients.blocks import Workspace, site_blocks
from gradaxis.estimators.gradients.head import PlainHead, WholeHead
from gradaxis.estimators.gradients.sinks import Sink
from gradaxis.estimators.gradients.sites import Plan, Site
from gradaxis.estimators.gradients.tables import Looked, add_table
from gradaxis.estimators.gradients.taps import frozen, recomputed, tap
from gradaxis.estimators.policies.forward import intercepted_head, output_head, run_model
from gradaxis.estimators.policies.inputs import ModelInputs


class InstrumentedPass:
    """A forward pass over R rows that can go backward more than once. Use as a context manager.

    Parameters are frozen inside; graphs start at the embeddings' outputs. After entering, `uncovered` names the
    selected parameters that this pass cannot form gradients of: those of the plan's rest, and those whose module was
    not called exactly once with one input a row.

    Args:
        model: a causal language model of transformers.
        inputs: R rows.
        plan: where the selected parameters are.
        plain: whether the logits are the head's output and nothing more; then the head runs in chunks.
        layers: to run again in the backward pass, so that memory holds one layer and not all.
    """

    def __init__(
        self, model: Any, inputs: ModelInputs, plan: Plan, plain: bool, layers: Sequence[nn.Module] = ()
    ) -> None:
        self._model, self._inputs, self._plan, self._plain, self._layers = model, inputs, plan, plain, tuple(layers)
        self._stack = ExitStack()
        self._calls: dict[int, int] = {}
        self._unfit: set[int] = set()
        self._looked: dict[int, tuple[Tensor, Tensor]] = {}
        self._sink: Sink | None = None
        self._space = Workspace()
        self._forward = True
        self.uncovered: tuple[str, ...] = ()

    def __enter__(self) -> InstrumentedPass:
        try:
            self._run()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        # The graph's nodes hold the taps, the taps this object, and this object the graph: a circle that the garbage
        # collector does not see through. What is kept here is let go, or every pass would leave its activations behind.
        for name in ("_sink", "_hidden", "_head", "_space"):
            self.__dict__.pop(name, None)
        self._looked.clear()
        self._stack.close()

    def backward(self, coefficients: Mapping[str, Tensor], sink: Sink, again: bool = False) -> None:
        """Adds the gradients of Σ_{t,c} C[r, t, c] q_c[r, t], for every row r, to the sink.

        Args:
            coefficients: quantity to [R, T].
            sink: receives all parameters that are not `uncovered`.
            again: whether another backward pass will follow.
        """
        self._sink = sink
        back, logits = self._head.backward(coefficients, again)
        leaves = [leaf for _, leaf in self._looked.values()]
        found = torch.autograd.grad(self._hidden, leaves, back, retain_graph=again, materialize_grads=True)
        cotangents = dict(zip(self._looked, found, strict=True))
        for table in self._plan.tables:
            if {table.name, table.bias}.intersection(self.uncovered):
                continue
            looked = None
            if table.embedding is not None:
                key = id(table.embedding)
                looked = Looked(self._looked[key][0], cotangents[key])
            add_table(table, sink, looked, self._hidden.detach(), logits, self._space)

    def _run(self) -> None:
        stack, model = self._stack, self._model
        stack.enter_context(torch.enable_grad())
        stack.enter_context(frozen(model))
        for layer in self._layers:
            stack.enter_context(recomputed(layer))
        start = model.get_input_embeddings()
        embeddings = [table.embedding for table in self._plan.tables if table.embedding is not None]
        for module in {id(module): module for module in (start, *embeddings)}.values():
            stack.callback(module.register_forward_hook(self._begin).remove)
        for site in self._plan.sites:
            stack.callback(site.module.register_forward_hook(self._tap_of(site)).remove)
        hidden: list[Tensor] = []
        output: list[Tensor] = []

        def take(value: Tensor) -> Tensor:
            hidden.append(value)
            return value[:, :1] if self._plain else value

        def keep(module: nn.Module, arguments: tuple[Any, ...], value: Tensor) -> None:
            output.append(value)

        head = output_head(model)
        handle = head.register_forward_hook(keep)
        with intercepted_head(model, self._inputs, take):
            logits = run_model(model, self._inputs)
        handle.remove()
        self._forward = False
        (self._hidden,) = hidden
        if self._plain:
            assert isinstance(head, nn.Linear)
            self._head = PlainHead(head, self._hidden, self._inputs)
        else:
            self._head = WholeHead(self._hidden, output[0], logits, self._inputs)
        self.uncovered = self._plan.rest + tuple(self._unheard())

    def _unheard(self) -> Iterator[str]:
        """Names of parameters whose module was not called once, or not with one input a row; those are not added."""
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
        if ids is not None and ids.shape == self._inputs.ids.shape and output.shape[:2] == ids.shape:
            self._looked[key] = (ids, leaf)
        else:
            self._unfit.add(key)
        return leaf.clone()

    def _tap_of(self, site: Site) -> Any:
        key = id(site.module)

        def receive(value: Tensor, cotangent: Tensor) -> None:
            if self._sink is not None and key not in self._unfit:
                for name, rows, block in site_blocks(site, value, cotangent, self._space):
                    self._sink.add(name, rows, block)

        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            value = arguments[0] if arguments else None
            rows = len(self._inputs.ids)
            fits = value is not None and value.dim() > 2 and len(value) == rows and output.requires_grad
            if self._forward:  # a recomputed layer calls its modules again, later
                self._calls[key] = self._calls.get(key, 0) + 1
                if not fits:
                    self._unfit.add(key)
            return tap(output, value, receive) if fits and value is not None else output

        return hook
