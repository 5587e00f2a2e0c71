"""From what was asked for to what a rank trains with: the user's models and data, the modules of
its stages, and an executor over them. Everything of the user's that is missing or of the wrong kind
is told here, before the first step."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from stretto.runtime.aloud import caution
from stretto.runtime.errors import PipelineError
from stretto.runtime.executor import Executor
from stretto.runtime.rank_program import RankPlan, plan_for_rank
from stretto.runtime.scaler import GradScaler
from stretto.runtime.topology import StageId
from stretto.runtime.train.find import find
from stretto.runtime.train.job import RankProcess, TrainingJob
from stretto.runtime.train.model import Data, Models
from stretto.runtime.train.optimizers import Stepping, stepping_of
from stretto.runtime.train.separate import unshared


class RankTraining(NamedTuple):
    """What a rank trains with: the job and where it runs; the models and data of the user; the
    executor over its stages' modules; what steps their parameters, and the scaler of losses where
    there is one. The values change as they train; which they are does not."""

    job: TrainingJob
    here: RankProcess
    models: Models
    data: Data
    eval_data: Iterable[Any] | None
    executor: Executor
    modules: dict[StageId, nn.Module]
    stepping: list[Stepping]
    scaler: GradScaler | None

    def precision(self) -> AbstractContextManager[object]:
        """Around steps and evaluations: forwards in lower precision, where that was asked for."""
        if self.job.amp is None:
            return nullcontext()
        return torch.autocast(self.here.device.type, getattr(torch, self.job.amp))

    def keys(self) -> dict[tuple[str, int], nn.Module]:
        """The modules by the name of the pipeline and the number of the stage."""
        return by_name(self.executor.plan, self.modules)


def build(job: TrainingJob, here: RankProcess) -> RankTraining:
    """Builds all that a rank needs. Raises `PipelineError`, and what reading the plan raises."""
    world = here.transport.world if here.transport else dist.get_world_size()
    plan = plan_for_rank(job.plan, here.rank, world)
    with here.building:
        models = _models(job, plan)
        data, eval_data = _data(job, models, plan), _eval_data(job, models, plan)
        modules = {stage: stage_of(job, here, models, stage) for stage in plan.stages}
        modules = unshared(modules, here.taken)
        seed(job, f"rank/{here.rank}")
    if here.early is not None:
        here.early.built()

    def build_stage(pipeline: str, stage: int) -> nn.Module:
        with here.building:
            return stage_of(job, here, models, models.named(pipeline, stage))

    executor = Executor(
        job.plan,
        by_name(plan, modules),
        models.loss(),
        transport=here.transport,
        store=here.store,
        timeout=job.timeout,
        trust=job.trust,
        check_messages=job.check_messages,
        scale_loss=models.scale_loss(),
        on_nonfinite="stop" if job.on_nonfinite == "stop" else caution,
        ties=models.ties(),
        build_stage=build_stage,
    )
    if here.early is not None:
        here.early.made(executor)
    models.refuse_optimizers(executor.plan.spec.ties)
    stepping = stepping_of(models, modules, here.rank, executor.plan.spec.ties)
    scaler = GradScaler(executor) if job.amp == "float16" else None
    return RankTraining(job, here, models, data, eval_data, executor, modules, stepping, scaler)


def stage_of(job: TrainingJob, here: RankProcess, models: Models, stage: StageId) -> nn.Module:
    """The module of the stage, on the rank's device. Where there is a seed its weights depend on
    that and its place in the model, not on the rank."""
    seed(job, f"stage/{models.graph.original(stage.pipeline)}/{stage.stage}")
    return models.stage(stage).to(here.device)


def seed(job: TrainingJob, what: str) -> None:
    """Starts torch's random numbers anew, at a place that the seed and `what` choose; without a
    seed does nothing."""
    if job.seed is not None:
        torch.manual_seed(Random(f"{job.seed}/{what}").getrandbits(63))


def by_name(plan: RankPlan, modules: dict[StageId, nn.Module]) -> dict[tuple[str, int], nn.Module]:
    """The modules as `Executor` takes them."""
    return {(plan.spec.pipelines[p].name, s): module for (p, s), module in modules.items()}


def _models(job: TrainingJob, plan: RankPlan) -> Models:
    models = Models(plan.spec, find(job.model, "model"), f"--model {job.model}")
    for p in plan.graph.judged():
        if models.of[plan.graph.original(p)].loss is None:
            raise PipelineError(f"--model {job.model} has no loss(output, target) to train with")
    return models


def _data(job: TrainingJob, models: Models, plan: RankPlan) -> Data:
    if "train" not in plan.programs or all(p.forward_only for p in plan.spec.pipelines):
        raise PipelineError("this plan has only its forwards, and so nothing to train with")
    data: Data | None = find(job.data, "data") if job.data else models.data()
    if not callable(data):
        raise PipelineError(
            "training needs data: --data MODULE:NAME, a function step -> (x, target), the same on "
            "every rank"
            if data is None
            else f"--data {job.data} is a {type(data).__name__}, not a function step -> (x, target)"
        )
    return data


def _eval_data(job: TrainingJob, models: Models, plan: RankPlan) -> Any:
    found = find(job.eval_data, "eval-data") if job.eval_data else models.eval_data()
    if job.eval_every is None:
        return None
    if plan.no_evaluation:
        raise PipelineError(f"--eval-every: the plan has no evaluation: {plan.no_evaluation}")
    if found is None:
        raise PipelineError(
            "--eval-every needs data: --eval-data MODULE:NAME, batches of (x, target) or a "
            "function that gives them, the same on every rank; or the model's own eval_data"
        )
    if not callable(found) and not isinstance(found, Iterable):
        raise PipelineError(
            f"the evaluation data is a {type(found).__name__}: give batches of (x, target), a list "
            "or a loader, or a function that gives them"
        )
    return found
