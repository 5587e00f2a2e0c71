"""From the whole batch that a step is given to each pipeline's micro-batches of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stretto.compiler.program.program import ProgramName, Spec
from stretto.runtime.batch import pieces
from stretto.runtime.errors import Stopped
from stretto.runtime.rank_program import Part
from stretto.runtime.stage.stage import Stage
from stretto.runtime.topology import Place, original, streams, together


class Share(NamedTuple):
    """One pipeline's share, by micro-batch; empty where the rank was not given it."""

    x: Sequence[Any] = ()
    target: Sequence[Any] = ()


NOTHING = Share()


def shares(
    part: Part, stages: Mapping[Place, Stage], name: ProgramName, x: Any, target: Any
) -> dict[int, Share]:
    """Every pipeline's share. Raises `Stopped` where this rank needs what it was not given, or a
    batch does not divide."""
    spec, found = part.spec, {}
    for p, pipeline in enumerate(spec.pipelines):
        own = slice(pipeline.first, pipeline.first + pipeline.microbatches)
        judges = [stage for place, stage in stages.items() if place.pipeline == p and stage.loss]
        whole_x = of_stream(spec, x, p, "x")
        whole_target = of_stream(spec, target, p, "target") if judges else None
        first = stages.get(Place(p, 0))
        if whole_x is None and first is not None and not first.sources:
            raise Stopped(f"rank {part.rank} has the first stage of `{pipeline.name}`: give it x")
        if whole_target is None and name == "train" and any(stage.learns for stage in judges):
            raise Stopped(f"rank {part.rank} ends `{pipeline.name}` with the loss: give it target")
        found[p] = Share(
            _cut(spec, whole_x, p, "x")[own], _cut(spec, whole_target, p, "target")[own]
        )
    return found


def _cut(spec: Spec, whole: Any, pipeline: int, what: str) -> Sequence[Any]:
    if whole is None:
        return ()
    return pieces(whole, together(spec, pipeline), words(spec, what, pipeline))


def of_stream(spec: Spec, given: Any, pipeline: int, what: str) -> Any:
    """What was given for the pipeline: all of it, or its entry where models differ."""
    if given is None or len(streams(spec)) == 1:
        return given
    if not isinstance(given, Mapping):
        names = ", ".join(spec.pipelines[p].name for p in streams(spec))
        raise Stopped(f"give {what} as a dict by pipeline: this plan has {names}")
    return given.get(spec.pipelines[original(spec, pipeline)].name)


def words(spec: Spec, what: str, pipeline: int) -> str:
    if len(streams(spec)) == 1:
        return what
    return f"{what} of `{spec.pipelines[original(spec, pipeline)].name}`"
