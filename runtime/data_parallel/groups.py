"""Over which processes a stage's gradients are averaged. In come a stage's module, what was around
it and the user's `replicas`; out comes how it is synchronized, with its process groups. What is
synchronized in part only is refused, by name."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import nn

from stretto.runtime.data_parallel.mean import MeanOverReplicas
from stretto.runtime.data_parallel.sharded import ShardedStage
from stretto.runtime.errors import PipelineError
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.stage.wrappers import sharded_parts

Synchronizer = MeanOverReplicas | ShardedStage
"""One way to synchronize a stage: `begin`, `works`, `finish`, `abandon`."""


class Synchronized(NamedTuple):
    """How a stage is synchronized, and the groups over which; nothing for a stage without replicas.
    `broadcast`: whether the replicas' weights are made equal at the start (torch has done it for
    its wrappers)."""

    ways: list[Synchronizer]
    groups: list[dist.ProcessGroup]
    broadcast: bool


def group_of(replicas: Any) -> dist.ProcessGroup | None:
    """The process group that the user means: one, or a dimension of a `DeviceMesh`. Raises
    `PipelineError` where it is something else."""
    if replicas is None or isinstance(replicas, dist.ProcessGroup):
        return replicas
    if hasattr(replicas, "get_group") and hasattr(replicas, "ndim"):
        if replicas.ndim != 1:
            raise PipelineError(
                f"`replicas` is a mesh of {replicas.ndim} dimensions: give one of them, as "
                "`mesh['dp']`"
            )
        group: dist.ProcessGroup = replicas.get_group()
        return group
    raise PipelineError(
        f"`replicas` is a {type(replicas).__name__}: give a process group, or a dimension of a "
        "DeviceMesh, as `mesh['dp']`"
    )


def synchronized(
    stage: StageModule, replicas: dist.ProcessGroup | None, taken: set[int]
) -> Synchronized:
    """How the stage is synchronized. `taken` has the ids of parameters that are averaged with
    another stage of this rank, which is done with them later. Raises `PipelineError`."""
    parameters = _averaged(stage, taken)
    parts = sharded_parts(stage.module)
    if parts and stage.ddp is not None:
        raise PipelineError(
            f"`{stage.name}` is wrapped in DistributedDataParallel and its parts by `fully_shard`: "
            "use one of them (`fully_shard` over a mesh of two dimensions replicates too)"
        )
    if parts:
        return _sharded(stage, parts, parameters, replicas)
    if stage.ddp is not None:
        group: dist.ProcessGroup = stage.ddp.process_group  # pyright: ignore[reportAssignmentType]
        _refuse_two_groups(stage, group, replicas)
        return Synchronized([MeanOverReplicas(parameters, group)], [group], False)
    if replicas is not None:
        return Synchronized([MeanOverReplicas(parameters, replicas)], [replicas], True)
    return Synchronized([], [], False)


def _averaged(stage: StageModule, taken: set[int]) -> list[nn.Parameter]:
    ignored = set() if stage.ddp is None else set(stage.ddp.parameters_to_ignore)
    return [
        parameter
        for name, parameter in stage.module.named_parameters()
        if id(parameter) not in taken and name not in ignored
    ]


def _sharded(
    stage: StageModule,
    parts: Sequence[nn.Module],
    parameters: Sequence[nn.Parameter],
    replicas: dist.ProcessGroup | None,
) -> Synchronized:
    sharded = ShardedStage(parts)
    own = sharded.parameter_ids()
    rest = [p for p in parameters if id(p) not in own]
    groups = sharded.groups()
    if replicas is not None:
        if not rest:
            _refuse_two_groups(stage, groups[0], replicas if len(groups) == 1 else None)
            return Synchronized([sharded], groups, False)
        return Synchronized([sharded, MeanOverReplicas(rest, replicas)], [*groups, replicas], False)
    names = [name for name, p in stage.module.named_parameters() if any(p is r for r in rest)]
    learning = [
        name for name, p in stage.module.named_parameters() if name in names and p.requires_grad
    ]
    if learning:
        raise PipelineError(
            f"`{stage.name}` has parts that `fully_shard` has sharded, but `{learning[0]}` is in "
            "none of them, and would be trained with one replica's gradient: call `fully_shard` on "
            "the whole stage too, or give the executor `replicas=`"
        )
    return Synchronized([sharded], groups, False)


def _refuse_two_groups(
    stage: StageModule, group: dist.ProcessGroup, replicas: dist.ProcessGroup | None
) -> None:
    """A stage that brings its own group is averaged over that; `replicas` must mean the same."""
    if replicas is None:
        return
    own, given = dist.get_process_group_ranks(group), dist.get_process_group_ranks(replicas)
    if own != given:
        raise PipelineError(
            f"`{stage.name}` is wrapped for processes {_list(own)}, and `replicas` has "
            f"{_list(given)}: give the same, or leave `replicas` out"
        )


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
