"""One update of the weights: what happens between the backwards of a step and the next one. In come
gradients, out come moved weights, learning rates of the next step, and what is to be said of it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stretto.runtime.aloud import caution
from stretto.runtime.clip import clip_grad_norm_, get_total_norm
from stretto.runtime.errors import NonFiniteError, words_of
from stretto.runtime.train.build import RankTraining
from stretto.runtime.train.user_code import user_code


class StepDone(NamedTuple):
    """What `Model.after_step` is given, on every rank: the step (from 1) and the rank; the modules
    of the rank's stages by the name of the pipeline and the number of the stage, with their new
    weights; their optimizers; the norm of all gradients before they were clipped, the same on all
    ranks (None where nobody asked); and whether the optimizers were skipped, on all ranks, because
    a scaled gradient was not finite."""

    step: int
    rank: int
    modules: dict[tuple[str, int], nn.Module]
    optimizers: list[torch.optim.Optimizer]
    norm: Tensor | None
    skipped: bool


def update(training: RankTraining, step: int) -> StepDone:
    """Clips, steps every optimizer and scheduler, clears the gradients, and calls the model's
    `after_step`. Raises `NonFiniteError` where gradients are none and that is to stop, and
    `PipelineError` where code of the user fails."""
    norm = _norm(training, step)
    scaler, rank, label = training.scaler, training.here.rank, training.models.label
    if scaler is not None:
        scaler.agree()
    skipped = scaler is not None and scaler.skipped
    for optimizer, scheduler, _ in training.stepping:
        with user_code(f"{label}: its optimizer", rank, step):
            if not skipped:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if scheduler is not None and not skipped:
            with user_code(f"{label}: its scheduler", rank, step):
                scheduler.step()
    if scaler is not None:
        scaler.update()
    optimizers = [one.optimizer for one in training.stepping]
    done = StepDone(step, rank, training.keys(), optimizers, norm, skipped)
    for model in training.models.of.values():
        if model.after_step is not None:
            with user_code(f"{label}: its after_step", rank, step):
                model.after_step(done)
    return done


def _norm(training: RankTraining, step: int) -> Tensor | None:
    """The norm of all gradients, clipped where that was asked for. Where losses are scaled an
    overflow is no mistake; else it ends the training, or is told."""
    job, executor = training.job, training.executor
    stops = training.scaler is None
    try:
        if job.clip is not None:
            return clip_grad_norm_(executor, job.clip, error_if_nonfinite=stops)
        return get_total_norm(executor, error_if_nonfinite=True) if stops else None
    except NonFiniteError as error:
        message = f"step {step}: {words_of(error)}"
        if job.on_nonfinite == "stop":
            raise NonFiniteError(message) from None
        if training.here.rank == 0:
            caution(message)
        return clip_grad_norm_(executor, job.clip) if job.clip is not None else None
