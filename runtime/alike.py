"""Whether what is one stage of the model, or one parameter, is treated as one on all ranks. In come
the stages of a rank; out comes, as JSON, how each copy and each holder of a tie is switched. In
comes that of all ranks; out comes where it differs.

A copy that is frozen, or evaluates, where the others are trained would give gradients that are
neither the one nor the other, on all ranks.
"""

from collections.abc import Mapping, Sequence
from zlib import crc32

from stretto.runtime.parameters import RankStages, label
from stretto.runtime.stage.precision import autocast_type
from stretto.runtime.topology import StageGraph, StageId

Switches = dict[str, list[str | int]]
"""By stage (`pipeline stage`) or place of a tie (`pipeline stage name`) how it is switched."""

DIFFERENCES = (
    "has other frozen parameters (`requires_grad`)",
    "is in another mode (`train()`, `eval()`)",
    "runs under another `torch.autocast`",
)


def switches(graph: StageGraph, stages: RankStages) -> Switches:
    """How the rank's copies and holders of ties are switched; of other stages nothing."""
    found: Switches = {}
    for at, stage in stages.items():
        if len(graph.topology.copies(at.pipeline)) > 1:
            frozen = crc32(bytes(p.requires_grad for p in stage.module.parameters()))
            modes = {module.training for module in stage.module.modules()}
            mode = "mixed" if len(modes) > 1 else str(stage.module.training)
            found[f"{at.pipeline} {at.stage}"] = [frozen, mode, autocast_type()]
    for tie in graph.spec.ties:
        for place in tie.places:
            if own := stages.get(StageId(place.pipeline, place.stage)):
                trained = own.module.get_parameter(place.name).requires_grad
                found[f"{place.pipeline} {place.stage} {place.name}"] = [int(trained)]
    return found


def unlike(graph: StageGraph, told: Sequence[Mapping[str, Sequence[str | int]]]) -> str:
    """Where two that should be one are switched differently, with their ranks; else empty. `told`
    are the switches of every rank."""
    every = {key: (rank, one) for rank, own in enumerate(told) for key, one in own.items()}
    for tie in graph.spec.ties:
        first, *others = tie.places
        for place in others:
            keys = [f"{one.pipeline} {one.stage} {one.name}" for one in (first, place)]
            (a, expected), (b, found) = (every[key] for key in keys)
            if found != expected:
                return (
                    f"`{label(graph, place)}` on rank {b} and `{label(graph, first)}` on rank {a} "
                    "are one parameter, and one of them alone is frozen (`requires_grad`)"
                )
    for p in graph.originals():
        original, *copied = graph.topology.copies(p)
        pairs = [(q, s) for q in copied for s in range(len(graph.spec.pipelines[p].stages))]
        for q, s in pairs:
            (a, expected), (b, found) = every[f"{original} {s}"], every[f"{q} {s}"]
            for one, other, what in zip(expected, found, DIFFERENCES, strict=True):
                if one != other:
                    here, there = (graph.label(StageId(k, s)) for k in (q, original))
                    return f"`{here}` on rank {b} {what} than its copy `{there}` on rank {a}"
    return ""
