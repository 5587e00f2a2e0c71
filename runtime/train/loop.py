"""The training loop of `python -m stretto.runtime`. In comes what was asked for on the command
line; a rank builds its stages from the user's model and takes the steps; out comes what came of
it."""

from typing import Any

from torch import Tensor, nn

from stretto.compiler.plan.plan import read_plan
from stretto.runtime.aloud import say
from stretto.runtime.copies import check_copies
from stretto.runtime.topology import StageId
from stretto.runtime.train.batches import next_batch
from stretto.runtime.train.build import RankTraining, build, stage_of
from stretto.runtime.train.evaluate import evaluate
from stretto.runtime.train.job import RankProcess, TrainingJob, TrainingReport
from stretto.runtime.train.progress import BatchLosses, ProgressLog
from stretto.runtime.train.resume import resumed, save_when_due
from stretto.runtime.train.separate import unshared
from stretto.runtime.train.update import update
from stretto.runtime.train.verify import verify
from stretto.runtime.train.weights import weight_totals

VERIFY_TIMEOUT = 3600.0  # seconds that rank 0 may take to compute a step alone
LossesByName = dict[str, list[Tensor]]


def train(job: TrainingJob, here: RankProcess) -> TrainingReport:
    """Trains on one rank. Raises `PipelineError`, and what reading the plan raises."""
    training = build(job, here)
    progress = ProgressLog(job, training.executor)
    first, verified = resumed(training), None
    state = first
    while state.step < job.steps:
        batches = [next_batch(training, state, ahead) for ahead in range(job.accumulate)]
        total, losses = weight_totals(training, batches), []
        training.executor.activity.called = f"step {state.step + 1}"
        for batch in batches:
            if job.verify and verified is None:
                found, verified = _verified(training, batch, total)
            else:
                found = _step(training, batch, total)
            losses.append(BatchLosses(found, training.executor.shares))
        progress.add(state.step + 1, losses, [x for x, _ in batches])
        if verified is False:
            break
        training.executor.activity.doing = f"updates its weights at step {state.step + 1}"
        training.executor.activity.busy = True  # ends when another rank fails
        update(training, state.step + 1)
        if state == first or state.step + 1 == job.steps:
            check_copies(training.executor)
        state = state.after(len(batches))
        if job.eval_every is not None and state.step % job.eval_every == 0:
            evaluate(training, progress, state.step)
        save_when_due(training, state)
    training.executor.close()
    return TrainingReport(progress.losses, progress.summary(), verified)


def _step(training: RankTraining, batch: tuple[Any, Any], total: Any) -> LossesByName:
    """Adds the gradients of one batch."""
    x, target = batch
    losses: LossesByName = {}
    with training.precision():
        training.executor.step(
            x, target=target, losses=losses, return_outputs=False, weight_total=total
        )
    return losses


def _verified(
    training: RankTraining, batch: tuple[Any, Any], total: Any
) -> tuple[LossesByName, bool]:
    """As `_step`, compared with one process's; rank 0's verdict, on all ranks."""
    job, here, executor = training.job, training.here, training.executor
    losses: LossesByName = {}

    def again(stage: StageId) -> nn.Module:
        with here.building:
            module = stage_of(job, here, training.models, stage)
            return unshared({stage: module}, here.taken)[stage]

    whole = read_plan(job.plan) if here.rank == 0 else None
    judge = training.models.loss()
    with training.precision():
        verdict = verify(executor, whole, again, judge, *batch, losses, weight_total=total)
    store = executor.peers.store
    if verdict is not None:
        say(str(verdict))
        store.post("verified", verdict.equal)
    return losses, bool(store.wait(["verified"], VERIFY_TIMEOUT)[0])
