"""Program and Dependencies → `TimedUnit`s: what runs at once on a rank, when each unit had what it
needs, and what it does to memory. Times are ticks, sizes grains.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from stretto.compiler.analysis.dependencies import Dependencies, name
from stretto.compiler.problem.kinds import memory_effect
from stretto.compiler.problem.spec import NONE, Operation, Spec
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timed, Timeline

UnitIndex = tuple[int, int]
"""A unit: its rank, and how many come before it there."""


class TimedUnit(NamedTuple):
    """What runs at once on a rank: one operation or an overlapped pair, from `start` to `end`.

    `made`: when the last of all data that it needs has been made; `arrived`: when all of it is
    there, if no message is held up; `ready`: when its rules are met, too. `half_ready`: when the
    first of a pair has what it needs by itself. `held`: grains that are there before it starts;
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
    """For every rank its units in the order they run."""
    return [
        list(_of_rank(program, rank, row, dependencies)) for rank, row in enumerate(timeline.ranks)
    ]


def _of_rank(
    program: Program, rank: int, row: tuple[Timed, ...], dependencies: Dependencies
) -> Iterator[TimedUnit]:
    held, rest = 0, iter(row)
    for unit in program.units(rank):
        members = tuple(islice(rest, len(unit)))
        made, arrived, ready = _known(members, dependencies)
        half_ready = min(dependencies.ready(t.operation) for t in members)
        effects = [memory_effect(program.spec, t.operation, program.name) for t in members]
        alloc, free = sum(e.alloc for e in effects), sum(e.free for e in effects)
        start, end = members[0].start, members[0].end
        yield TimedUnit(members, start, end, made, arrived, ready, half_ready, held, alloc, free)
        held += alloc - free


def _known(members: tuple[Timed, ...], dependencies: Dependencies) -> tuple[int, int, int]:
    """When all that a unit needs was made, has arrived, and when its rules are met too."""
    end = dependencies.end
    needs = [need for t in members for need in dependencies.data(t.operation)]
    made = max((end[other] for other, _ in needs), default=0)
    arrived = max((end[other] + lag for other, lag in needs), default=0)
    rules = [end[o] for t in members for o in dependencies.rules.get(t.operation, ())]
    return made, arrived, max(arrived, *rules) if rules else arrived


def index_units(units: list[list[TimedUnit]]) -> dict[Operation, UnitIndex]:
    """The unit of every operation."""
    return {
        operation: (rank, at)
        for rank, row in enumerate(units)
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
