"""Which stage feeds which, and which copies share weights: what a rank asks of the Spec. In comes
the Spec, out come stages (`StageId`) and pipelines (their indices)."""

from collections.abc import Iterable
from graphlib import TopologicalSorter
from typing import NamedTuple

from stretto.compiler.program.program import NONE, Pipeline, Spec


class StageId(NamedTuple):
    """A stage of a pipeline, by their indices in the Spec."""

    pipeline: int
    stage: int


def stage_label(spec: Spec, stage: StageId) -> str:
    """`main[3]`: how messages call the stage."""
    return f"{spec.pipelines[stage.pipeline].name}[{stage.stage}]"


def all_stages(spec: Spec) -> list[StageId]:
    """The stages of every pipeline, pipeline after pipeline."""
    return [
        StageId(p, s)
        for p, pipeline in enumerate(spec.pipelines)
        for s in range(len(pipeline.stages))
    ]


def last_stage(spec: Spec, pipeline: int) -> StageId:
    """The stage at the end of the pipeline."""
    return StageId(pipeline, len(spec.pipelines[pipeline].stages) - 1)


def is_last(spec: Spec, stage: StageId) -> bool:
    """Whether the stage is at the end of its pipeline."""
    return stage == last_stage(spec, stage.pipeline)


def sources(spec: Spec, stage: StageId) -> list[StageId]:
    """The stages whose outputs this stage takes, in the order of its arguments: the stage before
    it, then the last stages of pipelines that feed it, by pipeline."""
    before = [StageId(stage.pipeline, stage.stage - 1)] if stage.stage else []
    feeding = [
        last_stage(spec, p)
        for p, pipeline in enumerate(spec.pipelines)
        if any((feed.pipeline, feed.stage) == stage for feed in pipeline.feeds)
    ]
    return before + feeding


def has_users(spec: Spec, stage: StageId) -> bool:
    """Whether another stage takes the stage's output."""
    return not is_last(spec, stage) or bool(spec.pipelines[stage.pipeline].feeds)


def gradient_senders(spec: Spec, stage: StageId) -> list[StageId]:
    """The stages that use this stage's output and send its gradient back."""
    pipeline = spec.pipelines[stage.pipeline]
    if not is_last(spec, stage):
        return [StageId(stage.pipeline, stage.stage + 1)] if not pipeline.forward_only else []
    return [StageId(*feed) for feed in sorted(pipeline.feeds) if _learns(spec, pipeline, feed)]


def _learns(spec: Spec, pipeline: Pipeline, feed: tuple[int, int]) -> bool:
    return not pipeline.forward_only and not spec.pipelines[feed[0]].forward_only


def ends_in_loss(spec: Spec, stage: StageId) -> bool:
    """Whether the stage's output goes to the loss."""
    forward_only = spec.pipelines[stage.pipeline].forward_only
    return is_last(spec, stage) and not forward_only and not gradient_senders(spec, stage)


def original(spec: Spec, pipeline: int) -> int:
    """The pipeline whose weights and batch this one shares: the one it copies, or itself."""
    copied = spec.pipelines[pipeline].replicates
    return pipeline if copied == NONE else copied


def originals(spec: Spec) -> list[int]:
    """The pipelines that copy no other, and so have a batch and weights of their own."""
    return [p for p in range(len(spec.pipelines)) if original(spec, p) == p]


def model_microbatches(spec: Spec, pipeline: int) -> int:
    """Micro-batches of the step over all copies of the pipeline's model."""
    own = original(spec, pipeline)
    return sum(p.microbatches for q, p in enumerate(spec.pipelines) if original(spec, q) == own)


def topological(spec: Spec) -> Iterable[StageId]:
    """All stages, each behind those it takes something from: ranks that go by one such sequence
    never wait for each other in a circle."""
    return TopologicalSorter({s: sources(spec, s) for s in all_stages(spec)}).static_order()
