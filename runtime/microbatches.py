"""Between the whole batch that a step is given and each pipeline's micro-batches of it, and back
from the micro-batches' outputs and losses to what the step returns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from stretto.compiler.program.program import Pipeline, ProgramName
from stretto.runtime.batch import Arguments, arguments, merged
from stretto.runtime.chunks import BatchPart, agreed_cut, is_chunk
from stretto.runtime.errors import PipelineError
from stretto.runtime.given import (
    BatchOptions,
    ModelInput,
    StepArguments,
    for_model,
    model_input,
)
from stretto.runtime.rank_program import RankPlan
from stretto.runtime.slices import Slicing, slicing_of
from stretto.runtime.stage.judge import Judging, LossShare
from stretto.runtime.stage.keywords import keywords_of
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.topology import StageGraph, StageId
from stretto.runtime.weights import shares


class FurtherArguments(NamedTuple):
    """The keywords of a stage that is not its pipeline's first, by micro-batch; `yielding` are the
    names of its parameters, in their order, that give way where another stage's tensor stands."""

    kwargs: Sequence[Mapping[str, Any]]
    yielding: Sequence[str | None]


class PipelineMicrobatches(NamedTuple):
    """One pipeline's inputs and targets, by micro-batch; empty where the rank was given none. `x`
    has the arguments of the first stage, `further` those of others by stage; `judging` says how
    losses are scaled. A rank that has not the first stage has of its arguments x alone, to be
    compared with others', and may have keywords that no stage here takes, `unused`. `lengths` are
    those of the pieces of `label` and of all else that was cut."""

    x: Sequence[Arguments] = ()
    target: Sequence[Any] = ()
    further: Mapping[int, FurtherArguments] = {}
    judging: Sequence[Judging] = ()
    unused: Sequence[str] = ()
    lengths: Sequence[int] = ()
    label: str = ""

    @property
    def shares(self) -> list[LossShare]:
        """The share of each in the loss of the step."""
        return [judging.share for judging in self.judging]

    def of_stage(self, stage: int, microbatch: int, filled: int) -> Arguments | None:
        """What the stage is called with, besides `filled` tensors of other stages; None where that
        is nothing."""
        if stage == 0:
            return self.x[microbatch] if self.x else None
        own = self.further.get(stage)
        if own is None:
            return None
        taken = own.yielding[:filled]
        given = own.kwargs[microbatch]
        return Arguments((), {name: value for name, value in given.items() if name not in taken})


NOTHING = PipelineMicrobatches()


def microbatches(
    plan: RankPlan,
    stages: Mapping[StageId, StageModule],
    name: ProgramName,
    given: StepArguments,
    options: BatchOptions,
) -> dict[int, PipelineMicrobatches]:
    """Every pipeline's micro-batches, by pipeline, of what a step was given. Raises `PipelineError`
    where this rank needs what it was not given, or it cannot be cut."""
    found: dict[int, PipelineMicrobatches] = {}
    modules = {at: stage.module for at, stage in stages.items()}
    for model in plan.graph.originals():
        own = model_input(plan.graph, given, options, model)
        judged = begins = False
        for p in plan.graph.topology.copies(model):
            pipeline = plan.spec.pipelines[p]
            judges = [stage for at, stage in stages.items() if at.pipeline == p and stage.loss]
            judged |= bool(judges)
            first = stages.get(StageId(p, 0))
            begins |= first is not None and not first.sources
            if begins and own.x is None and not own.kwargs:
                raise PipelineError(
                    f"rank {plan.rank} has the first stage of `{pipeline.name}`: give it x"
                )
            learns = name == "train" and any(stage.learns for stage in judges)
            if learns and own.target is None:
                raise PipelineError(
                    f"rank {plan.rank} ends `{pipeline.name}` with the loss: give it target"
                )
        of_model = ModelGiven(own.needed(begins, judged), given, options, judged)
        found |= model_microbatches(plan.graph, model, of_model, modules)
    return dict(sorted(found.items()))


class ModelGiven(NamedTuple):
    """What one model is given, of what the step is; whether its target is judged here."""

    own: ModelInput
    step: StepArguments
    options: BatchOptions
    judged: bool


