"""Between the whole batch that a step is given and each pipeline's micro-batches of it, and back
from the micro-batches' outputs and losses to what the step returns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from stretto.compiler.program.program import ProgramName
from stretto.runtime.batch import merged, pieces
from stretto.runtime.errors import PipelineError
from stretto.runtime.rank_program import RankPlan
from stretto.runtime.stage.stage_module import StageModule
from stretto.runtime.topology import StageGraph, StageId


class PipelineMicrobatches(NamedTuple):
    """One pipeline's inputs and targets, by micro-batch; empty where the rank was given none."""

    x: Sequence[Any] = ()
    target: Sequence[Any] = ()


NOTHING = PipelineMicrobatches()


def microbatches(
    plan: RankPlan, stages: Mapping[StageId, StageModule], name: ProgramName, x: Any, target: Any
) -> dict[int, PipelineMicrobatches]:
    """Every pipeline's micro-batches, by pipeline, of what a step was given. Raises `PipelineError`
    where this rank needs what it was not given, or a batch does not divide."""
    graph, found = plan.graph, {}
    for p, pipeline in enumerate(plan.spec.pipelines):
        judges = [stage for at, stage in stages.items() if at.pipeline == p and stage.loss]
        whole_x = _batch_of(graph, x, p, "x")
        whole_target = _batch_of(graph, target, p, "target") if judges else None
        first = stages.get(StageId(p, 0))
        if whole_x is None and first is not None and not first.sources:
            raise PipelineError(
                f"rank {plan.rank} has the first stage of `{pipeline.name}`: give it x"
            )
        if whole_target is None and name == "train" and any(stage.learns for stage in judges):
            raise PipelineError(
                f"rank {plan.rank} ends `{pipeline.name}` with the loss: give it target"
            )
        found[p] = PipelineMicrobatches(
            _cut(graph, whole_x, p, "x"), _cut(graph, whole_target, p, "target")
        )
    return found


def pipeline_microbatches(graph: StageGraph, given: Any, pipeline: int, what: str) -> Sequence[Any]:
    """The pipeline's own micro-batches of what a step was given as `what`, x or target: of its
    model's batch, cut along dimension 0. Empty where it was given nothing. Raises `PipelineError`
    where the batch does not divide, or models differ and it is no dict."""
    return _cut(graph, _batch_of(graph, given, pipeline, what), pipeline, what)


def _cut(graph: StageGraph, batch: Any, pipeline: int, what: str) -> Sequence[Any]:
    if batch is None:
        return ()
    cut = pieces(batch, graph.model_microbatches(pipeline), input_label(graph, what, pipeline))
    own = graph.spec.pipelines[pipeline]
    return cut[own.first : own.first + own.microbatches]


def _batch_of(graph: StageGraph, given: Any, pipeline: int, what: str) -> Any:
    """What was given for the pipeline: all of it, or its model's entry where models differ."""
    if given is None or len(graph.originals()) == 1:
        return given
    if not isinstance(given, Mapping):
        names = ", ".join(graph.spec.pipelines[p].name for p in graph.originals())
        raise PipelineError(f"give {what} as a dict by pipeline: this plan has {names}")
    return given.get(graph.spec.pipelines[graph.original(pipeline)].name)


def input_label(graph: StageGraph, what: str, pipeline: int) -> str:
    """How messages call the pipeline's x or target."""
    if len(graph.originals()) == 1:
        return what
    return f"{what} of `{graph.spec.pipelines[graph.original(pipeline)].name}`"


def merged_outputs(graph: StageGraph, outputs: Mapping[int, dict[int, Any]]) -> Any:
    """What a step returns, of outputs by pipeline and micro-batch: the output, merged in the order
    of the micro-batches; a dict by pipeline's name where there are several; None where there are
    none."""
    if not outputs:
        return None
    found = {graph.spec.pipelines[p].name: merged(_in_order(own)) for p, own in outputs.items()}
    return found if len(found) > 1 else next(iter(found.values()))


def fill_losses(graph: StageGraph, losses: Mapping[int, dict[int, Tensor]], target: Any) -> None:
    """Fills `target`, the list or dict that the user gave the step: a list with the losses in the
    order of the model's micro-batches, a dict by pipeline's name. What was in it is cleared."""
    by_name = {
        graph.spec.pipelines[p].name: _in_order(losses[p])
        for p in sorted(losses, key=lambda p: (graph.original(p), graph.spec.pipelines[p].first))
    }
    if target is not None:
        target.clear()
    if isinstance(target, dict):
        target.update(by_name)
    elif target is not None:
        target.extend(loss for found in by_name.values() for loss in found)


def _in_order(found: dict[int, Any]) -> list[Any]:
    return [found[m] for m in sorted(found)]
