"""Policies: any causal language model of transformers, the embedded checkpoints, and what is exact about small ones."""

from gradaxis.estimators.policies.altered import (
    ENGINES,
    dequantize_channels,
    engine_policy,
    perturbed_policy,
    quantize_channels,
)
from gradaxis.estimators.policies.answer_tree import AnswerTree, build_tree
from gradaxis.estimators.policies.embedded import EMBEDDED, embedded_path, embedded_policy
from gradaxis.estimators.policies.enumeration import Answers, enumerate_answers, list_answers, next_token_logp
from gradaxis.estimators.policies.exact import (
    effective_share,
    exact,
    exact_gradient,
    exact_objective,
    exact_token_entropy,
    exact_values,
    prefix_values,
)
from gradaxis.estimators.policies.functionals import (
    Functional,
    Outcomes,
    answer_entropy,
    expected_length,
    expected_reward,
    mean_step_entropy,
    pass_at_k,
    silent_group_probability,
    success_rate,
)
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy
from gradaxis.estimators.policies.listing import Listing
from gradaxis.estimators.policies.listing_model import list_embedded
from gradaxis.estimators.policies.optimizer_state import SGD, OptimizerState, read_optimizer_state
from gradaxis.estimators.policies.space import Space, build_space
from gradaxis.estimators.policies.tabular import TabularPolicy, list_tabular

__all__ = [
    "EMBEDDED",
    "ENGINES",
    "SGD",
    "AnswerTree",
    "Answers",
    "Functional",
    "HuggingFacePolicy",
    "Listing",
    "OptimizerState",
    "Outcomes",
    "Space",
    "TabularPolicy",
    "answer_entropy",
    "build_space",
    "build_tree",
    "dequantize_channels",
    "effective_share",
    "embedded_path",
    "embedded_policy",
    "engine_policy",
    "enumerate_answers",
    "exact",
    "exact_gradient",
    "exact_objective",
    "exact_token_entropy",
    "exact_values",
    "expected_length",
    "expected_reward",
    "list_answers",
    "list_embedded",
    "list_tabular",
    "mean_step_entropy",
    "next_token_logp",
    "pass_at_k",
    "perturbed_policy",
    "prefix_values",
    "quantize_channels",
    "read_optimizer_state",
    "silent_group_probability",
    "success_rate",
]