def model_microbatches(
    graph: StageGraph, model: int, given: ModelGiven, modules: Mapping[StageId, nn.Module]
) -> dict[int, PipelineMicrobatches]:
    """The micro-batches of all pipelines of the model, for the stages that have modules here.
    Raises `PipelineError` where something cannot be cut."""
    own, count = given.own, graph.model_microbatches(model)
    copies = graph.topology.copies(model)
    here = {stage: module for stage, module in modules.items() if stage.pipeline in copies}
    cut = _Cutting(graph, count, given)
    count = cut.number
    keywords = _rows({name: cut.pieces(part) for name, part in own.kwargs.items()}, count)
    x = [] if own.x is None else [arguments(piece) for piece in cut.pieces(own.x)]
    target = [] if own.target is None or not given.judged else cut.pieces(own.target)
    judging = _judging(graph, model, given, cut, target)
    unused = _unused(own.kwargs, here)
    found = {}
    for p in copies:
        pipeline = graph.spec.pipelines[p]
        part = cut.of(pipeline)
        stages: dict[int, FurtherArguments] = {}
        for stage, module in here.items():
            parts = own.stages.get(stage, {})
            if stage.pipeline == p and (own.kwargs or parts):
                further = _rows({name: cut.pieces(one) for name, one in parts.items()}, count)
                stages[stage.stage] = _further(module, keywords[part], further[part])
        nothing: list[dict[str, Any]] = [{}] * (part.stop - part.start)
        first = stages.pop(0, FurtherArguments(nothing, ()))
        named = keywords[part] if StageId(p, 0) in here else nothing
        found[p] = PipelineMicrobatches(
            _first_arguments(x[part], named, first),
            target[part],
            stages,
            judging[part],
            unused,
            (cut.rows.lengths or ())[cut.rows_of(pipeline)],
            cut.rows.label,
        )
    return found


def _unused(given: Mapping[str, Any], stages: Mapping[StageId, nn.Module]) -> list[str]:
    """The keywords that none of the stages takes; a first stage takes all."""
    if any(at.stage == 0 for at in stages):
        return []
    accepted = [keywords_of(module) for module in stages.values()]
    return [name for name in given if not any(one.of({name: None}) for one in accepted)]


class _Cutting:
    """How everything that a model is given is cut: into micro-batches along their rows, these into
    slices where the plan says so. `each`: into how many; `number`: how many pieces that are."""

    def __init__(self, graph: StageGraph, count: int, given: ModelGiven):
        own, options = given.own, given.options
        self.rows = agreed_cut(own.parts(), count, options.ragged)
        self.slicing = slicing_of(graph.spec, options.slice_dim, options.slice_lengths)
        self.each = 1 if self.slicing is None else self.slicing.number
        self.number = count * self.each
        if self.slicing is not None:
            first = [part for part in (own.x, *own.kwargs.values()) if part and part.batch]
            self.slicing.check(
                [
                    (parts[0].label, [self.rows.pieces(part) for part in parts])
                    for parts in (first, [own.target] if own.target and given.judged else [])
                    if parts
                ]
            )

    def pieces(self, part: BatchPart) -> list[Any]:
        """The part's value for each piece."""
        whole = self.rows.pieces(part)
        return whole if self.slicing is None else self.slicing.cut(whole, part.label)

    def of(self, pipeline: Pipeline) -> slice:
        """Which pieces are those of the pipeline."""
        rows = self.rows_of(pipeline)
        return slice(rows.start * self.each, rows.stop * self.each)

    def shares(self, found: list[LossShare]) -> list[LossShare]:
        """The share of each piece, of those of the micro-batches."""
        return found if self.slicing is None else self.slicing.parted(found)

    def rows_of(self, pipeline: Pipeline) -> slice:
        """Which micro-batches are those of the pipeline."""
        return slice(pipeline.first, pipeline.first + pipeline.microbatches)


def _rows(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """From values by micro-batch, by name, to values by name, by micro-batch."""
    return [{name: values[m] for name, values in columns.items()} for m in range(count)]


def _first_arguments(
    x: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    keywords: Sequence[dict[str, Any]],
    own: FurtherArguments,
) -> list[Arguments]:
    """The arguments of a first stage; none where it is given nothing."""
    if not x and not any(keywords) and not any(own.kwargs):
        return []
    x = x or [((), {})] * len(keywords)
    rows = zip(x, keywords, own.kwargs, strict=True)
    return [Arguments(args, {**named, **given, **more}) for (args, named), given, more in rows]


def _further(
    module: nn.Module, offered: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]]
) -> FurtherArguments:
    """What a stage takes of the keywords that all are offered, and its own."""
    accepted = keywords_of(module)
    rows = zip(offered, own, strict=True)
    given = [{**accepted.of(keywords), **more} for keywords, more in rows]
    names = own[0].keys() if own else ()
    return FurtherArguments(
        given, tuple(None if name in names else name for name in accepted.ordered)
    )


