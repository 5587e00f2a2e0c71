"""Which parameters a rank has. In come the modules of its stages; out come its parameters, each
once however many places it stands in, under names that say where, and those of them for which this
rank counts when something is summed over all ranks.

A parameter is what an optimizer would move: two `Parameter` objects over the same memory are one.
"""

from collections.abc import Hashable, Iterator, Mapping

import torch
from torch import Tensor, nn

from stretto.compiler.program.program import TiedPlace
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.topology import StageGraph, StageId

SAMPLES = 64  # entries of a parameter that are compared

RankStages = Mapping[StageId, StageModule]
"""A rank's stages."""


def places(stages: RankStages) -> Iterator[tuple[TiedPlace, nn.Parameter]]:
    """Every stage's parameters, stage by stage; one that several stages share stands here for each
    of them, and once within a stage."""
    for stage in sorted(stages, key=lambda one: (one.stage, one.pipeline)):
        for name, parameter in stages[stage].module.named_parameters():
            yield TiedPlace(stage.pipeline, stage.stage, name), parameter


def memory_of(parameter: nn.Parameter) -> Hashable:
    """The same for parameters that are the same numbers in memory: the same object, or another with
    its storage, offset, shape and strides. What has no memory of its own to point at (a `DTensor`,
    an empty tensor) is told by the object."""
    if type(parameter) is not nn.Parameter or not parameter.data_ptr():
        return id(parameter)
    geometry = tuple(parameter.shape), parameter.stride(), parameter.dtype
    return parameter.device, parameter.data_ptr(), geometry


def named_parameters(graph: StageGraph, stages: RankStages) -> Iterator[tuple[str, nn.Parameter]]:
    """The rank's parameters, each once, as `main[3].up.weight`. On all ranks a parameter of the
    model has one name, that of the first place that it stands in: a copy's is the original's, a
    tied head's the embedding's. Where a rank has several such, the others go by their own place."""
    first = {tie_place: tie.places[0] for tie in graph.spec.ties for tie_place in tie.places}
    seen: set[Hashable] = set()
    names: set[str] = set()
    for place, parameter in places(stages):
        if (key := memory_of(parameter)) not in seen:
            seen.add(key)
            model = first.get(place, place)
            name = label(graph, model._replace(pipeline=graph.original(model.pipeline)))
            name = label(graph, place) if name in names else name
            names.add(name)
            yield name, parameter


def owned(graph: StageGraph, stages: RankStages) -> list[nn.Parameter]:
    """Those of the rank's parameters for which this rank counts when something is summed over all
    ranks: of copies and of the holders of a tie, wherever they are, one counts."""
    tied = {place: tie.places[0] for tie in graph.spec.ties for place in tie.places}
    found: dict[Hashable, nn.Parameter] = {}
    counting: set[Hashable] = set()
    for place, parameter in places(stages):
        key = memory_of(parameter)
        found.setdefault(key, parameter)
        if place == (tied[place] if place in tied else _first_copy(graph, place)):
            counting.add(key)
    return [parameter for key, parameter in found.items() if key in counting]


def some_values(tensor: Tensor) -> Tensor:
    """At most `SAMPLES` of its entries, from the whole of it, on the CPU."""
    many = tensor.numel()
    at = torch.linspace(0, many - 1, min(SAMPLES, many), dtype=torch.float64).long()
    at = at.to(tensor.device)
    columns = []
    for size in reversed(tensor.shape):
        columns.append(at % size)
        at = at // size
    return tensor.detach()[tuple(reversed(columns))].cpu()


def label(graph: StageGraph, place: TiedPlace) -> str:
    """`main[3].up.weight`: how messages call the place."""
    return f"{graph.label(StageId(place.pipeline, place.stage))}.{place.name}"


def _first_copy(graph: StageGraph, place: TiedPlace) -> TiedPlace:
    """The place in the first copy of its stage: by rank, then pipeline."""
    copies = [place._replace(pipeline=p) for p in graph.topology.copies(place.pipeline)]
    return min(copies, key=lambda copy: (graph.topology.rank_of(copy[:2]), copy))
