"""An evaluation between steps: the forwards of every batch of the evaluation data, by all ranks
together. In come a rank's modules and data, out comes the mean loss, on rank 0."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stretto.runtime.errors import PipelineError
from stretto.runtime.train.batches import on_device
from stretto.runtime.train.build import RankTraining
from stretto.runtime.train.progress import BatchLosses, ProgressLog
from stretto.runtime.train.user_code import user_code


def evaluate(training: RankTraining, progress: ProgressLog, step: int) -> None:
    """Evaluates after a step; rank 0 prints the mean of the losses of all micro-batches. The
    modules are in evaluation mode meanwhile; gradients and random numbers stay as they are. Raises
    `PipelineError` where the data cannot be had."""
    executor, found = training.executor, list[BatchLosses]()
    executor.activity.called = f"the evaluation after step {step}"
    with _evaluating(training):
        for x, target in _batches(training, step):
            losses: dict[str, list[Tensor]] = {}
            with training.precision():
                executor.eval(x, target=target, losses=losses, return_outputs=False)
            found.append(BatchLosses(losses, executor.shares))
    progress.add_evaluation(step, found)


@contextmanager
def _evaluating(training: RankTraining) -> Iterator[None]:
    modes = {
        module: module.training for one in training.modules.values() for module in one.modules()
    }
    devices = [training.here.device] if training.here.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for module in training.modules.values():
            module.eval()
        try:
            yield
        finally:
            _restore(modes)


def _restore(modes: dict[nn.Module, bool]) -> None:
    """Each module's own mode: some of a model may stay in evaluation mode while it trains."""
    for module, mode in modes.items():
        module.training = mode


def _batches(training: RankTraining, step: int) -> Iterator[tuple[Any, Any]]:
    given: Any = training.eval_data
    rank, many = training.here.rank, 0
    with user_code("--eval-data", rank, step):
        batches = iter(given() if callable(given) else given)  # pyright: ignore[reportArgumentType, reportCallIssue]
    while True:
        with user_code("--eval-data", rank, step):
            batch = next(batches, None)
            if batch is None:
                break
            x, target = batch
        many += 1
        yield on_device(training, x), on_device(training, target)
    if not many:
        raise PipelineError("the evaluation data has no batch")
