"""`CostTable`: what operations cost and leave in memory, exact and in the units of the file."""

from fractions import Fraction
from typing import Any, NamedTuple

from msgspec import Struct

from stretto.compiler.diagnostics.source import Span
from stretto.compiler.evaluation.chains import StageChain
from stretto.compiler.evaluation.expressions.values import Code, number, show
from stretto.compiler.evaluation.reports import eval_error
from stretto.compiler.problem.spec import NONE, Kind, backward_kinds

Exact = int | Fraction

MOST = 2**53
"""The most ticks or grains of one thing: up to here every reader of JSON has exact integers."""

StageKey = tuple[str, int, int, int]  # kind, pipeline, stage, part
CellKey = tuple[int, int]  # micro-batch, slice
StagePattern = tuple[int, int]  # pipeline, stage; -1 for any


class PairCost(NamedTuple):
    """A compiled `cost F | B = E`; `ticks` computes E from the costs of the two."""

    ordinal: int  # of this cost among all costs of pairs
    code: Code
    size: int
    slots: tuple[int, int]
    bindings: tuple[tuple[int, Any], ...]
    span: Span

    def ticks(self, forward: Exact, backward: Exact) -> Exact:
        """How long a unit takes whose halves take so long. Raises `EvalError`."""
        env: list[Any] = [None] * self.size
        for slot, value in self.bindings:
            env[slot] = value
        env[self.slots[0]], env[self.slots[1]] = forward, backward
        return duration(self.code(env), self.span)


class CostTable(Struct):
    """What the statements say of costs and memory, of stages that are whole, or of the parts of
    their `chains`. What has no entry has the default."""

    chains: tuple[tuple[StageChain, ...], ...] = ()  # by pipeline and stage
    stages: dict[StageKey, Exact] = {}
    cells: dict[StageKey, dict[CellKey, Exact]] = {}
    pairs: dict[tuple[str, StagePattern, StagePattern], PairCost] = {}
    activation: dict[tuple[int, int], Exact] = {}
    part_activation: dict[tuple[int, int, int], Exact] = {}
    kept: dict[tuple[int, int], tuple[Exact, Span]] = {}
    transfers: dict[tuple[int, int], Exact] = {}
    limits: dict[int, tuple[Exact, Span]] = {}
    reduces: dict[tuple[int, int], Exact] = {}
    unshards: dict[tuple[int, int], Exact] = {}
    stated: dict[Exact, Span] = {}
    """For every value that a statement gave, where it stands first."""

    def duration(self, value: Any, span: Span) -> Exact:
        """A value that is a duration, and stands there. Raises `EvalError`."""
        return self._stated(duration(value, span), span)

    def size(self, value: Any, span: Span) -> Exact:
        """A value that is an amount of memory, and stands there. Raises `EvalError`."""
        return self._stated(size(value, span), span)

    def _stated(self, value: Exact, span: Span) -> Exact:
        self.stated.setdefault(value, span)
        return value

    def of_stage(self, kind: Kind, pipeline: int, stage: int, part: int = NONE) -> Exact:
        """What an operation of this stage takes, where its micro-batch makes no difference."""
        stated = self.stages.get((kind, pipeline, stage, part))
        if stated is not None:
            return stated
        made_of = self.made_of(kind, pipeline, stage, part)
        return sum(self.of_stage(k, pipeline, stage, part) for k in made_of) if made_of else 1

    def of_cell(
        self, kind: Kind, pipeline: int, stage: int, cell: CellKey, part: int = NONE
    ) -> Exact:
        """What the operation on this micro-batch and slice takes."""
        stated = self.cells.get((kind, pipeline, stage, part), {}).get(cell)
        if stated is not None:
            return stated
        made_of = self.made_of(kind, pipeline, stage, part)
        if not made_of:
            return self.of_stage(kind, pipeline, stage, part)
        return sum(self.of_cell(k, pipeline, stage, cell, part) for k in made_of)

    def made_of(self, kind: str, pipeline: int, stage: int, part: int) -> tuple[Kind, ...]:
        """The kinds whose costs together are the cost of this one; none where it has its own, or
        costs 1."""
        if (kind, pipeline, stage, part) in self.stages or kind == "F":
            return ()
        if kind == "B":
            stream = self.chains[pipeline][stage][part].stream if part != NONE else 0
            return backward_kinds(stream, split=True)
        return () if part == NONE else ("F",)

    def of_pair(
        self,
        forward: StagePattern,
        kind: str,
        backward: StagePattern,
        forward_ticks: Exact,
        backward_ticks: Exact,
    ) -> Exact | None:
        """What the last fitting `cost F | B` says of a unit of these stages whose halves take so
        long; None where none fits."""
        forwards = (forward, (forward[0], NONE), (NONE, NONE))
        backwards = (backward, (backward[0], NONE), (NONE, NONE))
        fitting = [self.pairs.get((kind, x, y)) for x in forwards for y in backwards]
        last = max((cost for cost in fitting if cost), key=lambda c: c.ordinal, default=None)
        if last is None:
            return None
        return self._stated(last.ticks(forward_ticks, backward_ticks), last.span)

    def varying_cells(
        self, kind: Kind, pipeline: int, stage: int, part: int = NONE
    ) -> list[CellKey]:
        """Micro-batches and slices where the operation may cost something else, in order."""
        cells = set(self.cells.get((kind, pipeline, stage, part), {}))
        for k in self.made_of(kind, pipeline, stage, part):
            cells.update(self.varying_cells(k, pipeline, stage, part))
        return sorted(cells)


def duration(value: Any, span: Span) -> Exact:
    """A value that is a duration. Raises `EvalError`."""
    ticks = number(value, span, "a duration")
    if ticks < 0:
        raise eval_error("out-of-range", f"a duration cannot be {show(ticks)}", span)
    return _bearable(ticks, span, "a duration")


def size(value: Any, span: Span) -> Exact:
    """A value that is an amount of memory. Raises `EvalError`."""
    amount = number(value, span, "an amount of memory")
    if amount < 0:
        raise eval_error("out-of-range", f"an amount of memory cannot be {show(amount)}", span)
    return _bearable(amount, span, "an amount of memory")


def _bearable(value: Exact, span: Span, what: str) -> Exact:
    """The value, unless it is too large for whole ticks in any unit. Raises `EvalError`."""
    if value > MOST:
        message = f"{what} is 2^53 at most, and this is {show(value)}"
        raise eval_error("too-large", message, span, help="count in a larger unit")
    return value
