"""Policies: any causal language model of transformers, the embedded checkpoints, and what is exact about small ones."""

from gradaxis.estimators.policies.answer_tree import AnswerTree, build_tree
from gradaxis.estimators.policies.embedded import EMBEDDED, embedded_path, embedded_policy
from gradaxis.estimators.policies.enumeration import Answers, enumerate_answers, list_answers, next_token_logp
from gradaxis.estimators.policies.exact import (
    answer_entropy,
    effective_share,
    exact,
    exact_gradient,
    exact_objective,
    exact_token_entropy,
    exact_values,
    expected_length,
    expected_reward,
    mean_step_entropy,
    prefix_values,
    silent_group_probability,
    success_rate,
)
from gradaxis.estimators.policies.hugging_face import HuggingFacePolicy

__all__ = [
    "EMBEDDED",
    "AnswerTree",
    "Answers",
    "HuggingFacePolicy",
    "answer_entropy",
    "build_tree",
    "effective_share",
    "embedded_path",
    "embedded_policy",
    "enumerate_answers",
    "exact",
    "exact_gradient",
    "exact_objective",
    "exact_token_entropy",
    "exact_values",
    "expected_length",
    "expected_reward",
    "list_answers",
    "mean_step_entropy",
    "next_token_logp",
    "prefix_values",
    "silent_group_probability",
    "success_rate",
]
