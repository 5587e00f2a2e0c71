"""What a step is given, and how it is to be cut, judged and merged, as the user says it: for one
model, or by pipeline's name where there are several."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stretto.runtime.batch import Arguments, by_argument
from stretto.runtime.chunks import BatchPart, is_chunk, is_replicate
from stretto.runtime.containers import MicrobatchList
from stretto.runtime.errors import PipelineError
from stretto.runtime.topology import StageGraph, StageId

Weight = Callable[[Any], Any]
"""`weight(target)` of one micro-batch: a number, or a tensor with one, of 0 or more."""


class StepArguments(NamedTuple):
    """What the user calls a step with. `args` and `kwargs` are those of the first stages;
    `stage_kwargs` has, by stage or (pipeline's name, stage), keywords for other stages;
    `loss_kwargs` are handed to the loss function uncut. `weight_total`, where it is given, is what
    the weights of micro-batches are divided by, instead of their sum."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    target: Any = None
    stage_kwargs: Mapping[Any, Mapping[str, Any]] | None = None
    loss_kwargs: Mapping[str, Any] | None = None
    weight_total: Any = None

    @property
    def are_none(self) -> bool:
        """Whether nothing is given at all."""
        some = self.args or self.kwargs or self.stage_kwargs or self.loss_kwargs
        return not some and self.target is None and self.weight_total is None


def step_arguments(x: Any, target: Any, step: Mapping[str, Any]) -> StepArguments:
    """What `step(x, target=target, **step)` is given."""
    own = {name: value for name, value in step.items() if name in StepArguments._fields}
    kwargs = {k: v for k, v in step.items() if k not in own and k not in ("losses", "metrics")}
    return StepArguments((x,), kwargs, target, **own)


class BatchOptions(NamedTuple):
    """How batches are cut, losses scaled and outputs merged; see `ExecutorOptions`."""

    args_chunk_spec: Any = None
    kwargs_chunk_spec: Any = None
    target_chunk_spec: Any = None
    stage_kwargs_chunk_spec: Any = None
    output_merge_spec: Any = None
    ragged: bool = False
    scale_loss: bool | Weight | Mapping[str, Weight] = True
    slice_dim: int = 1
    slice_lengths: Sequence[int] | None = None


def batch_options(options: Mapping[str, Any]) -> BatchOptions:
    """Those among the keywords of an executor."""
    return BatchOptions(**{k: v for k, v in options.items() if k in BatchOptions._fields})


class ModelInput(NamedTuple):
    """What one model is given: its x (None where there is none), its keywords, its target (None
    likewise) and the keywords of its stages, each a part with its chunk spec."""

    x: BatchPart | None
    kwargs: dict[str, BatchPart]
    target: BatchPart | None
    stages: dict[StageId, dict[str, BatchPart]]

    def needed(self, x: bool, target: bool) -> "ModelInput":
        """The same for a rank that needs x, and target, or one of them to be batches, or neither:
        what it does not need may be anything."""
        return ModelInput(
            self.x if x or self.x is None else self.x._replace(batch=""),
            {k: part if x else part._replace(batch="") for k, part in self.kwargs.items()},
            self.target if target or self.target is None else self.target._replace(batch=""),
            self.stages,
        )

    def parts(self) -> list[BatchPart]:
        """All of them."""
        whole = [part for part in (self.x, *self.kwargs.values(), self.target) if part is not None]
        return whole + [part for given in self.stages.values() for part in given.values()]


def model_input(
    graph: StageGraph, given: StepArguments, options: BatchOptions, model: int
) -> ModelInput:
    """What the model of original pipeline `model` is given. Raises `PipelineError` where there are
    several models and it is not given by pipeline, and where a chunk spec does not fit."""
    label = input_label(graph, "x", model)
    batch: Any = _positional(graph, given, model)
    kwargs = given.kwargs
    if kwargs and len(graph.originals()) > 1:
        raise PipelineError(
            "this plan has several models: give keywords by pipeline, as "
            "x = {pipeline: stretto.runtime.Arguments((…), {keyword: …})}"
        )
    args_spec = _of_model(graph, options.args_chunk_spec, model, "args_chunk_spec")
    kwargs_spec = _of_model(graph, options.kwargs_chunk_spec, model, "kwargs_chunk_spec")
    if isinstance(batch, MicrobatchList):
        batch = by_argument(batch, label)
    if isinstance(batch, Arguments):
        _no_keyword_twice(batch.kwargs, kwargs, label)
        kwargs = {**batch.kwargs, **kwargs}
        batch = batch.args if isinstance(batch.args, MicrobatchList) else tuple(batch.args) or None
    named: dict[str, BatchPart] = {}
    if isinstance(batch, Mapping):
        _no_keyword_twice(batch, kwargs, label)
        named = _named(batch, label, args_spec, None if kwargs else kwargs_spec)
        batch = args_spec = None
    whole = _whole(batch, label, args_spec)
    target_label = input_label(graph, "target", model)
    target = for_model(graph, given.target, model, "target")
    target_spec = _of_model(graph, options.target_chunk_spec, model, "target_chunk_spec")
    return ModelInput(
        whole,
        {**named, **_keywords(kwargs, kwargs_spec, label)},
        None if target is None else BatchPart(target_label, target, target_spec, target_label),
        _stage_parts(graph, given, options, model),
    )


def for_model(graph: StageGraph, given: Any, model: int, what: str) -> Any:
    """What was given for the model: all of it, or its entry where there are several. Raises
    `PipelineError` where it has no entries by pipeline."""
    if given is None or len(graph.originals()) == 1:
        return given
    names = {graph.spec.pipelines[p].name for p in graph.originals()}
    told = ", ".join(graph.spec.pipelines[p].name for p in graph.originals())
    if not isinstance(given, Mapping):
        raise PipelineError(f"give {what} as a dict by pipeline: this plan has {told}")
    unknown = [str(key) for key in given if key not in names]
    if unknown:
        raise PipelineError(f"{what} has {', '.join(unknown)}, and this plan has {told}")
    return given.get(graph.spec.pipelines[model].name)


def input_label(graph: StageGraph, what: str, pipeline: int) -> str:
    """How messages call the pipeline's x or target."""
    if len(graph.originals()) == 1:
        return what
    return f"{what} of `{graph.spec.pipelines[graph.original(pipeline)].name}`"


def _positional(graph: StageGraph, given: StepArguments, model: int) -> Any:
    """The model's x: one argument stands for itself, several for a tuple."""
    args = given.args
    if len(graph.originals()) > 1 and len(args) > 1:
        raise PipelineError("this plan has several models: give x as one dict by pipeline")
    if len(args) == 1:
        return for_model(graph, args[0], model, "x")
    return args or None


def _whole(batch: Any, label: str, args_spec: Any) -> BatchPart | None:
    if batch is None:
        return None
    if _is_said(args_spec) or args_spec is None:
        spec = args_spec
    elif not isinstance(args_spec, tuple | list):
        raise PipelineError(
            f"args_chunk_spec is a {type(args_spec).__name__}: give a tuple with one for each "
            "argument"
        )
    elif isinstance(batch, tuple | list) and not hasattr(batch, "_fields"):
        one = len(args_spec) == 1 and len(batch) != 1  # of the tuple as one argument
        spec = args_spec[0] if one else args_spec
    elif len(args_spec) == 1:
        spec = args_spec[0]
    elif isinstance(batch, MicrobatchList):
        spec = args_spec
    else:
        raise PipelineError(
            f"args_chunk_spec has {len(args_spec)} entries, and {label} is one argument"
        )
    return BatchPart(label, batch, spec, label)


def _named(
    batch: Mapping[Any, Any], label: str, args_spec: Any, kwargs_spec: Any
) -> dict[str, BatchPart]:
    """An x that is the keywords, each a part of its own: later stages take theirs by name."""
    whole = _whole(batch, label, args_spec)
    spec = kwargs_spec if whole is None or whole.spec is None else whole.spec
    if isinstance(spec, Mapping) and spec.keys() != batch.keys():
        theirs, ours = (", ".join(map(repr, keys)) for keys in (spec, batch))
        raise PipelineError(
            f"the chunk spec of {label} has {theirs or 'nothing'}, and {label} has {ours}: they "
            "need the same names"
        )
    of = spec if isinstance(spec, Mapping) else dict.fromkeys(batch, spec)
    return {
        name: BatchPart(f"{label}[{name!r}]", value, of[name], label)
        for name, value in batch.items()
    }


def _is_said(spec: Any) -> bool:
    return is_chunk(spec) or is_replicate(spec)


def _keywords(kwargs: Mapping[str, Any], spec: Any, batch: str) -> dict[str, BatchPart]:
    if not kwargs:
        return {}
    if spec is not None and not _is_said(spec):
        if not isinstance(spec, Mapping):
            raise PipelineError(
                f"kwargs_chunk_spec is a {type(spec).__name__}: give a dict by keyword"
            )
        if spec.keys() != kwargs.keys():
            theirs, ours = (", ".join(map(repr, keys)) for keys in (spec, kwargs))
            raise PipelineError(
                f"kwargs_chunk_spec has {theirs or 'nothing'}, and the step was given {ours}: "
                "they need the same names"
            )
    of = spec if isinstance(spec, Mapping) else dict.fromkeys(kwargs, spec)
    return {name: BatchPart(f"`{name}`", value, of[name], batch) for name, value in kwargs.items()}


def _no_keyword_twice(batch: Mapping[Any, Any], kwargs: Mapping[str, Any], label: str) -> None:
    twice = [str(name) for name in kwargs if name in batch]
    if twice:
        raise PipelineError(f"{', '.join(twice)} stands in {label} and among the keywords too")


def _of_model(graph: StageGraph, spec: Any, model: int, what: str) -> Any:
    if spec is None or _is_said(spec):
        return spec
    return for_model(graph, spec, model, what)


def _stage_parts(
    graph: StageGraph, given: StepArguments, options: BatchOptions, model: int
) -> dict[StageId, dict[str, BatchPart]]:
    """The keywords of the model's stages, of all its pipelines."""
    found: dict[StageId, dict[str, BatchPart]] = {}
    specs = options.stage_kwargs_chunk_spec
    if not _is_said(specs):
        specs = {stage: spec for key, spec in (specs or {}).items() for stage in named(graph, key)}
    for key, keywords in (given.stage_kwargs or {}).items():
        if not isinstance(keywords, Mapping):
            raise PipelineError(
                f"stage_kwargs has a {type(keywords).__name__} for {key!r}: give a dict by keyword"
            )
        for stage in named(graph, key):
            if graph.original(stage.pipeline) != model:
                continue
            parts = found.setdefault(stage, {})
            _no_keyword_twice(keywords, parts, f"stage_kwargs of `{graph.label(stage)}`")
            own = specs.get(stage) if isinstance(specs, Mapping) else specs
            parts |= _stage_keywords(keywords, own, graph.label(stage))
    return found


def _stage_keywords(keywords: Mapping[str, Any], spec: Any, stage: str) -> dict[str, BatchPart]:
    if spec is None or _is_said(spec):
        spec = dict.fromkeys(keywords, spec)
    if not isinstance(spec, Mapping) or spec.keys() != keywords.keys():
        raise PipelineError(
            f"stage_kwargs_chunk_spec of `{stage}` needs the names of its keywords: "
            f"{', '.join(map(str, keywords)) or 'none'}"
        )
    return {k: BatchPart(f"`{k}` of `{stage}`", v, spec[k]) for k, v in keywords.items()}


def named(graph: StageGraph, key: Any) -> list[StageId]:
    """The stages that `3` or `("down", 3)` means: of a model, stage 3 of all its copies. Raises
    `PipelineError` where there is none, or of several models."""
    if isinstance(key, tuple) and len(key) == 2:
        fits = [s for s in graph.stages if (graph.spec.pipelines[s.pipeline].name, s.stage) == key]
    else:
        fits = [stage for stage in graph.stages if stage.stage == key]
    if not fits:
        told = ", ".join(
            f"{pipeline.name} {len(pipeline.stages)}" for pipeline in graph.spec.pipelines
        )
        raise PipelineError(f"there is no stage {key!r}: the plan's pipelines have stages: {told}")
    if len({graph.original(stage.pipeline) for stage in fits}) > 1:
        name = graph.spec.pipelines[fits[0].pipeline].name
        raise PipelineError(f"several models have a stage {key}: say which, as ({name!r}, {key})")
    return fits
