"""Which stage feeds which, and which copies share weights: what a rank asks of the Spec."""

from collections.abc import Iterable
from graphlib import TopologicalSorter
from typing import NamedTuple

from stretto.compiler.program.program import (
    NONE,
    Pipeline,
    Spec,
)


class Place(NamedTuple):
    """A stage of a pipeline, by their indices."""

    pipeline: int
    stage: int


def place_in_words(spec: Spec, place: Place) -> str:
    return f"{spec.pipelines[place.pipeline].name}[{place.stage}]"


def feeders(spec: Spec, place: Place) -> list[Place]:
    """The last stages whose output this stage takes as well, by pipeline."""
    return [
        Place(q, len(other.stages) - 1)
        for q, other in enumerate(spec.pipelines)
        if any((feed.pipeline, feed.stage) == place for feed in other.feeds)
    ]


def sources(spec: Spec, place: Place) -> list[Place]:
    """The stages whose outputs this stage takes, in the order of its arguments: the stage before
    it, then those that feed it."""
    before = [Place(place.pipeline, place.stage - 1)] if place.stage else []
    return before + feeders(spec, place)


def is_last(spec: Spec, place: Place) -> bool:
    return place.stage == len(spec.pipelines[place.pipeline].stages) - 1


def original(spec: Spec, pipeline: int) -> int:
    """The pipeline whose weights, and whose batch, this one shares: itself, or what it copies."""
    copied = spec.pipelines[pipeline].replicates
    return pipeline if copied == NONE else copied


def together(spec: Spec, pipeline: int) -> int:
    """Micro-batches of the step over all copies of the pipeline's model."""
    own = original(spec, pipeline)
    return sum(p.microbatches for q, p in enumerate(spec.pipelines) if original(spec, q) == own)


def streams(spec: Spec) -> list[int]:
    """The pipelines that have a batch of their own."""
    return [p for p in range(len(spec.pipelines)) if original(spec, p) == p]


def learners(spec: Spec, place: Place) -> list[Place]:
    """The stages that use this stage's output and send its gradient back."""
    pipeline = spec.pipelines[place.pipeline]
    if not is_last(spec, place):
        return [Place(place.pipeline, place.stage + 1)] if not pipeline.forward_only else []
    return [Place(*feed) for feed in sorted(pipeline.feeds) if _learns(spec, pipeline, feed)]


def _learns(spec: Spec, pipeline: Pipeline, feed: tuple[int, int]) -> bool:
    return not pipeline.forward_only and not spec.pipelines[feed[0]].forward_only


def ends_in_loss(spec: Spec, place: Place) -> bool:
    """Whether the stage's output goes to the loss."""
    forward_only = spec.pipelines[place.pipeline].forward_only
    return is_last(spec, place) and not forward_only and not learners(spec, place)


def ends(spec: Spec, place: Place) -> bool:
    """Whether the stage's output is a result of the step: no other stage takes it."""
    return is_last(spec, place) and not spec.pipelines[place.pipeline].feeds


def gives(spec: Spec, place: Place) -> bool:
    """Whether another stage takes the stage's output."""
    return not is_last(spec, place) or bool(spec.pipelines[place.pipeline].feeds)


def downwards(spec: Spec) -> Iterable[Place]:
    """All stages, each behind those it takes something from: ranks that go by one such sequence
    never wait for each other in a circle."""
    places = [
        Place(p, s)
        for p, pipeline in enumerate(spec.pipelines)
        for s in range(len(pipeline.stages))
    ]
    return TopologicalSorter({place: sources(spec, place) for place in places}).static_order()
