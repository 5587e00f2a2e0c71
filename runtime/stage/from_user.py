"""From what users call their stages to the plan's stages. In comes a dict, a list of modules or
torch's `PipelineStage` objects, and the loss; out comes a `StageModule` for every stage of this
rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_program import RankPlan
from stretto.runtime.stage.carried import slice_memory
from stretto.runtime.stage.judge import LossFunction
from stretto.runtime.stage.overlapped import overlapped_call
from stretto.runtime.stage.own_weight_gradients import own_weight_gradients
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.stage.wrappers import unwrapped
from stretto.runtime.topology import StageGraph, StageId

Given = Mapping[Any, Any] | Sequence[Any]
"""A user's stages: modules by `(pipeline, stage)` or by stage, or in order; or `PipelineStage`s."""

Loss = LossFunction | Mapping[str, LossFunction] | None
"""A user's loss: one for all pipelines, or by the pipeline's name."""


def stage_modules(plan: RankPlan, given: Given, loss: Loss) -> dict[StageId, StageModule]:
    """Every stage of this rank. Raises `PipelineError` where a stage or a loss is missing, or one
    too many."""
    spec, graph = plan.spec, plan.graph
    modules = _modules(plan, given)
    items = given.values() if isinstance(given, Mapping) else given
    builders = {id(_module(item)): getattr(item, "dw_builder", None) for item in items}
    if len({id(module) for module in modules.values()}) < len(modules):
        raise PipelineError(
            f"rank {plan.rank} was given one module for two stages: each needs its own"
        )
    found = {}
    for stage, module in modules.items():
        p = stage.pipeline
        judged, returns = graph.ends_in_loss(stage), not graph.users[stage]
        module, ddp = unwrapped(module, f"`{graph.label(stage)}`")
        found[stage] = StageModule(
            stage=stage,
            name=graph.label(stage),
            module=module,
            sources=tuple(graph.sources[stage]),
            gradient_senders=tuple(graph.gradient_senders[stage]),
            returns=returns,
            sends=not returns,
            learns=not spec.pipelines[p].forward_only,
            loss=loss_of(graph, p, loss) if judged or returns else None,
            overlapped=overlapped_call(module),
            own=own_weight_gradients(module, builders.get(id(module))),
            memory=slice_memory(module, graph.label(stage), spec.slices),
            ddp=ddp,
        )
        if judged and found[stage].loss is None:
            raise PipelineError(
                f"rank {plan.rank} has `{found[stage].name}`, which ends in the loss: give loss_fn"
            )
    return found


def device_of(given: Given) -> torch.device:
    """Where the stages' parameters are; the CPU where there are none."""
    values = given.values() if isinstance(given, Mapping) else given
    for module in map(_module, values):
        for parameter in module.parameters() if isinstance(module, nn.Module) else ():
            return parameter.device
    return torch.device("cpu")


def loss_of(graph: StageGraph, pipeline: int, given: Loss) -> LossFunction | None:
    """The loss of the pipeline: the only one, or its model's entry."""
    if not isinstance(given, Mapping):
        return given
    return given.get(graph.spec.pipelines[graph.original(pipeline)].name)


def _modules(plan: RankPlan, given: Given) -> dict[StageId, nn.Module]:
    stages = plan.stages
    if isinstance(given, Mapping):
        found = {_stage(plan, key): _module(value) for key, value in given.items()}
    elif any(hasattr(item, "stage_index") for item in given):
        found = {_stage(plan, item.stage_index): _module(item) for item in given}
    else:
        if len(given) != len(stages):
            raise PipelineError(
                f"rank {plan.rank} has {len(stages)} stages, {_names(plan, stages)}, and was given "
                f"{len(given)} modules"
            )
        found = dict(zip(stages, map(_module, given), strict=True))
    absent = [stage for stage in stages if stage not in found]
    if absent:
        raise PipelineError(f"rank {plan.rank} was given no module for {_names(plan, absent)}")
    wrong = [stage for stage, module in found.items() if not isinstance(module, nn.Module)]
    if wrong:
        kind = type(found[wrong[0]]).__name__
        raise PipelineError(f"`{plan.graph.label(wrong[0])}` is a {kind}, not an nn.Module")
    return {stage: found[stage] for stage in stages}


def _stage(plan: RankPlan, key: Any) -> StageId:
    """The stage of this rank that `("down", 3)` or `3` means."""
    spec, stages = plan.spec, plan.stages
    if isinstance(key, tuple) and len(key) == 2:
        fits = [s for s in stages if (spec.pipelines[s.pipeline].name, s.stage) == key]
    else:
        fits = [s for s in stages if s.stage == key]
    if len(fits) == 1:
        return fits[0]
    if fits:
        name = spec.pipelines[fits[0].pipeline].name
        raise PipelineError(
            f"rank {plan.rank} has {_names(plan, fits)}: say which, as in `({name!r}, {key})`"
        )
    raise PipelineError(
        f"rank {plan.rank} was given a module for stage {key!r}, but has {_names(plan, stages)}"
    )


def _module(item: Any) -> Any:
    """The module of a `PipelineStage`; anything else as it is."""
    return getattr(item, "submod", item)


def _names(plan: RankPlan, stages: Sequence[StageId]) -> str:
    if not stages:
        return "no stage"
    return " and ".join(f"`{plan.graph.label(stage)}`" for stage in stages)
