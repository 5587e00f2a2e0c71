"""The batches of a training, one after the other, on the rank's device."""

from typing import Any

from stretto.runtime.batch import mapped
from stretto.runtime.train.build import RankTraining
from stretto.runtime.train.state import TrainingState
from stretto.runtime.train.user_code import user_code


def next_batch(training: RankTraining, state: TrainingState, ahead: int) -> tuple[Any, Any]:
    """x and target of the batch that comes `ahead` (from 0) after those of the state. Raises
    `PipelineError` where the user's function does not give them."""
    training.executor.activity.doing = f"loads the batch of step {state.step + 1}"
    training.executor.activity.busy = True  # ends when another rank fails
    with user_code("--data", training.here.rank, state.step + 1):
        x, target = training.data(state.batch + ahead + 1)
    return on_device(training, x), on_device(training, target)


def on_device(training: RankTraining, value: Any) -> Any:
    """The value with its tensors where the rank's modules are."""
    return mapped(lambda tensor: tensor.to(training.here.device), value)
