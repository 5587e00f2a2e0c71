"""From what the user calls his stages to the plan's places. In comes a dict, a list of modules or
torch's `PipelineStage` objects, and the loss; out comes a `Stage` for every place of this rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stretto.compiler.program.program import Spec
from stretto.runtime.errors import Stopped
from stretto.runtime.rank_program import Part
from stretto.runtime.stage.stage import LossFunction, Stage, unit_of
from stretto.runtime.topology import (
    Place,
    ends,
    ends_in_loss,
    gives,
    learners,
    original,
    place_in_words,
    sources,
    together,
)

Given = Mapping[Any, Any] | Sequence[Any]
Loss = LossFunction | Mapping[str, LossFunction] | None


def stages_of(part: Part, given: Given, loss: Loss, scale: bool) -> dict[Place, Stage]:
    """Every stage of this rank. Raises `Stopped` where one is missing, or one too many."""
    spec = part.spec
    modules = _modules(part, given)
    if len({id(module) for module in modules.values()}) < len(modules):
        raise Stopped(f"rank {part.rank} was given one module for two stages: each needs its own")
    found = {}
    for place, module in modules.items():
        pipeline = spec.pipelines[place.pipeline]
        judged = ends_in_loss(spec, place)
        found[place] = Stage(
            place=place,
            name=place_in_words(spec, place),
            module=module,
            sources=tuple(sources(spec, place)),
            learners=tuple(learners(spec, place)),
            ends=ends(spec, place),
            sends=gives(spec, place),
            learns=not pipeline.forward_only,
            loss=loss_of(spec, place.pipeline, loss) if judged or ends(spec, place) else None,
            divisor=together(spec, place.pipeline) if scale else 1,
            unit=unit_of(module),
        )
        if judged and found[place].loss is None:
            raise Stopped(
                f"rank {part.rank} has `{found[place].name}`, which ends in the loss: give loss_fn"
            )
    return found


def device_of(given: Given) -> torch.device:
    """Where the stages' parameters are."""
    values = given.values() if isinstance(given, Mapping) else given
    for module in map(_module, values):
        for parameter in module.parameters() if isinstance(module, nn.Module) else ():
            return parameter.device
    return torch.device("cpu")


def _modules(part: Part, given: Given) -> dict[Place, nn.Module]:
    places = part.places
    if isinstance(given, Mapping):
        found = {_place(part, key): _module(value) for key, value in given.items()}
    elif any(hasattr(item, "stage_index") for item in given):
        found = {_place(part, item.stage_index): _module(item) for item in given}
    else:
        if len(given) != len(places):
            raise Stopped(
                f"rank {part.rank} has {len(places)} stages, {_names(part, places)}, and was given "
                f"{len(given)} modules"
            )
        found = dict(zip(places, map(_module, given), strict=True))
    absent = [place for place in places if place not in found]
    if absent:
        raise Stopped(f"rank {part.rank} was given no module for {_names(part, absent)}")
    wrong = [place for place, module in found.items() if not isinstance(module, nn.Module)]
    if wrong:
        kind = type(found[wrong[0]]).__name__
        raise Stopped(f"`{place_in_words(part.spec, wrong[0])}` is a {kind}, not an nn.Module")
    return {place: found[place] for place in places}


def _place(part: Part, key: Any) -> Place:
    """The place of this rank that `("down", 3)` or `3` means."""
    spec, places = part.spec, part.places
    if isinstance(key, tuple) and len(key) == 2:
        fits = [p for p in places if (spec.pipelines[p.pipeline].name, p.stage) == key]
    else:
        fits = [place for place in places if place.stage == key]
    if len(fits) == 1:
        return fits[0]
    if fits:
        name = spec.pipelines[fits[0].pipeline].name
        raise Stopped(
            f"rank {part.rank} has {_names(part, fits)}: say which, as in `({name!r}, {key})`"
        )
    raise Stopped(
        f"rank {part.rank} was given a module for stage {key!r}, but has {_names(part, places)}"
    )


def _module(item: Any) -> Any:
    return getattr(item, "submod", item)


def loss_of(spec: Spec, pipeline: int, given: Loss) -> LossFunction | None:
    """The loss of the pipeline: the one there is, or its entry."""
    if not isinstance(given, Mapping):
        return given
    return given.get(spec.pipelines[original(spec, pipeline)].name)


def _names(part: Part, places: Sequence[Place]) -> str:
    if not places:
        return "no stage"
    return " and ".join(f"`{place_in_words(part.spec, place)}`" for place in places)
