"""What the tests of exact policies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm


@pytest.fixture(scope="module")
def exact_norms() -> Iterator[None]:
    """The normalisation of transformers computes in float32, whatever the weights; here differences are to be exact."""

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield
