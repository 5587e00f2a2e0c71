"""Program → Explanation: why it takes as long as it does. The chain of operations that makes the
makespan, and what every rank waits for while it is idle.

An idle stretch ends when the next unit starts. As long as no other operation of the rank had what
it needs, the rank waits for data; from then on memory is the reason if none of those that are
ready fits into the limit, and else the order, which has another unit next. If that unit too has
what it needs, it waits for a channel: a message that was not taken, a receive that was posted
late, ranks that sum gradients. After its last unit a rank is done. Times are ticks.
"""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

from msgspec import Struct

from stretto.compiler.program import Program
from stretto.compiler.spec import NONE, Operation, Spec, show
from stretto.compiler.timeline import Timed, Timeline, time

Cause = Literal["data", "memory", "order", "channel", "done"]
CAUSES: tuple[Cause, ...] = ("data", "memory", "order", "channel", "done")
FAR = 1 << 62


class Link(Struct, frozen=True):
    """One operation of the critical chain, and why it did not start earlier."""

    operation: str
    rank: int
    start: int
    end: int
    line: int | None
    why: str


class Idle(Struct, frozen=True):
    """A stretch without work of one cause. `before` is the operation that ends it, or None."""

    rank: int
    start: int
    end: int
    cause: Cause
    before: str | None
    line: int | None
    why: str


class Relaxed(Struct, frozen=True):
    """What would be gained if a demand were eased, found by solving again: the value of what is
    minimized, before and after, in the units of the file."""

    what: str
    before: Fraction
    after: Fraction


class Explanation(Struct, frozen=True):
    """`idle[rank][cause]`: ticks. `stretches`: the longest ones first. `relaxed`: the largest gain
    first."""

    makespan: int
    chain: tuple[Link, ...]
    idle: tuple[dict[Cause, int], ...]
    stretches: tuple[Idle, ...]
    relaxed: tuple[Relaxed, ...] = ()


class Unit(NamedTuple):
    """What runs at once on a rank: one operation or a pair. `ready`: when all that it needs has
    arrived; `held`: grains that are there before it starts."""

    operations: tuple[Timed, ...]
    start: int
    end: int
    ready: int
    held: int


def explain(program: Program, longest: int = 10) -> Explanation:
    """Explain the Program: all idle time, and its `longest` stretches."""
    timeline = time(program)
    known = _Known(program, timeline)
    stretches = [idle for rank in range(len(program.ranks)) for idle in _stretches(known, rank)]
    idle: list[Counter[Cause]] = [Counter() for _ in program.ranks]
    for one in stretches:
        idle[one.rank][one.cause] += one.end - one.start
    stretches.sort(key=lambda one: (one.start - one.end, one.rank, one.start))
    return Explanation(
        timeline.makespan,
        tuple(_chain(known)),
        tuple({cause: counted[cause] for cause in CAUSES} for counted in idle),
        tuple(stretches[:longest]),
    )


