import pytest
import torch

from gradaxis.errors import GradaxisError
from gradaxis.estimators.rollouts.micro_batches import in_micro_batches


def test_pieces_halve_until_they_fit_and_nothing_is_lost() -> None:
    tried = []

    def run(piece):
        tried.append(len(piece))
        if len(piece) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * 10 for item in piece]

    done = [value for _, result in in_micro_batches(run, range(10), 10) for value in result]
    assert done == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert tried == [10, 5, 2, 2, 2, 2, 2]  # the size that fits is kept


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_one_item_that_does_not_fit_is_an_error(error: Exception) -> None:
    def run(piece):
        raise error

    with pytest.raises(GradaxisError, match=r"one sequence at a time"):
        list(in_micro_batches(run, range(4), 4))


def test_other_errors_pass() -> None:
    def run(piece):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_micro_batches(run, range(4), 4))
