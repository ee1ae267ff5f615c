"""What an experiment is, in full: written beside its results, so that they can be made again."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gradaxis.diagnostics.points import ENGINE, FRESH, INNER, PERTURBED, STALE
from gradaxis.diagnostics.sizes import parse_memory

EMBEDDED = "embedded:"
"""Models whose name begins so ship with the package: `embedded:policy`, `:reference`, `:stale`, `:teacher`."""

EXACT_CRITIC = "exact"
"""The critic that lists all answers of a small policy and knows their expected reward."""


class ExperimentConfig(BaseModel):
    """One experiment. Model fields hold a folder, a hub id, a GGUF file or an embedded name; None leaves the model out.

    Attributes:
        policy: the model at which gradients are taken. None needs `rollouts`, and gives what these alone can tell.
        behavior: an older model; adds the point `stale`, with rollouts sampled from it. Several, with commas between
            them, add `stale-1`, `stale-2` and so on, in the order of their measured drift.
        drift: sizes of relative noise on the weights; each adds a point `perturbed-SIZE` sampled from such a copy.
        engine: precisions or quantisations of the sampling engine; each adds a point `engine-NAME`.
        reference, teacher, critic: supply `ref_logp`, `teacher_logp` and `value`. `critic="exact"` enumerates.
        task, reward: as for `load_task`.
        rollouts: a file of rollouts instead of sampling.
        prompts, group_size, groups: P, G, and groups a prompt. max_new_tokens: None takes the task's. plain: prompts as
            plain text although there is a chat template.
        methods: one line of ids, files and overrides. probes: names, or `all`.
        functionals: `file.py:function` each, numbers of an answer whose change is forecast.
        training_log: a CSV or JSON Lines file with the entropy and the reward of earlier checkpoints.
        fresh: whether the point `fresh` is measured.
        inner_step: k > 0 adds the point `inner-step-k`: k Adam steps of `inner_method` at `inner_rate` on a copy of the
            policy, with other rollouts than those that are measured.
        params: which parameters count (`all`, `lora` or a pattern). mode, columns: of the Gram matrix.
        prompts_per_step, minibatch, microbatch: the user's own training run: prompts an advantage is computed over, and
            sequences an optimizer step and a forward pass.
        optimizer_state: a file of Adam's second moments, by which inner products are weighed.
        memory: bytes that the process may hold at most (on a GPU: in tensors); `6GB` is read too.
        enumerate: whether small policies are enumerated, so that the target of bias is exact.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str | None = None
    behavior: str | None = None
    drift: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    engine: tuple[Literal["bfloat16", "float16", "int8"], ...] = ()
    reference: str | None = None
    teacher: str | None = None
    critic: str | None = None
    task: str | None = None
    reward: str | None = None
    rollouts: str | None = None
    prompts: int = Field(default=24, ge=1)
    group_size: int = Field(default=8, ge=1)
    groups: int = Field(default=1, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    plain: bool = False
    methods: str = "all"
    probes: tuple[str, ...] = ("all",)
    functionals: tuple[str, ...] = ()
    training_log: str | None = None
    fresh: bool = True
    inner_step: int = Field(default=0, ge=0)
    inner_method: str = "grpo"
    inner_rate: float = Field(default=1e-5, gt=0)
    prompts_per_step: int | None = Field(default=None, ge=1)
    minibatch: int | None = Field(default=None, ge=1)
    microbatch: int | None = Field(default=None, ge=1)
    optimizer_state: str | None = None
    params: str = "all"
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    mode: Literal["auto", "exact", "projected"] = "auto"
    columns: int = Field(default=8192, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    memory: Annotated[int | None, BeforeValidator(parse_memory)] = Field(default=None, ge=1)
    enumerate: bool = True
    gguf_file: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @classmethod
    def demo(cls, **changes: Any) -> ExperimentConfig:
        """All methods on the embedded models, fresh and stale."""
        chosen: dict[str, Any] = {
            "policy": "embedded:policy", "behavior": "embedded:stale", "reference": "embedded:reference",
            "teacher": "embedded:teacher", "critic": EXACT_CRITIC, "task": "arithmetic",
            "groups": 4,
        }  # fmt: skip
        return cls(**{**chosen, **changes})

    @property
    def behaviors(self) -> tuple[str, ...]:
        """The older models by name, as given."""
        return tuple(dict.fromkeys(name.strip() for name in (self.behavior or "").split(",") if name.strip()))

    @property
    def points(self) -> tuple[str, ...]:
        """The points of the update that will be sampled, fresh first, then by growing drift."""
        points = [FRESH] if self.fresh else []
        count = len(self.behaviors)
        points += [STALE] if count == 1 else [f"{STALE}-{place + 1}" for place in range(count)]
        points += [f"{PERTURBED}{size:g}" for size in sorted(set(self.drift))]
        points += [f"{ENGINE}{name}" for name in dict.fromkeys(self.engine)]
        return (*points, *([f"{INNER}{self.inner_step}"] if self.inner_step else []))

    @property
    def fingerprint(self) -> str:
        """A hash over every field; equal for two configurations that ask for the same."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