class _Known:
    """The Program's units with what they wait for."""

    def __init__(self, program: Program, timeline: Timeline):
        self.program, self.spec, self.timeline = program, program.spec, timeline
        self.end = {t.operation: t.end for row in timeline.ranks for t in row}
        self.lag = {(t.source, t.target): t.ticks for t in program.spec.transfers}
        self.feeders: dict[tuple[int, int], list[int]] = {}
        for q, line in enumerate(program.spec.pipelines):
            for feed in line.feeds:
                self.feeders.setdefault((feed.pipeline, feed.stage), []).append(q)
        self.rules: dict[Operation, list[Operation]] = {}
        for rule in program.spec.rules if program.name == "train" else ():
            later, earlier = self.there(rule.later, "I"), self.there(rule.earlier, "W")
            self.rules.setdefault(later, []).append(earlier)
        self.units = [list(self._units(row)) for row in timeline.ranks]

    def there(self, operation: Operation, half: Literal["I", "W"]) -> Operation:
        """The operation, or its half where a backward was split."""
        found = operation in self.end or operation.kind != "B"
        return operation if found else operation._replace(kind=half)

    def needs(self, one: Operation) -> Iterator[tuple[Operation, int]]:
        """What an operation waits for, each with the ticks until it is there."""
        rank = self.rank(one)
        for other in self._needs(one):
            source = self.rank(other)
            yield other, self.lag.get((source, rank), 0) if source != rank else 0
        for other in self.rules.get(one, ()):
            yield other, 0

    def _needs(self, one: Operation) -> Iterator[Operation]:
        kind, p, s, _, k, _ = one
        line, slices = self.spec.pipelines[p], max(self.spec.slices, 1)
        if kind == "W":
            yield one._replace(kind="I")
        elif kind == "F":
            if s:
                yield one._replace(stage=s - 1)
            if k > 0:
                yield one._replace(slice=k - 1)
            for q in self.feeders.get((p, s), ()):
                last = len(self.spec.pipelines[q].stages) - 1
                yield one._replace(pipeline=q, stage=last)
        else:
            yield one._replace(kind="F")
            after = [(p, s + 1)] if s + 1 < len(line.stages) else [tuple(f) for f in line.feeds]
            for q, t in after:
                if not self.spec.pipelines[q].forward_only:
                    yield self.there(one._replace(kind="B", pipeline=q, stage=t), "I")
            if 0 <= k < slices - 1:
                yield self.there(one._replace(kind="B", slice=k + 1), "I")

    def rank(self, one: Operation) -> int:
        return self.spec.pipelines[one.pipeline].stages[one.stage].rank

    def _units(self, row: tuple[Timed, ...]) -> Iterator[Unit]:
        held, at = 0, 0
        while at < len(row):
            both = at + 1 < len(row) and row[at].unit == row[at + 1].unit != NONE
            members = row[at : at + 2] if both else row[at : at + 1]
            needs = [need for t in members for need in self.needs(t.operation)]
            ready = max((self.end[other] + lag for other, lag in needs), default=0)
            yield Unit(members, row[at].start, row[at].end, ready, held)
            held += sum(self._effect(t.operation) for t in members)
            at += len(members)

    def _effect(self, one: Operation) -> int:
        """Grains that are held more when it has ended."""
        line = self.spec.pipelines[one.pipeline]
        stage = line.stages[one.stage]
        if one.kind == "F":
            passing = line.forward_only or self.program.name == "eval"
            return 0 if passing else stage.activation
        return -{"B": stage.activation, "I": stage.activation - stage.kept}.get(
            one.kind, stage.kept
        )

    def line(self, timed: Timed) -> int | None:
        return self.spec.spans[timed.at].line if timed.at != NONE else None

    def named(self, unit: Unit) -> str:
        return " | ".join(f"`{show(self.spec, t.operation)}`" for t in unit.operations)


# ---------------------------------------------------------------------------- idle time


def _stretches(known: _Known, rank: int) -> Iterator[Idle]:
    """The idle stretches of a rank, cut where the cause changes."""
    units = known.units[rank]
    others = _Others(known, rank)
    before = 0
    for at, unit in enumerate(units):
        if unit.start > before:
            yield from _cut(known, rank, at, before, others)
        before = unit.end
    end = known.timeline.makespan
    if units and before < end:
        yield Idle(rank, before, end, "done", None, None, "its last operation has ended")
    elif not units and end:
        yield Idle(rank, 0, end, "done", None, None, "it has nothing to do")


