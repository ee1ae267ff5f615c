"""The rollout batch: its type, its file format, and how one is sampled and scored."""

from gradaxis.estimators.rollouts.batch import Prompt, RolloutBatch, Turns
from gradaxis.estimators.rollouts.checks import check_batch
from gradaxis.estimators.rollouts.files import SCHEMA_VERSION, read_rollouts, write_rollouts

__all__ = ["SCHEMA_VERSION", "Prompt", "RolloutBatch", "Turns", "check_batch", "read_rollouts", "write_rollouts"]
