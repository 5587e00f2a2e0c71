"""Which stages a rank holds, before any of them is built: in comes a plan or its file, out come
the stages' names as `Executor` takes them. Nothing here needs a process group."""

import os
from typing import NamedTuple

from stretto.compiler.plan.plan import Plan, read_rank
from stretto.compiler.program.program import Spec
from stretto.runtime.errors import PipelineError
from stretto.runtime.topology import StageGraph


class HeldStage(NamedTuple):
    """The key of a stage's module in the dict that `Executor` takes: the pipeline's name and the
    stage's number in it, from 0. Equal to the plain tuple."""

    pipeline: str
    stage: int


def stages_of(plan: Plan | str | os.PathLike[str], rank: int) -> list[HeldStage]:
    """The stages that the rank of the plan holds, by ascending stage, copies and frozen models
    included; empty where it holds none. Each may be built alone:
    `{key: build(key.stage) for key in stages_of(plan, rank)}`.

    Raises `PipelineError` where the plan has no such rank, `Rejected` and `OSError` where the file
    is no plan.
    """
    spec = _spec(plan)
    if not 0 <= rank < spec.ranks:
        raise PipelineError(
            f"the plan has ranks 0 to {spec.ranks - 1}, not {rank}: start {spec.ranks} "
            f"(`torchrun --nproc-per-node {spec.ranks} …`), or compile it with `--set ranks=N` for "
            "N of them"
        )
    return [HeldStage(spec.pipelines[p].name, s) for p, s in StageGraph(spec).on_rank(rank)]


def stage_counts(plan: Plan | str | os.PathLike[str]) -> dict[str, int]:
    """How many stages each pipeline of the plan has, by its name. Raises as `stages_of`."""
    return {pipeline.name: len(pipeline.stages) for pipeline in _spec(plan).pipelines}


def _spec(plan: Plan | str | os.PathLike[str]) -> Spec:
    if isinstance(plan, Plan):
        return next(iter(plan.programs.values())).spec
    return read_rank(plan, 0)[0].spec
