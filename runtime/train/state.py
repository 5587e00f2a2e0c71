"""Where a training stands between two steps. In comes nothing but numbers: with the weights, and
what optimizers, schedulers, scaler and random generators keep, it is all that a training needs to
go on as if it had not stopped."""

from typing import NamedTuple


class TrainingState(NamedTuple):
    """`step`: updates of the weights so far; `batch`: batches that were taken from the data, which
    is asked for the next by its number, `batch + 1`. The same on all ranks."""

    step: int = 0
    batch: int = 0

    def after(self, batches: int) -> "TrainingState":
        """The state after one more step, of so many batches."""
        return TrainingState(self.step + 1, self.batch + batches)
