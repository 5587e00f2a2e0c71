"""Program → `TimedProgram`: the Program with its clock and with all that its waits are read off:
the dependencies of its operations, its units, its messages. What `idle` and `critical_path` read.
"""

from dataclasses import dataclass

from stretto.compiler.analysis.dependencies import Dependencies
from stretto.compiler.analysis.message_timings import MessageTimings
from stretto.compiler.analysis.units import TimedUnit, UnitIndex, index_units, timed_units
from stretto.compiler.problem.spec import Operation, Spec
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import Timeline


@dataclass(frozen=True, slots=True)
class TimedProgram:
    """See the module. `units` by lane, in the order they run; `unit_of` finds that of an
    operation. `gathered`: by rank and tick the (pipeline, stage) whose weights are there then."""

    program: Program
    timeline: Timeline
    dependencies: Dependencies
    units: list[list[TimedUnit]]
    unit_of: dict[Operation, UnitIndex]
    messages: MessageTimings
    gathered: dict[tuple[int, int], set[tuple[int, int]]]

    @property
    def spec(self) -> Spec:
        """What the Program carries out."""
        return self.program.spec

    @property
    def streams(self) -> int:
        """How many streams, and so lanes, a rank has."""
        return max(1, len(self.spec.streams))

    def lanes(self, rank: int) -> range:
        """The lanes of a rank."""
        return range(rank * self.streams, (rank + 1) * self.streams)

    def place(self, lane: int) -> tuple[int, int]:
        """The rank and the stream that a lane is."""
        return divmod(lane, self.streams)

    def waits_for_weights(self, lane: int, at: int) -> bool:
        """Whether this unit starts as soon as weights of its stage are gathered."""
        unit, (rank, _) = self.units[lane][at], self.place(lane)
        stages = {operation[1:3] for operation in unit.names}
        return not stages.isdisjoint(self.gathered.get((rank, unit.start), ()))


def timed_program(program: Program, timeline: Timeline) -> TimedProgram:
    """The Program with what its waits are read off; `timeline` is its clock."""
    dependencies = Dependencies(program, timeline)
    units = timed_units(program, timeline, dependencies)
    unit_of = index_units(units)
    messages = MessageTimings(program, timeline, unit_of)
    gathered: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for rank, row in enumerate(timeline.collectives):
        for one in row:
            if one.what == "unshard weights":
                gathered.setdefault((rank, one.end), set()).add((one.pipeline, one.stage))
    return TimedProgram(program, timeline, dependencies, units, unit_of, messages, gathered)
