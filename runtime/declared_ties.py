"""What a model says of its ties. In come a rank's stages and what the executor was told; out come
the parameters of this rank that are tied, each with the name of its tie."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from torch import nn

from stretto.compiler.program.program import TiedPlace
from stretto.runtime.errors import PipelineError
from stretto.runtime.parameters import RankStages
from stretto.runtime.topology import StageGraph, StageId

TieTable = Mapping[str, Sequence[Sequence[Any]]]
"""By the name of a tie the places where the parameter stands: `(stage, name)`, or where there are
pipelines of several models `(pipeline, stage, name)`. A stage below 0 counts from the end."""

WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "base_layer",
}
"""What wrappers of modules, and adapters of layers, put into the names of parameters."""


class Declaration(NamedTuple):
    """A place that is declared to be tied. `names`: how many names the parameter has in its
    stage. Ties are told apart by model."""

    tie: str
    place: TiedPlace
    names: int


def declared(graph: StageGraph, stages: RankStages, given: TieTable) -> list[Declaration]:
    """What the modules of the stages declare, and what was given to the executor, of this rank's
    stages. Raises `PipelineError` where there is no such parameter."""
    return [*_by_modules(graph, stages), *_given(graph, stages, given)]


def _by_modules(graph: StageGraph, stages: RankStages) -> Iterator[Declaration]:
    """Every module within a stage may have a dict `tied` of parameters of its own."""
    for stage in sorted(stages):
        whole = stages[stage].module
        for path, module in whole.named_modules():
            told = getattr(module, "tied", None) if _has_own(module) else None
            if not isinstance(told, Mapping):
                continue
            for name, tie in told.items():
                full = f"{path}.{name}" if path else str(name)
                key = f"{graph.original(stage.pipeline)}/{tie}"
                yield _declaration(graph, stage, whole, full, key)


def _has_own(module: nn.Module) -> bool:
    """Whether it has the attribute itself: a compiled module answers for the one within it."""
    return "tied" in vars(module) or hasattr(type(module), "tied")


def _given(graph: StageGraph, stages: RankStages, given: TieTable) -> Iterator[Declaration]:
    """A place means all copies of its stage."""
    if not isinstance(given, Mapping):
        raise PipelineError(f"`ties` is a dict of places by name, not a {type(given).__name__}")
    for tie, where in given.items():
        for place in where:
            p, s, name = _place(graph, tie, place)
            for stage in sorted(stages):
                if (graph.original(stage.pipeline), stage.stage) == (p, s):
                    yield _declaration(graph, stage, stages[stage].module, name, f"given/{tie}")


def _place(graph: StageGraph, tie: str, place: Sequence[Any]) -> tuple[int, int, str]:
    """The model's pipeline, the stage and the parameter's name."""
    pipelines, models = graph.spec.pipelines, graph.originals()
    match place:
        case (int(s), str(name)) if len(models) == 1:
            p = models[0]
        case (str(pipeline), int(s), str(name)) if pipeline in [q.name for q in pipelines]:
            p = graph.original([q.name for q in pipelines].index(pipeline))
        case _:
            names = " or ".join(repr(pipelines[p].name) for p in models)
            form = "(stage, name)" if len(models) == 1 else f"(pipeline, stage, name), {names}"
            raise PipelineError(f"`ties`, {tie!r}: {place!r} is no place: write it as {form}")
    count = len(pipelines[p].stages)
    if not -count <= s < count:
        raise PipelineError(
            f"`ties`, {tie!r}: `{pipelines[p].name}` has stages 0 to {count - 1}, not {s}"
        )
    return p, s % count, name


def _declaration(
    graph: StageGraph, stage: StageId, module: nn.Module, name: str, tie: str
) -> Declaration:
    """Of a parameter that has several names in its stage the first counts."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    plain = {plain_name(one): one for one in parameters}
    full = name if name in parameters else plain.get(plain_name(name))
    if full is None:
        where = f"`{graph.label(stage)}` has no parameter `{name}`, which it declares to be tied"
        if name in dict(module.named_buffers()):
            raise PipelineError(f"{where}: it is a buffer, which every stage has for itself")
        close = get_close_matches(name, plain, 1)
        raise PipelineError(where + (f": did you mean `{close[0]}`?" if close else ""))
    names = [one for one, parameter in parameters.items() if parameter is parameters[full]]
    return Declaration(tie, TiedPlace(stage.pipeline, stage.stage, names[0]), len(names))


def plain_name(name: str) -> str:
    """The parameter's name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
