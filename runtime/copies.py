"""Whether what several ranks hold of one model is still the same: copies of stages, and parameters
that stand in several places. They start equal and get the same gradients; an optimizer that does
not step a parameter by its own gradient alone may move them apart all the same."""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from stretto.runtime.errors import PipelineError
from stretto.runtime.executor import Executor
from stretto.runtime.topology import StageId

Sums = dict[StageId, list[float]]
"""By stage the checksums of its parameters, in their order."""


def check_copies(executor: Executor) -> None:
    """Compares checksums of all parameters of which several ranks hold a copy. Every rank must call
    it; parameters are read, which on a GPU waits for the device. Raises `PipelineError`, on every
    rank, where two differ by a bit."""
    graph = executor.plan.graph
    copied = any(graph.original(p) != p for p in range(len(graph.spec.pipelines)))
    if not copied and not executor.plan.spec.ties:
        return
    own = [number for sums in _own(executor) for number in (len(sums), *sums)]
    tied = [_checksum(_parameter(executor, at)) for _, at in _holders(executor, executor.rank)]
    told = executor.exchange.tell("check_copies", [*own, *tied])
    found: Sums = {}
    seen: dict[str, tuple[float, StageId]] = {}
    for rank, numbers in enumerate(told):
        left = iter(numbers)
        for stage in graph.on_rank(rank):
            found[stage] = [next(left) for _ in range(int(next(left)))]
        for name, (p, s, _) in _holders(executor, rank):
            value, stage = next(left), StageId(p, s)
            known, first = seen.setdefault(name, (value, stage))
            if known != value:
                raise _drifted(executor, f"`{name}`", first, stage)
    for stage, sums in found.items():
        original = StageId(graph.original(stage.pipeline), stage.stage)
        for k, (a, b) in enumerate(zip(found[original], sums, strict=True)):
            if a != b:
                raise _drifted(executor, _named(executor, stage, original, k), original, stage)


def _own(executor: Executor) -> Iterator[list[float]]:
    for stage in executor.plan.stages:
        yield [_checksum(parameter) for parameter in executor.stages[stage].module.parameters()]


def _holders(executor: Executor, rank: int) -> Iterator[tuple[str, tuple[int, int, str]]]:
    """The ties of which the rank holds a parameter, by name, with a place where it stands there."""
    graph = executor.plan.graph
    for tie in executor.plan.spec.ties:
        for holder in tie.holders:
            if graph.topology.rank_of(holder[0][:2]) == rank:
                p, s, name = holder[0]
                yield tie.name, (p, s, name)


def _parameter(executor: Executor, place: tuple[int, int, str]) -> Tensor:
    p, s, name = place
    return executor.stages[StageId(p, s)].module.get_parameter(name)


def _checksum(tensor: Tensor) -> float:
    """Of this process's part of it, bit for bit."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore[reportAttributeAccessIssue]
    flat = local.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return float(zlib.crc32(flat.numpy().tobytes()))


def _named(executor: Executor, stage: StageId, original: StageId, k: int) -> str:
    """The parameter's name, on ranks that hold it."""
    for one in (stage, original):
        if one in executor.stages:
            return f"`{list(executor.stages[one].module.named_parameters())[k][0]}`"
    return f"parameter {k}"


def _drifted(executor: Executor, what: str, first: StageId, other: StageId) -> PipelineError:
    graph = executor.plan.graph
    a, b = (
        f"`{graph.label(stage)}` on rank {graph.topology.rank_of(stage)}"
        for stage in (first, other)
    )
    return PipelineError(
        f"{what} of {b} is not that of {a} any more, though both got the same gradients: does the "
        "optimizer take numbers over all parameters of a rank, or draw some, or do ranks differ in "
        "learning rates?"
    )
