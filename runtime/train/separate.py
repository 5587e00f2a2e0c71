"""Modules that share no tensor: those of all stages for one process, with each other or with what a
rank trains (`separate`); those of ranks that are threads of one process (`unshared`). A model may
cut its stages out of one module that it keeps; what it gives for two stages, or twice for one, then
has the same parameters, and a backward of the one would be seen in the other."""

from collections.abc import Callable, Mapping
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


def unshared(
    stages: Mapping[StageId, nn.Module], taken: set[int] | None
) -> dict[StageId, nn.Module]:
    """A rank's stages, copied together where they share a tensor with another rank of the process;
    `taken` has the ids of all that are in use, None where the process has one rank."""
    if taken is None:
        return dict(stages)
    own = {id(tensor) for module in stages.values() for tensor in _tensors(module)}
    found = deepcopy(dict(stages)) if own & taken else dict(stages)
    taken |= {id(tensor) for module in found.values() for tensor in _tensors(module)}
    return found


def _tensors(module: nn.Module) -> chain[nn.Parameter]:
    return chain(module.parameters(), module.buffers())  # type: ignore[arg-type]
