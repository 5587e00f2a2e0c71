"""The training loop of `python -m stretto.runtime`. In comes what was asked for on the command
line; a rank builds its stages from the user's model and takes the steps; out comes what came of
it."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stretto.compiler.plan.plan import read_plan
from stretto.runtime.batch import mapped
from stretto.runtime.coordination.store import Store
from stretto.runtime.errors import PipelineError
from stretto.runtime.executor import Executor
from stretto.runtime.rank_program import RankPlan, plan_for_rank
from stretto.runtime.topology import StageId
from stretto.runtime.train.find import find
from stretto.runtime.train.model import Data, Models
from stretto.runtime.train.progress import ProgressLog
from stretto.runtime.train.verify import verify
from stretto.runtime.transport import Transport

VERIFY_TIMEOUT = 3600.0  # seconds that rank 0 may take to compute a step alone


class TrainingJob(NamedTuple):
    """What was asked for on the command line: the path of the plan, `MODULE:NAME` of model and
    data, the number of steps, whether to verify the first and to trust the plan, and the timeout in
    seconds."""

    plan: str
    model: str
    data: str | None
    steps: int
    verify: bool
    trust: bool
    timeout: float


class TrainingReport(NamedTuple):
    """Rank 0's: the mean loss of every step, the line that sums it up, and whether the gradients
    were those of one process (None where nobody asked)."""

    losses: list[float]
    summary: str
    verified: bool | None


class RankProcess(NamedTuple):
    """Where a rank runs: its number, the device of its modules, and where it is not an ordinary
    process of a group, its store and transport. `building` is held while modules are built: ranks
    that share a process share its modules and random numbers."""

    rank: int
    device: torch.device
    store: Store | None = None
    transport: Transport | None = None
    building: AbstractContextManager[object] = nullcontext()  # it has no state


def train(job: TrainingJob, here: RankProcess) -> TrainingReport:
    """Trains on one rank. Raises `PipelineError`, and what reading the plan raises."""
    world = here.transport.world if here.transport else dist.get_world_size()
    plan = plan_for_rank(job.plan, here.rank, world)
    with here.building:
        models, data = _models(job, plan), _data(job, plan)
        stages = {stage: models.stage(stage).to(here.device) for stage in plan.stages}
    executor = Executor(
        job.plan,
        {(plan.spec.pipelines[p].name, s): module for (p, s), module in stages.items()},
        models.loss(),
        transport=here.transport,
        store=here.store,
        timeout=job.timeout,
        trust=job.trust,
        scale_loss=models.scale_loss(),
    )
    optimizers = models.optimizers(stages)
    progress = ProgressLog(job.steps, executor)
    verified = None
    for step in range(1, job.steps + 1):
        x, target = _batch(data, step, here.device)
        losses: dict[str, list[Tensor]] = {}
        if job.verify and step == 1:
            verified = _verified(job, here, executor, models, (x, target), losses)
        else:
            executor.step(x, target=target, losses=losses, return_outputs=False)
        progress.add(step, x, losses)
        if verified is False:
            break
        for optimizer in optimizers:
            _update(optimizer, f"--model {job.model}", step)
    executor.close()
    return TrainingReport(progress.losses, progress.summary(), verified)


def _models(job: TrainingJob, plan: RankPlan) -> Models:
    models = Models(plan.spec, find(job.model, "model"), f"--model {job.model}")
    for p in plan.graph.judged():
        if models.of[plan.graph.original(p)].loss is None:
            raise PipelineError(f"--model {job.model} has no loss(output, target) to train with")
    return models


def _data(job: TrainingJob, plan: RankPlan) -> Data:
    if "train" not in plan.programs or all(p.forward_only for p in plan.spec.pipelines):
        raise PipelineError("this plan has only its forwards, and so nothing to train with")
    data: Data | None = find(job.data, "data") if job.data else _models(job, plan).data()
    if not callable(data):
        raise PipelineError(
            "training needs data: --data MODULE:NAME, a function step -> (x, target), the same on "
            "every rank"
            if data is None
            else f"--data {job.data} is a {type(data).__name__}, not a function step -> (x, target)"
        )
    return data


def _batch(data: Data, step: int, device: torch.device) -> tuple[Any, Any]:
    try:
        x, target = data(step)
    except Exception as error:
        raise PipelineError(
            f"--data fails at step {step}: {type(error).__name__}: {error}"
        ) from error
    return mapped(lambda t: t.to(device), x), mapped(lambda t: t.to(device), target)


def _verified(
    job: TrainingJob,
    here: RankProcess,
    executor: Executor,
    models: Models,
    batch: tuple[Any, Any],
    losses: dict[str, list[Tensor]],
) -> bool:
    """Takes the step and compares it with one process's; rank 0's verdict, on all ranks."""
    x, target = batch

    def build(stage: StageId) -> nn.Module:
        with here.building:
            return models.stage(stage).to(here.device)

    whole = read_plan(job.plan) if here.rank == 0 else None
    verdict = verify(executor, whole, build, models.loss(), x, target, losses)
    store = executor.peers.store
    if verdict is not None:
        print(verdict, file=sys.stderr, flush=True)
        store.post("verified", verdict.equal)
    return bool(store.wait(["verified"], VERIFY_TIMEOUT)[0])


def _update(optimizer: torch.optim.Optimizer, label: str, step: int) -> None:
    try:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    except Exception as error:
        raise PipelineError(
            f"{label}: its optimizer fails at step {step}: {type(error).__name__}: {error}"
        ) from error
