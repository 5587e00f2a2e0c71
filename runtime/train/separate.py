"""Modules of all stages for one process, none of which shares a tensor with another, or with those
that a rank of the executor trains. A model may cut its stages out of one module that it keeps; what
it gives for two stages, or twice for one, then has the same parameters, and a backward of the one
would be seen in the other."""

from collections.abc import Callable
from copy import deepcopy
from itertools import chain

from torch import nn

from stretto.runtime.executor import Executor
from stretto.runtime.topology import StageId


def separate(executor: Executor, build: Callable[[StageId], nn.Module]) -> dict[StageId, nn.Module]:
    """What `build` makes of every stage of the plan, in the order in which they run; copied where
    it would share something."""
    taken = {id(t) for stage in executor.stages.values() for t in _tensors(stage.module)}
    found: dict[StageId, nn.Module] = {}
    for stage in executor.plan.graph.in_order():
        module = build(stage)
        if any(id(tensor) in taken for tensor in _tensors(module)):
            module = deepcopy(module)
        taken |= {id(tensor) for tensor in _tensors(module)}
        found[stage] = module
    return found


def _tensors(module: nn.Module) -> chain[nn.Parameter]:
    return chain(module.parameters(), module.buffers())  # type: ignore[arg-type]
