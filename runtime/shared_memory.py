"""Which parameters of a rank are one in memory. In come its parameters by place; out come those
that stand in several places. Parameters that overlap without being one are refused: no optimizer
can move them rightly."""

from collections.abc import Hashable, Mapping

import torch
from torch import nn

from stretto.compiler.program.program import TiedPlace
from stretto.runtime.errors import PipelineError
from stretto.runtime.parameters import label, memory_of
from stretto.runtime.topology import StageGraph

MemoryGroup = list[list[TiedPlace]]
"""The places of one memory: a list for each `Parameter` object that points there."""


def shared_memory(graph: StageGraph, own: Mapping[TiedPlace, nn.Parameter]) -> list[MemoryGroup]:
    """The memories that stand in several places. Raises `PipelineError` where two overlap in
    part."""
    memories: dict[Hashable, dict[int, list[TiedPlace]]] = {}
    first: dict[Hashable, TiedPlace] = {}
    for place, parameter in own.items():
        key = memory_of(parameter)
        first.setdefault(key, place)
        memories.setdefault(key, {}).setdefault(id(parameter), []).append(place)
    _refuse_overlaps(graph, own, list(first.values()))
    groups = [list(objects.values()) for objects in memories.values()]
    return [group for group in groups if sum(map(len, group)) > 1]


def _refuse_overlaps(
    graph: StageGraph, own: Mapping[TiedPlace, nn.Parameter], firsts: list[TiedPlace]
) -> None:
    ranges = []
    for place in firsts:
        parameter = own[place]
        if type(parameter) is nn.Parameter and parameter.data_ptr():
            steps = zip(parameter.shape, parameter.stride(), strict=True)
            last = sum((size - 1) * stride for size, stride in steps)
            begin = parameter.data_ptr()
            end = begin + (last + 1) * parameter.element_size()
            ranges.append((str(parameter.device), begin, end, place))
    open_: list[tuple[str, int, TiedPlace]] = []  # that may reach into what follows
    for device, begin, end, place in sorted(ranges):
        open_ = [one for one in open_ if one[0] == device and one[1] > begin]
        for _, _, earlier in open_:
            if _overlap(own[earlier], own[place]):
                a, b = sorted((earlier, place))
                raise PipelineError(
                    f"`{label(graph, a)}` and `{label(graph, b)}` overlap in memory without being "
                    "one parameter: give each memory of its own, or make them one Parameter"
                )
        open_.append((device, end, place))


def _overlap(a: nn.Parameter, b: nn.Parameter) -> bool:
    """Whether any number belongs to both; they may lie between each other's, as columns do."""
    if a.dtype != b.dtype or a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return True
    many = a.untyped_storage().nbytes() // a.element_size()
    marks = torch.zeros(many, dtype=torch.bool)
    marks.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(marks.as_strided(b.shape, b.stride(), b.storage_offset()).any())
