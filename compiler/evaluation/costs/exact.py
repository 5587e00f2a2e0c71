"""`ExactCosts`: what the operations of a step cost, in the file's own units; and which of them
differ from their stage's figure."""

from collections.abc import Iterator

from msgspec import Struct

from stretto.compiler.evaluation.costs.table import CostTable, Exact
from stretto.compiler.evaluation.declared import Declarations
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.resolved import ResolvedPipeline
from stretto.compiler.problem.spec import (
    MAIN_KINDS,
    NONE,
    Kind,
    Operation,
    backward_kinds,
)

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

    def kinds_of(self, p: ResolvedPipeline, stage: int) -> Iterator[tuple[int, Kind]]:
        """The kinds of operations that a stage has in training or, where it is cut, each of its
        parts: with the part's number, -1 where there are none. A whole backward may run whole even
        where backwards are split."""
        if not p.chains:
            kinds = MAIN_KINDS if self.declared.split else MAIN_KINDS[:2]
            yield from ((NONE, kind) for kind in (kinds[:1] if p.forward_only else kinds))
            return
        split = self.declared.split is not None
        for i, part in enumerate(p.chains[stage]):
            yield i, "F"
            if not p.forward_only:
                yield from ((i, kind) for kind in backward_kinds(part.stream, split))

    def figures(self, p: ResolvedPipeline, stage: int) -> list[dict[str, Exact]]:
        """What each part of a stage costs, by kind, 0 for what it does not have, and its
        `activation`; nothing where stages are whole."""
        chain = p.chains[stage] if p.chains else ()
        found: list[dict[str, Exact]] = [
            {
                **dict.fromkeys(MAIN_KINDS, 0),
                "activation": self.table.part_activation.get((p.index, stage, i), 0),
            }
            for i in range(len(chain))
        ]
        for i, kind in self.kinds_of(p, stage) if chain else ():
            found[i][kind] = self.table.of_stage(kind, p.index, stage, i)
        return found

    def duration(self, operation: Operation, overrides: Overrides) -> Exact:
        """How long the operation takes alone."""
        found = overrides.get(operation)
        if found is not None:
            return found
        return self.table.of_stage(operation.kind, operation.pipeline, operation.stage)


def overrides(costs: ExactCosts) -> Overrides:
    """The operations whose duration is not their stage's, in the order of the pipelines."""
    found: Overrides = {}
    table = costs.table
    for p in costs.pipelines:
        for stage in range(len(p.ranks)):
            for part, kind in costs.kinds_of(p, stage):
                usual = table.of_stage(kind, p.index, stage, part)
                for m, k in table.varying_cells(kind, p.index, stage, part):
                    ticks = table.of_cell(kind, p.index, stage, (m, k), part)
                    if ticks != usual:
                        found[Operation(kind, p.index, stage, m, k, part)] = ticks
    return found
