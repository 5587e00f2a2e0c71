"""Spec → `Topology`: which stages give each other data, and what an operation therefore needs."""

from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import NONE, Operation, Spec

StageIndex = tuple[int, int]
"""A stage: its pipeline, and its place there."""


class DataFlow(NamedTuple):
    """The outputs of stage `source` are inputs of stage `target`, micro-batch by micro-batch, and
    are there `ticks` after they were made. If `trains`, gradients come back, in `ticks_back`."""

    source: StageIndex
    target: StageIndex
    ticks: int
    ticks_back: int
    trains: bool


class Dependency(NamedTuple):
    """An operation starts no earlier than `ticks` after the end of `operation`. A `B` here stands
    for the I of a backward that is split."""

    operation: Operation
    why: EdgeKind
    ticks: int


class Topology:
    """See the module. By stage: `leaving`, the flows from it, as in the file; `arriving`, those to
    it in the order in which a forward reads them: its own pipeline's, then as in the file."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self._transfer = {(t.source, t.target): t.ticks for t in spec.transfers}
        stages = [(p, s) for p, line in enumerate(spec.pipelines) for s in range(len(line.stages))]
        self.leaving: dict[StageIndex, list[DataFlow]] = {stage: [] for stage in stages}
        self.arriving: dict[StageIndex, list[DataFlow]] = {stage: [] for stage in stages}
        for p, line in enumerate(spec.pipelines):
            last = len(line.stages) - 1
            flows = [self._flow((p, s), (p, s + 1)) for s in range(last)]
            flows += [self._flow((p, last), (q, stage)) for q, stage in line.feeds]
            for flow in flows:
                self.leaving[flow.source].append(flow)
                self.arriving[flow.target].append(flow)
        for (q, _), flows in self.arriving.items():
            flows.sort(key=lambda flow: (flow.source[0] != q, flow.source[0]))
        self._gradients = {
            stage: sorted([flow for flow in flows if flow.trains], key=lambda flow: flow.target)
            for stage, flows in self.leaving.items()
        }

    def _flow(self, source: StageIndex, target: StageIndex) -> DataFlow:
        lines, a, b = self.spec.pipelines, self.rank_of(source), self.rank_of(target)
        trains = not lines[source[0]].forward_only and not lines[target[0]].forward_only
        return DataFlow(source, target, self.transfer(a, b), self.transfer(b, a), trains)

    def rank_of(self, stage: StageIndex) -> int:
        """The rank that the stage is on."""
        return self.spec.pipelines[stage[0]].stages[stage[1]].rank

    def rank(self, operation: Operation) -> int:
        """The rank that runs the operation."""
        return self.spec.pipelines[operation.pipeline].stages[operation.stage].rank

    def transfer(self, source: int, target: int) -> int:
        """Ticks that a result is on its way from rank `source` to rank `target`."""
        return self._transfer.get((source, target), 0) if source != target else 0

    def original(self, pipeline: int) -> int:
        """The pipeline whose weights these are; itself, where it is no copy."""
        of = self.spec.pipelines[pipeline].replicates
        return pipeline if of == NONE else of

    def copies(self, pipeline: int) -> list[int]:
        """All pipelines that share the weights of this one, itself among them, as in the file."""
        mine = self.original(pipeline)
        return [q for q in range(len(self.spec.pipelines)) if self.original(q) == mine]

    def data(self, one: Operation) -> Iterator[Dependency]:
        """The results of other stages that the operation reads, in the order in which it does."""
        letter, p, s, *which = one  # `_replace` would take most of the time of `explain`
        kind = KINDS[letter]
        if kind.uses == "activation":
            for flow in self.arriving[p, s]:
                operation = Operation(letter, *flow.source, *which)
                yield Dependency(operation, EdgeKind.ACTIVATION, flow.ticks)
        elif kind.uses == "gradient":
            for flow in self._gradients[p, s]:
                operation = Operation("B", *flow.target, *which)
                yield Dependency(operation, EdgeKind.GRADIENT, flow.ticks_back)

    def needs(self, one: Operation) -> Iterator[Dependency]:
        """Everything that the operation needs: of its own stage, then of others, then the slice
        of its micro-batch that goes before it."""
        kind = KINDS[one.kind]
        if kind.follows:
            yield Dependency(Operation(kind.follows, *one[1:]), EdgeKind.LOCAL, 0)
        yield from self.data(one)
        if one.slice != NONE and kind.slices:
            before = one.slice - kind.slices
            if 0 <= before < self.spec.slices:
                same = "B" if kind.leaves == "gradient" else one.kind
                yield Dependency(one._replace(kind=same, slice=before), EdgeKind.SLICE, 0)
