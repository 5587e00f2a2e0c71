"""Checkpoints of `stretto run`. In comes a training with its state, out comes a folder from which
another process goes on as if nothing had happened: weights, optimizers, schedulers, scaler, random
numbers, the position in the data, and what the user's model and data keep themselves."""

import os
from collections.abc import Mapping
from typing import Any

from stretto.runtime import checkpoint
from stretto.runtime.aloud import say
from stretto.runtime.checkpoint.contents import Stateful
from stretto.runtime.errors import PipelineError
from stretto.runtime.train.build import RankTraining
from stretto.runtime.train.state import TrainingState


class SavedState:
    """A `TrainingState` as a checkpoint keeps it."""

    def __init__(self, state: TrainingState):
        self.state = state

    def state_dict(self) -> dict[str, int]:
        """The state's numbers."""
        return self.state._asdict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes there."""
        self.state = TrainingState(**state)


def resumed(training: RankTraining) -> TrainingState:
    """Where the training begins: at the newest checkpoint, if the job asks for it and there is one,
    or if torchrun has started the ranks anew. Raises `PipelineError` where it does not fit, and
    where a training that begins anew is given the folder of another."""
    job, position = training.job, SavedState(TrainingState())
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if job.checkpoint is None:
        return position.state
    if not (job.resume or again):
        _refuse_others(job.checkpoint)
        return position.state
    training.executor.activity.doing = "reads its checkpoint"
    step = checkpoint.load(
        training.executor,
        job.checkpoint,
        [one.optimizer for one in training.stepping],
        extra=_extra(training, position),
        own=_own(training),
    )
    if training.here.rank == 0:
        say(
            f"no checkpoint in {job.checkpoint} yet: the training begins at step 1"
            if step is None
            else f"going on from the checkpoint of step {step} in {job.checkpoint}"
        )
    return position.state


def _refuse_others(folder: str) -> None:
    """A training that begins anew would count its checkpoints among those of another, and remove
    the wrong ones."""
    if (step := checkpoint.latest(folder)) is not None:
        raise PipelineError(
            f"{folder} has a checkpoint of step {step}: go on from it with --resume, or name "
            "another folder"
        )


def save_when_due(training: RankTraining, state: TrainingState) -> None:
    """Writes a checkpoint after every so many steps, and after the last. Raises `PipelineError`
    where it cannot be written."""
    job = training.job
    if job.checkpoint is None:
        return
    if state.step != job.steps and (not job.checkpoint_every or state.step % job.checkpoint_every):
        return
    training.executor.activity.doing = f"writes the checkpoint of step {state.step}"
    checkpoint.save(
        training.executor,
        job.checkpoint,
        state.step,
        [one.optimizer for one in training.stepping],
        extra=_extra(training, SavedState(state)),
        own=_own(training),
        keep=job.keep,
    )


def _extra(training: RankTraining, position: SavedState) -> dict[str, Stateful]:
    """What is the same on every rank that has it."""
    found: dict[str, Any] = {"position": position}
    for one in training.stepping:
        if one.scheduler is not None:
            found[f"scheduler.{one.name}"] = one.scheduler
    if training.scaler is not None:
        found["scaler"] = training.scaler
    if _keeps_state(training.data):
        found["data"] = training.data
    return found


def _own(training: RankTraining) -> dict[str, Stateful]:
    """What the user's models keep on this rank."""
    found: dict[str, Any] = {}
    for number, model in enumerate(training.models.of.values()):
        if model.state_dict is not None and model.load_state_dict is not None:
            found[f"model{number}"] = model
    return found


def _keeps_state(one: object) -> bool:
    return callable(getattr(one, "state_dict", None)) and callable(
        getattr(one, "load_state_dict", None)
    )
