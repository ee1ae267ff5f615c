"""A causal language model of transformers, as a policy.

Letters: N sequences, T response positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradaxis.errors import GradaxisError, InputError
from gradaxis.estimators.memory import memory_left, rows_that_fit, scoring_bytes
from gradaxis.estimators.policies.forward import output_head, sequence_quantities
from gradaxis.estimators.policies.inputs import ModelInputs, build_inputs
from gradaxis.estimators.policies.loading import (
    find_source,
    fingerprint,
    parse_device,
    parse_dtype,
    refuse_pickled_weights,
)
from gradaxis.estimators.policies.selection import select_parameters
from gradaxis.estimators.quantities import check_quantities
from gradaxis.estimators.rollouts.batch import RolloutBatch
from gradaxis.estimators.rollouts.micro_batches import in_micro_batches

LOGITS_AT_ONCE = 2**26
"""Default bound on the logits of a micro-batch, in values: 256 MB in float32."""


class HuggingFacePolicy:
    """A model in evaluation mode with its tokenizer, and the parameters that count in every gradient.

    The selected parameters require gradients and all others do not.

    Args:
        model: a causal language model of transformers, or any module that answers like one.
        tokenizer: of the model; None where no text is read or written.
        params: which parameters count: `all`, `lora` or a pattern (`select_parameters`).
        name: how results call the policy.
        memory: bytes that this process may hold at most (on a GPU: in tensors); all work on the policy keeps to it.

    Raises:
        InputError: no parameter is selected, or the model has no output head.
    """

    def __init__(
        self, model: Any, tokenizer: Any = None, params: str = "all", name: str = "model", memory: int | None = None
    ) -> None:
        output_head(model)
        self.model, self.tokenizer, self.params, self.name = model.eval(), tokenizer, params, name
        self.memory = memory
        self._selected = select_parameters(model, params)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in self._selected.values():
            parameter.requires_grad_(True)
        if memory is not None:  # weights that are mapped from a file count as used only once they have been read
            for value in model.state_dict().values():
                value.sum()

    @classmethod
    def load(
        cls,
        name_or_path: str,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
        params: str = "all",
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        attn_implementation: str | None = None,
        memory: int | None = None,
    ) -> HuggingFacePolicy:
        """Loads a model and its tokenizer from a local folder, a hub id or a GGUF file.

        Args:
            name_or_path: a folder, a hub id, or a path that ends in `.gguf`.
            device: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto` (CUDA where there is one).
            dtype: `float32` (for probes), `float64`, `bfloat16` or `float16`.
            params: which parameters count (`select_parameters`).
            gguf_file: a GGUF file inside the folder or repository.
            trust_remote_code: whether code that ships with the model may run.
            allow_pickle: whether weights may be read from a pickle, which can run code.
            attn_implementation: of transformers; its own default unless given.
            memory: as for the class.

        Raises:
            InputError: there is no such device, model or file, the weights are pickled, or no parameter is selected.
        """
        from transformers import AutoModelForCausalLM

        place, number = parse_device(device), parse_dtype(dtype)
        source, gguf_file = find_source(name_or_path, gguf_file)
        if not allow_pickle:
            refuse_pickled_weights(source)
        common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        if gguf_file is not None:
            common["gguf_file"] = gguf_file
        extra: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        if gguf_file is None and not allow_pickle:
            extra["use_safetensors"] = True
        try:
            with _without_progress_bar():
                model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=number, **common, **extra)
        except (OSError, ValueError, ImportError) as error:
            raise _cannot_load(name_or_path, error) from error
        model.to(device=place)
        return cls(model, _load_tokenizer(source, common), params, name_or_path, memory)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding; every token id of a rollout must be below it."""
        return self.model.get_input_embeddings().weight.shape[0]

    @cached_property
    def identity(self) -> str:
        """Name and fingerprint of the weights as they were when this was first asked, for provenance."""
        return f"{self.name}@{fingerprint(self.model)}"

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that count, by name; a tied matrix stands once."""
        return dict(self._selected)

    def memory_left(self) -> int:
        """Bytes that work on this policy may take now, beside what is in use."""
        return memory_left(self.device, self.memory)

    def inputs(self, batch: RolloutBatch) -> ModelInputs:
        """Prompt and response as the model reads them. Raises InputError when the batch does not fit the model."""
        return build_inputs(batch, self.model.config, self.vocabulary, self.device)

    def quantities(
        self,
        batch: RolloutBatch,
        names: Sequence[str] = ("logp", "entropy"),
        grad: bool = False,
        micro_batch: int | None = None,
    ) -> dict[str, Tensor]:
        """Per-token quantities in nats at the temperature of the rollouts, [N, T] each, zero off the mask.

        Args:
            batch: the responses.
            names: of QUANTITIES.
            grad: whether the result can be differentiated in `parameters()`.
            micro_batch: sequences a forward pass; halved for good when memory runs out, with a warning.

        Raises:
            InputError: the batch does not fit the model (`build_inputs`), or a result is not a number.
            NotYetError: a quantity that cannot be computed.
            GradaxisError: one sequence alone does not fit into memory.
        """
        check_quantities(names)
        inputs = self.inputs(batch)
        size = micro_batch or max(1, LOGITS_AT_ONCE // (self.vocabulary * batch.tokens.shape[1]))
        size = min(size, batch.size)
        if not grad:
            shape = (inputs.ids.shape[1], batch.tokens.shape[1], self.vocabulary, self.dtype.itemsize)
            one = scoring_bytes(self.model.config, *shape)
            size = rows_that_fit(one, self.memory_left(), size, self.memory, "scoring one sequence")

        def run(rows: Sequence[int]) -> dict[str, Tensor]:
            piece = inputs.rows(torch.tensor(list(rows), device=self.device))
            with torch.set_grad_enabled(grad):
                found = sequence_quantities(self.model, piece, names)
            width = batch.tokens.shape[1] - piece.mask.shape[1]
            return {name: nn.functional.pad(value, (0, width)) for name, value in found.items()}

        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        for _, found in in_micro_batches(run, range(batch.size), size):
            for name in names:
                parts[name].append(found[name])
        values = {name: torch.cat(pieces) for name, pieces in parts.items()}
        for name, value in values.items():
            if not bool(value.isfinite().all()):
                raise InputError("model", f"{name} that is not a number", "finite logits", "Try --dtype float32")
        return values


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Loading is fast, and its bars would stand between those of the work; downloads still show theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_tokenizer(source: str, common: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **common)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError("model", f"no tokenizer that loads ({error})", "a tokenizer beside the weights") from error


def _cannot_load(name: str, error: Exception) -> GradaxisError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        remedy = "Pass --trust-remote-code if you have read that code and trust it"
        return InputError("model", f"{name}, which ships its own code", "a model of transformers", remedy)
    if "safetensors" in str(error):
        remedy = "Convert the weights, or pass --allow-pickle if you trust their author"
        return InputError("model", f"{name}: {text}", "weights in safetensors or GGUF", remedy)
    return InputError("model", f"{name}: {text}", "a folder, a hub id or a GGUF file that transformers loads")