def _judging(
    graph: StageGraph, model: int, given: ModelGiven, cut: _Cutting, target: Sequence[Any]
) -> list[Judging]:
    if not target:
        return []
    options, keywords = given.options, given.step.loss_kwargs or {}
    total = for_model(graph, given.step.weight_total, model, "weight_total")
    if options.scale_loss is False:
        if total is not None:
            raise PipelineError("weight_total scales the loss, and scale_loss=False does not")
        return [Judging(s, keywords) for s in cut.shares([LossShare()] * (len(target) // cut.each))]
    weigh: Any = options.scale_loss
    if isinstance(weigh, Mapping):
        own_names = {graph.spec.pipelines[p].name for p in graph.originals()}
        if unknown := [str(name) for name in weigh if name not in own_names]:
            raise PipelineError(
                f"scale_loss has {', '.join(unknown)}, and this plan has "
                f"{', '.join(sorted(own_names))}"
            )
        weigh = weigh.get(graph.spec.pipelines[model].name, True)
    if weigh is not True and not callable(weigh):
        kind = type(weigh).__name__
        raise PipelineError(
            f"scale_loss is a {kind}: give True, False, or a function of the target"
        )
    if callable(weigh):
        found = shares(target, weigh, None, total)
    else:
        rows = cut.rows.lengths if options.ragged else None
        found = cut.shares(shares(target[:: cut.each], None, rows, total))
    return [Judging(share, keywords) for share in found]


def shares_by_name(
    graph: StageGraph, given: Mapping[int, PipelineMicrobatches], slicing: Slicing | None
) -> dict[str, list[LossShare]]:
    """The share of each micro-batch in the loss of the step, by pipeline's name."""
    return {
        graph.spec.pipelines[p].name: shares if slicing is None else slicing.shares(shares)
        for p, own in given.items()
        if (shares := own.shares)
    }


class Wanted(NamedTuple):
    """What the user wants of a step: containers to fill (None: not wanted), and the outputs."""

    losses: Any
    metrics: Any
    outputs: bool

    def check(self) -> None:
        """Raises `PipelineError` for what cannot be filled."""
        for name, target in (("losses", self.losses), ("metrics", self.metrics)):
            if target is not None and not isinstance(target, list | dict):
                kind = type(target).__name__
                raise PipelineError(f"{name} is a {kind}: give a list or a dict to be filled")


def merged_outputs(graph: StageGraph, outputs: Mapping[int, dict[int, Any]], spec: Any) -> Any:
    """What a step returns, of outputs by pipeline and micro-batch: the output, merged in the order
    of the micro-batches as `spec` says; a dict by pipeline's name where there are several; None
    where there are none. Raises `PipelineError` where it cannot be merged so."""
    if not outputs:
        return None
    found = {}
    for p, own in outputs.items():
        name = graph.spec.pipelines[p].name
        model = graph.original(p)
        said = spec if is_chunk(spec) else for_model(graph, spec, model, "output_merge_spec")
        label = "the output" if len(outputs) == 1 else f"the output of `{name}`"
        found[name] = merged(_in_order(own), said, label)
    return found if len(found) > 1 else next(iter(found.values()))


def fill(graph: StageGraph, found: Mapping[int, dict[int, Any]], target: Any) -> None:
    """Fills `target`, the list or dict that the user gave the step for losses or metrics: a list in
    the order of the model's micro-batches, a dict by pipeline's name. What was in it is cleared."""
    by_name = {
        graph.spec.pipelines[p].name: _in_order(found[p])
        for p in sorted(found, key=lambda p: (graph.original(p), graph.spec.pipelines[p].first))
    }
    if target is not None:
        target.clear()
    if isinstance(target, dict):
        target.update(by_name)
    elif target is not None:
        target.extend(one for own in by_name.values() for one in own)


def _in_order(found: dict[int, Any]) -> list[Any]:
    return [found[m] for m in sorted(found)]
