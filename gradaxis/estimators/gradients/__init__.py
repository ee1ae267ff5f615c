"""Gradients of policies: patterns, Gram matrices, the self-test and the instrumented gradient."""

from gradaxis.estimators.gradients.choice import Choice
from gradaxis.estimators.gradients.gram import Gram, compute_gram
from gradaxis.estimators.gradients.instrumented import gradient_of
from gradaxis.estimators.gradients.patterns import Patterns, build_patterns
from gradaxis.estimators.gradients.positions import position_buckets, split_by_position
from gradaxis.estimators.gradients.self_test import self_test

__all__ = [
    "Choice",
    "Gram",
    "Patterns",
    "build_patterns",
    "compute_gram",
    "gradient_of",
    "position_buckets",
    "self_test",
    "split_by_position",
]
