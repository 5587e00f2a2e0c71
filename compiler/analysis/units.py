"""Program and Dependencies → `TimedUnit`s: what runs at once on a rank, when each unit had what it
needs, and what it does to memory. Times are ticks, sizes grains.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.analysis.dependencies import Dependencies, name
from stretto.compiler.analysis.memory import effects, levels
from stretto.compiler.problem.kinds import MemoryEffect, memory_effect
from stretto.compiler.problem.spec import NONE, Operation, Spec
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timed, Timeline

UnitIndex = tuple[int, int]
"""A unit: its lane, and how many come before it there. A lane is a stream of a rank, numbered rank
by rank; where ranks have one stream its number is the rank's."""


class TimedUnit(NamedTuple):
    """What runs at once on a rank: one operation or an overlapped pair, from `start` to `end`.

    `made`: when the last of all data that it needs has been made; `arrived`: when all of it is
    there, if no message is held up; `ready`: when its rules are met, too. `half_ready`: when the
    first of a pair has what it needs by itself. `held`: grains of the rank before it starts;
    `alloc`, `free`: what it takes at its start and gives back at its end."""

    operations: tuple[Timed, ...]
    start: int
    end: int
    made: int
    arrived: int
    ready: int
    half_ready: int
    held: int
    alloc: int
    free: int

    @property
    def most(self) -> int:
        """Grains that are there while it runs."""
        return self.held + self.alloc

    @property
    def names(self) -> tuple[Operation, ...]:
        """Its operations, without their times."""
        return tuple(timed.operation for timed in self.operations)


def timed_units(
    program: Program, timeline: Timeline, dependencies: Dependencies
) -> list[list[TimedUnit]]:
    """For every lane its units in the order they run."""
    if program.spec.streams:
        return _of_streams(program, timeline, dependencies)
    return [list(_of_rank(program, row, dependencies)) for row in timeline.ranks]


def _of_streams(
    program: Program, timeline: Timeline, dependencies: Dependencies
) -> list[list[TimedUnit]]:
    """The same where ranks have several streams: every part is a unit of its own, and memory is
    that of the whole rank."""
    many = len(program.spec.streams)
    known = effects(program, timeline.ranks)
    units: list[list[TimedUnit]] = [[] for _ in range(many * len(timeline.ranks))]
    for rank, row in enumerate(timeline.ranks):
        curve = levels(row, known)
        for timed in row:
            alloc, free, _ = known[timed.operation]
            level = curve[bisect_right(curve, timed.start, key=lambda level: level.tick) - 1]
            held = level.grains - alloc * (timed.start < timed.end)
            waits = _known((timed,), dependencies)
            unit = TimedUnit((timed,), timed.start, timed.end, *waits, held, alloc, free)
            units[rank * many + timed.stream].append(unit)
    return units


def _of_rank(
    program: Program, row: tuple[Timed, ...], dependencies: Dependencies
) -> Iterator[TimedUnit]:
    held = 0
    effects: dict[tuple[str, int, int], MemoryEffect] = {}  # all operations of one kind and stage
    for members in _members(row):
        alloc = free = 0
        for timed in members:
            key = timed.operation[:3]
            if key not in effects:
                effects[key] = memory_effect(program.spec, timed.operation, program.name)
            alloc += effects[key].alloc
            free += effects[key].free
        start, end = members[0].start, members[0].end
        made, arrived, ready, half_ready = _known(members, dependencies)
        yield TimedUnit(members, start, end, made, arrived, ready, half_ready, held, alloc, free)
        held += alloc - free


def _members(row: tuple[Timed, ...]) -> Iterator[tuple[Timed, ...]]:
    """The operations of a rank, the two of a pair together."""
    first: Timed | None = None  # of a pair whose second may come
    for timed in row:
        if first is not None:
            if timed.unit == first.unit:
                yield first, timed
                first = None
                continue
            yield (first,)
        first = timed if timed.unit != NONE else None
        if first is None:
            yield (timed,)
    if first is not None:
        yield (first,)


def _known(members: tuple[Timed, ...], dependencies: Dependencies) -> tuple[int, int, int, int]:
    """When all that a unit needs was made, has arrived, and when its rules are met too; and when
    the first of its operations has what it needs by itself."""
    end, all_rules = dependencies.end, dependencies.rules
    made = arrived = ready = 0
    halves = []
    for timed in members:
        half = 0
        for other, lag in dependencies.data(timed.operation):
            ended = end[other]
            made = max(made, ended)
            half = max(half, ended + lag)
        arrived = max(arrived, half)
        for other in all_rules.get(timed.operation, ()):
            half = max(half, end[other])
        ready = max(ready, half)
        halves.append(half)
    return made, arrived, ready, min(halves)


def index_units(units: list[list[TimedUnit]]) -> dict[Operation, UnitIndex]:
    """The unit of every operation."""
    return {
        operation: (lane, at)
        for lane, row in enumerate(units)
        for at, unit in enumerate(row)
        for operation in unit.names
    }


def unit_name(spec: Spec, unit: TimedUnit) -> str:
    """The unit as a sentence shows it; the two of a pair with `|` between them."""
    return " | ".join(name(spec, operation) for operation in unit.names)


def unit_line(spec: Spec, unit: TimedUnit) -> int | None:
    """The line of the schedule that asks for the unit, or None where no text does."""
    at = unit.operations[0].at
    return spec.spans[at].line if at != NONE else None
