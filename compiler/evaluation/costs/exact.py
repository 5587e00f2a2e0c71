"""`ExactCosts`: what the operations of a step cost, in the file's own units; and which of them
differ from their stage's figure."""

from collections.abc import Iterator

from msgspec import Struct

from stretto.compiler.evaluation.costs.table import CostTable, Exact
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import NONE, Kind, Operation

Overrides = dict[Operation, Exact]
"""Operations whose duration is not their stage's."""


class ExactCosts(Struct, frozen=True):
    """The table of costs with the pipelines it is about. Loops over many operations spend from the
    `budget`."""

    declared: Declarations
    pipelines: tuple[ResolvedPipeline, ...]
    table: CostTable
    budget: LoopBudget

    @property
    def overlapping(self) -> list[Kind]:
        """The kinds that an F may overlap with."""
        return [kind for kind in ("B", "I") if kind in self.declared.overlap]

    def stages_on(self, rank: int) -> Iterator[tuple[ResolvedPipeline, int]]:
        """The stages that a rank holds, pipeline by pipeline."""
        for p in self.pipelines:
            for stage, where in enumerate(p.ranks):
                if where == rank:
                    yield p, stage

    def operations_on(self, rank: int, kind: Kind) -> Iterator[Operation]:
        """All operations of a kind on a rank."""
        slices = range(self.declared.slices) if self.declared.slices else (NONE,)
        for p, stage in self.stages_on(rank):
            if kind == "F" or not p.forward_only:
                for m in range(p.microbatches):
                    for k in slices:
                        yield Operation(kind, p.index, stage, m, k)

    def duration(self, operation: Operation, overrides: Overrides) -> Exact:
        """How long the operation takes alone."""
        found = overrides.get(operation)
        if found is not None:
            return found
        return self.table.of_stage(operation.kind, operation.pipeline, operation.stage)


def overrides(costs: ExactCosts) -> Overrides:
    """The operations whose duration is not their stage's, in the order of the pipelines."""
    found: Overrides = {}
    kinds: tuple[Kind, ...] = ("F", "B", "I", "W") if costs.declared.split else ("F", "B")
    for p in costs.pipelines:
        for stage in range(len(p.ranks)):
            for kind in kinds[:1] if p.forward_only else kinds:
                usual = costs.table.of_stage(kind, p.index, stage)
                for m, k in costs.table.varying_cells(kind, p.index, stage):
                    ticks = costs.table.of_cell(kind, p.index, stage, (m, k))
                    if ticks != usual:
                        found[Operation(kind, p.index, stage, m, k)] = ticks
    return found
