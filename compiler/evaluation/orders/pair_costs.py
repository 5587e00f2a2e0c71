"""What the parts of an order's pairs take, in ticks of a scale of their own: a pair's sequence is
found before the whole file has one."""

from collections.abc import Iterable
from functools import cached_property
from math import lcm
from typing import TYPE_CHECKING

from stretto.compiler.evaluation.costs.exact import ExactCosts, Overrides, overrides
from stretto.compiler.evaluation.costs.table import Exact
from stretto.compiler.problem.spec import NONE, Kind, Operation

if TYPE_CHECKING:  # most schedules have no parts
    from stretto.compiler.evaluation.orders.part_resolver import Taken
    from stretto.compiler.problem.strands import Strand


class PairCosts:
    """The strands of operations; those of a stage are one value where they take equally long."""

    def __init__(self, exact: ExactCosts):
        self.exact = exact
        self._known: dict[tuple[Kind, int, int], Strand] = {}

    @cached_property
    def unit(self) -> int:
        """How many ticks one unit of the file's costs has here: as many as keep all of them
        whole."""
        exact = self.exact
        usual = (
            figures[kind]
            for p in exact.pipelines
            for stage in range(len(p.ranks))
            for figures in exact.figures(p, stage)
            for kind in "FBIW"
        )
        return lcm(*_denominators(usual), *_denominators(self._unusual.values()))

    @cached_property
    def _unusual(self) -> Overrides:
        return overrides(self.exact)

    @cached_property
    def _varying(self) -> set[tuple[int, int]]:
        """The stages some of whose micro-batches differ."""
        return {(o.pipeline, o.stage) for o in self._unusual}

    def strand(self, taken: "Taken") -> "Strand":
        """The strand of a whole operation."""
        from stretto.compiler.problem.wholes import strand

        cursor, which, m, own = taken
        p, s = cursor.pipeline.index, cursor.stage
        varies = (p, s) in self._varying
        known = None if varies else self._known.get((which, p, s))
        if known is None:
            known = strand(own, cursor.chain, lambda kind, k: self._ticks(kind, p, s, m, k))
            if not varies:
                self._known[which, p, s] = known
        return known

    def _ticks(self, kind: Kind, p: int, s: int, m: int, part: int) -> int:
        found = self._unusual.get(Operation(kind, p, s, m, NONE, part))
        if found is None:
            found = self.exact.table.of_stage(kind, p, s, part)
        return int(found * self.unit)


def _denominators(values: Iterable[Exact]) -> Iterable[int]:
    return (value.denominator for value in values)
