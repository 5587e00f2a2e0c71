"""Spec → `StageGraph`: which stage feeds which, and which copies share weights, as a rank asks it.
Stages are `StageId`s, pipelines their indices in the Spec."""

from typing import NamedTuple

from stretto.compiler.program.program import Operation, Spec, show
from stretto.compiler.program.topology import Topology, topological


def numbered(spec: Spec, operation: Operation) -> Operation:
    """The operation as the runtime counts: where micro-batches are cut into slices, each slice is
    one of its own, slice k of micro-batch m number m * slices + k."""
    if not spec.slices:
        return operation
    return operation._replace(microbatch=operation.microbatch * spec.slices + operation.slice)


def shown(spec: Spec, operation: Operation) -> str:
    """The name of an operation that was `numbered`, as in the schedule: `F main[0, 3, slice 2]`."""
    if spec.slices:
        operation = operation._replace(microbatch=operation.microbatch // spec.slices)
    return show(spec, operation)


def microbatch_name(spec: Spec, number: int) -> str:
    """`3`, or where the runtime counts slices `3, slice 2`."""
    if not spec.slices:
        return str(number)
    return f"{number // spec.slices}, slice {number % spec.slices},"


class StageId(NamedTuple):
    """A stage of a pipeline, by their indices in the Spec."""

    pipeline: int
    stage: int


class StageGraph:
    """See the module. By stage: `sources`, the stages whose outputs it takes, in the order of its
    arguments (the stage before it, then the last stages of pipelines that feed it); `users`, those
    that take its own; `gradient_senders`, those of them that send its gradient back. `stages`: all
    of them, pipeline after pipeline."""

    def __init__(self, spec: Spec):
        self.spec, self.topology = spec, Topology(spec)
        arriving, leaving = self.topology.arriving, self.topology.leaving
        self.stages = [StageId(*stage) for stage in arriving]
        self.sources = {
            stage: [StageId(*flow.source) for flow in arriving[stage]] for stage in self.stages
        }
        self.users = {
            stage: sorted(StageId(*flow.target) for flow in leaving[stage]) for stage in self.stages
        }
        self.gradient_senders = {
            stage: sorted(StageId(*flow.target) for flow in leaving[stage] if flow.trains)
            for stage in self.stages
        }

    def in_order(self) -> list[StageId]:
        """All stages, each behind those it takes something from: ranks that go by one such sequence
        never wait for each other in a circle."""
        number = {stage: k for k, stage in enumerate(self.stages)}
        heads = [[number[user] for user in self.users[stage]] for stage in self.stages]
        waits = [len(self.sources[stage]) for stage in self.stages]
        return [self.stages[k] for k in topological(heads, waits)]

    def on_rank(self, rank: int) -> list[StageId]:
        """The stages that the rank holds: by stage, then pipeline."""
        own = [stage for stage in self.stages if self.topology.rank_of(stage) == rank]
        return sorted(own, key=lambda stage: (stage.stage, stage.pipeline))

    def label(self, stage: StageId) -> str:
        """`main[3]`: how messages call the stage."""
        return f"{self.spec.pipelines[stage.pipeline].name}[{stage.stage}]"

    def ends_in_loss(self, stage: StageId) -> bool:
        """Whether the stage's output goes to the loss."""
        last = stage.stage == len(self.spec.pipelines[stage.pipeline].stages) - 1
        forward_only = self.spec.pipelines[stage.pipeline].forward_only
        return last and not forward_only and not self.gradient_senders[stage]

    def judged(self) -> list[int]:
        """The pipelines whose output goes to the loss."""
        return [stage.pipeline for stage in self.stages if self.ends_in_loss(stage)]

    def original(self, pipeline: int) -> int:
        """The pipeline whose weights and batch this one shares: the one it copies, or itself."""
        return self.topology.original(pipeline)

    def originals(self) -> list[int]:
        """The pipelines that copy no other, and so have a batch and weights of their own."""
        return [p for p in range(len(self.spec.pipelines)) if self.original(p) == p]

    def model_microbatches(self, pipeline: int) -> int:
        """Micro-batches of the step over all copies of the pipeline's model."""
        return sum(self.spec.pipelines[p].microbatches for p in self.topology.copies(pipeline))