class _Others:
    """For every place in a rank's order, when the first of what stands behind it is ready: of all
    that takes no memory, and of forwards by what they take."""

    def __init__(self, known: _Known, rank: int):
        self.behind: list[dict[int, tuple[int, int]]] = [{}]  # grains: (ready, which unit)
        units = known.units[rank]
        for at in range(len(units) - 1, -1, -1):
            best = dict(self.behind[-1])
            grains = sum(
                known.spec.pipelines[t.operation.pipeline].stages[t.operation.stage].activation
                for t in units[at].operations
                if t.operation.kind == "F"
            )
            best[grains] = min((units[at].ready, at), best.get(grains, (FAR, NONE)))
            self.behind.append(best)
        self.behind.reverse()

    def after(self, at: int, room: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
        """When the first unit behind `at` is ready that fits into `room`, and the first that does
        not; each with its place."""
        fits = does_not = (FAR, NONE)
        for grains, found in self.behind[at + 1].items():
            if room is None or grains <= room:
                fits = min(fits, found)
            else:
                does_not = min(does_not, found)
        return fits, does_not


def _cut(known: _Known, rank: int, at: int, start: int, others: _Others) -> Iterator[Idle]:
    """One stretch, from `start` to the unit at place `at`, in pieces by their cause."""
    units = known.units[rank]
    unit, limit = units[at], known.spec.limits[rank] if known.spec.limits else None
    room = None if limit is None else limit.grains - unit.held
    (fits, which), (large, larger) = others.after(at, room)
    name, line = known.named(unit), known.line(unit.operations[0])
    moments = (start, min(large, fits), fits, unit.ready, unit.start)
    cuts = [min(max(start, moment), unit.start) for moment in moments]
    cuts[1:3] = [min(cut, cuts[3]) for cut in cuts[1:3]]  # ready itself: only a channel is left
    source = _latest(known, unit)
    data = f"for {source}" if source else "for its turn"
    ready, ready_too = (known.named(units[k]) if k != NONE else "" for k in (which, larger))
    pieces: list[tuple[Cause, str]] = [
        ("data", f"{name} waits {data}"),
        ("memory", f"{ready_too} is ready, but memory is full until {name}"),
        ("order", f"{ready} is ready, but the order has {name} first"),
        ("channel", f"{name} has all that it needs, but a message is not through"),
    ]
    for (cause, why), a, b in zip(pieces, cuts, cuts[1:], strict=False):
        if a < b:
            yield Idle(rank, a, b, cause, name, line, why)


def _latest(known: _Known, unit: Unit) -> str | None:
    """What arrives last of all that a unit needs."""
    arrivals = [
        (known.end[other] + lag, other)
        for t in unit.operations
        for other, lag in known.needs(t.operation)
    ]
    if not arrivals:
        return None
    _, last = max(arrivals)
    rank = known.rank(last)
    return f"`{show(known.spec, last)}` of rank {rank}"


# ---------------------------------------------------------------------------- the chain


def _chain(known: _Known) -> list[Link]:
    """From the first operation to the one that ends last, each held up by the one before it."""
    place = {
        t.operation: (rank, at)
        for rank, units in enumerate(known.units)
        for at, unit in enumerate(units)
        for t in unit.operations
    }
    last = max(
        ((unit.end, -rank, at) for rank, units in enumerate(known.units) if units
         for at, unit in [(len(units) - 1, units[-1])]),
        default=None,
    )  # fmt: skip
    found: list[Link] = []
    here = None if last is None else (-last[1], last[2])
    seen = set()
    while here is not None and here not in seen:
        seen.add(here)
        rank, at = here
        unit = known.units[rank][at]
        here, why = _held_up(known, rank, at, place)
        timed = unit.operations[0]
        found.append(Link(known.named(unit), rank, unit.start, unit.end, known.line(timed), why))
    return found[::-1]


def _held_up(
    known: _Known, rank: int, at: int, place: dict[Operation, tuple[int, int]]
) -> tuple[tuple[int, int] | None, str]:
    """What a unit came right after, and in words."""
    unit = known.units[rank][at]
    for timed in unit.operations:
        for other, lag in known.needs(timed.operation):
            if known.end[other] + lag == unit.start and place[other] != (rank, at):
                source = known.rank(other)
                name = f"`{show(known.spec, other)}`"
                if source == rank:
                    return place[other], f"needs {name}"
                way = f", {_time(known.spec, lag)} on the way" if lag else ""
                return place[other], f"needs {name} from rank {source}{way}"
    if at and known.units[rank][at - 1].end == unit.start:
        return (rank, at - 1), f"comes after {known.named(known.units[rank][at - 1])}"
    if unit.start == 0:
        return None, "starts the step"
    return (rank, at - 1) if at else None, "waits for a channel"


def _time(spec: Spec, ticks: int) -> str:
    return str(Fraction(ticks, spec.time_unit))
