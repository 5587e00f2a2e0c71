"""Program → what moving work between stages would gain: a share of what a stage does, all kinds of
operations alike, given to the stage before or behind it, and the order as it is timed again.

Layers move between neighbours only, and copies of a stage move together. Nothing else moves: the
order, transfers and the sizes of activations stay. A pair whose cost the file says changes in
proportion to the costs of its two. Shares are whole percents; of each two stages the least share is
told that gains most. Of makespans it is found by bisection: the longest path through costs that are
linear in the share is convex in it. Of spans, which are not, all shares are tried.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from math import gcd, lcm
from typing import NamedTuple

from msgspec.structs import replace

from stretto.compiler.analysis.gains import Gain, WorkMove
from stretto.compiler.analysis.reoptimize import Units, step_spec, units_of
from stretto.compiler.analysis.retimed import RetimedOrder, retimed_order
from stretto.compiler.order.written import order_like
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import NONE, CostOverride, Costs, Operation, Spec, Stage
from stretto.compiler.program.collectives import without_collectives
from stretto.compiler.program.program import Program

EACH_SECOND = 1_500_000
"""Units and edges that are gone over in a second, about."""

WORK = 2 * EACH_SECOND  # all timings together

FEWEST = 30  # timings; where there is work for fewer, nothing is tried
SHOWN = 3  # the best moves
LONGEST = 1000  # bits of the common denominator of pairs

TOO_LARGE = "what moving work between stages would gain is not worked out at this size"
PAIRS = "what moving work between stages would gain is not worked out for so many costs of pairs"
MEANING = (
    "moving work keeps the order, the transfers and the sizes of activations; shares are whole "
    "percents, and in this order a larger one gains no more"
)
NO_MOVE = "in this order no stage's work gains anything at the stage before or behind it"
FRACTIONS = 100
LARGEST = 1 << 52  # ticks that a search counts with


class StageNeighbours(NamedTuple):
    """Work may go from stage `source` of pipeline `model` to stage `target`."""

    model: int
    source: int
    target: int


class Balance(NamedTuple):
    """The `moves` between neighbours that gain most, the best first; what the order would take if
    the work were spread evenly over all stages of a model; and what is to be said of both."""

    moves: tuple[WorkMove, ...] = ()
    even: tuple[Gain, ...] = ()
    notes: tuple[str, ...] = ()


def moving_work(program: Program, work: int = WORK) -> Balance:
    """Empty where all stages of each model cost the same. `work` bounds what is tried."""
    program = without_collectives(program)
    spec = replace(step_spec(program), written=())
    ways = list(_ways(spec))
    if not ways:
        return Balance()
    units = units_of(program)
    order = retimed_order(order_like(expand(spec), units, "again"))
    timings = work // max(order.size, 1)
    if timings < FEWEST:
        return Balance(notes=(TOO_LARGE,))
    trials = ShareTrials(spec, units, order)
    if trials.scale.bit_length() > LONGEST:
        return Balance(notes=(PAIRS,))
    moves, missed = _tried(spec, trials, ways, timings)
    even = tuple(_even(spec, trials, dict.fromkeys(way.model for way in ways)))
    notes = [MEANING if moves else NO_MOVE]
    if missed:
        notes.append(
            f"moving work was not tried for all neighbours at this size: {missed} are left out"
        )
    return Balance(tuple(moves[:SHOWN]), even, tuple(notes))


def _ways(spec: Spec) -> Iterator[StageNeighbours]:
    """What may be tried: from the stage that costs most of what its neighbour costs first."""
    work = [_work(spec, p) for p in range(len(spec.pipelines))]
    ways = [
        StageNeighbours(p, s, t)
        for p, line in enumerate(spec.pipelines)
        if line.replicates == NONE and len(set(work[p])) > 1
        for s in range(len(line.stages))
        for t in (s - 1, s + 1)
        if 0 <= t < len(line.stages) and work[p][s]
    ]
    yield from sorted(
        ways, key=lambda way: work[way.model][way.target] - work[way.model][way.source]
    )


def _work(spec: Spec, p: int) -> list[int]:
    """Ticks of each stage of the pipeline and its copies, all their micro-batches together."""
    line = spec.pipelines[p]
    kinds = ("F",) if line.forward_only else ("F", "B")
    many = line.microbatches * max(1, spec.slices)
    ticks = [
        many * sum(stage.ticks(kind) for kind in (*kinds, *stage.further)) for stage in line.stages
    ]
    for operation, cost in spec.exceptions:
        if operation.pipeline == p:
            stage = line.stages[operation.stage]
            ticks[operation.stage] += cost - stage.ticks(operation.kind)
    return ticks


def _tried(
    spec: Spec, trials: "ShareTrials", ways: list[StageNeighbours], timings: int
) -> tuple[list[WorkMove], int]:
    """The moves that gain anything, the best first, and how many neighbours there was no work left
    for."""
    before, left, missed = trials.value(ways[0], 0), timings - 1, 0
    bent = spec.minimize == "span"
    if not bent:  # what gains nothing by a percent gains nothing by more
        known = {way: trials.value(way, 1) for way in ways[:left]}
        left, missed = left - len(known), len(ways) - len(known)
        ways = sorted((way for way in known if known[way] < before), key=known.__getitem__)
    search, each = (_scan, FRACTIONS - 1) if bent else (_bisect, 2 * FRACTIONS.bit_length())
    moves = []
    for way in ways:
        if left < each:
            missed += 1
            continue
        left -= each
        percent, after = search(partial(trials.value, way))
        if after < before:
            name = spec.pipelines[way.model].name
            moves.append(WorkMove(name, way.source, way.target, percent, before, after))
    moves.sort(key=lambda move: (move.after, move.percent))
    return moves, missed


def _even(spec: Spec, trials: "ShareTrials", models: Iterable[int]) -> Iterator[Gain]:
    """What each of these models would take if its stages were all alike: in an order made for
    uneven ones that may be more."""
    for model in models:
        name = spec.pipelines[model].name
        what = f"the work of {name} spread evenly over its stages, in this order"
        yield Gain(what, trials.spread(model, 0), trials.spread(model, 1))


def _bisect(value: Callable[[int], Fraction]) -> tuple[int, Fraction]:
    """The least share from 1 to 99 of the least value, which is convex."""
    low, high = 1, FRACTIONS - 1
    while low < high:
        middle = (low + high) // 2
        if value(middle + 1) < value(middle):
            low = middle + 1
        else:
            high = middle
    return low, value(low)


def _scan(value: Callable[[int], Fraction]) -> tuple[int, Fraction]:
    """The same of any value."""
    after, percent = min((value(share), share) for share in range(1, FRACTIONS))
    return percent, after


class ShareTrials:
    """The order, timed with a share of one stage's work at its neighbour. Times are ticks times
    `scale`, so that no percent and no pair is rounded."""

    def __init__(self, spec: Spec, units: Units, order: RetimedOrder):
        self.spec, self.order = spec, order
        self.costs = Costs(spec)
        self.rows = [unit for row in units for unit in row]
        self.ticks = [self.costs.unit(unit) for unit in self.rows]
        self.sums = [sum(map(self.costs.of, unit)) for unit in self.rows]
        pairs = {b for a, b in zip(self.ticks, self.sums, strict=True) if a != b and b}
        self.scale = FRACTIONS * lcm(*pairs)
        self.way: StageNeighbours | None = None
        self.moved: list[int] = []

    def value(self, way: StageNeighbours, percent: int) -> Fraction:
        """What is minimized, in the units of the file."""
        if way != self.way:
            one = self.scale // FRACTIONS
            self.way = way
            self.moved = self._moved(lambda o: one * moved_ticks(self.spec, self.costs, way, o))
        return self._value(self.moved, percent, self.scale)

    def spread(self, model: int, share: int) -> Fraction:
        """The same with this share, 0 or 1, of the work of a model spread evenly over its
        stages."""
        lines, many = self.spec.pipelines, len(self.spec.pipelines[model].stages)

        def moved(operation: Operation) -> int:
            p = operation.pipeline
            if model not in (p, lines[p].replicates):
                return 0
            alike = (operation._replace(stage=s) for s in range(many))
            mean = sum(map(self.costs.of, alike)) - many * self.costs.of(operation)
            return self.scale * mean

        return self._value(
            self._moved(moved) if share else [0] * len(self.rows), 1, self.scale * many
        )

    def _moved(self, of: Callable[[Operation], int]) -> list[int]:
        """What every unit gets, where each operation gets what `of` says: of a pair with a cost of
        its own in proportion. Exact for multiples of `scale / FRACTIONS`."""
        rows = []
        for unit, ticks, whole in zip(self.rows, self.ticks, self.sums, strict=True):
            moved = sum(map(of, unit))
            rows.append(moved if ticks == whole or not whole else moved * ticks // whole)
        return rows

    def _value(self, moved: list[int], times: int, scale: int) -> Fraction:
        ticks = [a * scale + b * times for a, b in zip(self.ticks, moved, strict=True)]
        outcome = self.order.times(ticks, scale)
        least = outcome.span if self.spec.minimize == "span" else outcome.makespan
        return Fraction(least, scale * self.spec.time_unit)


def moved_ticks(spec: Spec, costs: Costs, way: StageNeighbours, operation: Operation) -> int:
    """How many ticks this operation gets if all work of `way.source` goes to `way.target`."""
    p = operation.pipeline
    if way.model not in (p, spec.pipelines[p].replicates):
        return 0
    if operation.stage == way.source:
        return -costs.of(operation)
    if operation.stage == way.target:
        return costs.of(operation._replace(stage=way.source))
    return 0


def moved_spec(spec: Spec, move: WorkMove) -> Spec | None:
    """The Spec after the move, in ticks a hundredth as long; where those would be too many to
    search with, in the ticks there are, costs rounded to whole ones. None where pairs have costs of
    their own."""
    if spec.pairs or spec.exceptional_pairs:
        return None
    whole = FRACTIONS // gcd(FRACTIONS, move.percent)
    work = sum(max(_work(spec, p)) for p in range(len(spec.pipelines)))
    if work * spec.ranks * whole >= LARGEST:
        whole = 1
    share = Fraction(move.percent * whole, FRACTIONS)
    model = next(p for p, line in enumerate(spec.pipelines) if line.name == move.pipeline)
    way, costs = StageNeighbours(model, move.source, move.target), Costs(spec)

    def ticks(operation: Operation) -> int:
        moved = moved_ticks(spec, costs, way, operation)
        return costs.of(operation) * whole + round(moved * share)

    lines = tuple(
        replace(line, stages=tuple(_stage(ticks, p, s, old) for s, old in enumerate(line.stages)))
        for p, line in enumerate(spec.pipelines)
    )
    special = {operation for operation, _ in spec.exceptions}
    special |= {o._replace(stage=way.target) for o in special if o.stage == way.source}
    return replace(
        spec,
        time_unit=spec.time_unit * whole,
        pipelines=lines,
        exceptions=tuple(CostOverride(o, ticks(o)) for o in sorted(special)),
        transfers=tuple(t._replace(ticks=t.ticks * whole) for t in spec.transfers),
    )


def _stage(ticks: Callable[[Operation], int], p: int, s: int, old: Stage) -> Stage:
    """The stage with the costs that `ticks` gives its operations."""

    def of(kind: str) -> int:
        return ticks(Operation(kind, p, s, NONE))

    further = {kind: of(kind) for kind in old.further}
    return replace(old, F=of("F"), B=of("B"), I=of("I"), W=of("W"), further=further)
