"""Program → the slack of every operation: how many ticks longer it alone could take without the
step ending later, if every rank keeps to its list.

What `program/timeline` waits for while it runs the lists is written down as a graph: a node is a
moment (a computation has ended, a wait is over, a message has arrived), an edge says that one comes
no earlier than so many ticks after another. From the end of the step back, every moment then has a
latest tick.
"""

from itertools import pairwise

from stretto.compiler.problem.spec import NONE, Operation
from stretto.compiler.problem.topology import StageIndex, Topology
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Instruction,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)
from stretto.compiler.program.timeline import Collective, Timed, Timeline

FAR = 1 << 62
"""A tick behind every other."""

MessageIndex = tuple[int, int]
"""A message: its channel, and how many come before it there."""


def slack(program: Program, timeline: Timeline) -> list[list[int]]:
    """For every rank the slack of its operations in ticks, in the order of the timeline; the two
    of an overlapped pair have the same."""
    moments = Moments(program)
    for rank, bars in enumerate(timeline.ranks):
        beside = timeline.collectives[rank] if timeline.collectives else ()
        moments.enter(rank, bars, beside)
    latest = moments.latest(timeline.makespan)
    return [[latest[moments.ends[t.operation]] - t.end for t in row] for row in timeline.ranks]


class Moments:
    """The graph: see the module. `before[n]` has for moment `n` those that it comes after, each
    with the ticks between; `ends`, the moment at which an operation has ended; `final`, the moments
    that the step waits for."""

    def __init__(self, program: Program):
        self.program = program
        self.before: list[list[tuple[int, int]]] = []
        self.ends: dict[Operation, int] = {}
        self.final: list[int] = []
        topology = Topology(program.spec)
        self.transfers = [topology.transfer(c.source, c.target) for c in program.channels]
        self.arrivals: dict[MessageIndex, int] = {}
        self.meetings = [self.after() for _ in program.reductions]

    def after(self, *before: tuple[int, int]) -> int:
        """A new moment, so many ticks after each of these."""
        self.before.append(list(before))
        return len(self.before) - 1

    def arrival(self, message: MessageIndex) -> int:
        """The moment at which the message has arrived."""
        if message not in self.arrivals:
            self.arrivals[message] = self.after()
        return self.arrivals[message]

    def end(self, operation: Operation) -> int:
        """The moment at which the operation has ended."""
        if operation not in self.ends:
            self.ends[operation] = self.after()
        return self.ends[operation]

    def enter(self, rank: int, bars: tuple[Timed, ...], beside: tuple[Collective, ...]) -> None:
        """Enter the list of a rank, each of its streams by itself; its operations, and what runs
        beside them."""
        row = list(enumerate(self.program.ranks[rank]))
        streams = self.program.streams[rank] if self.program.streams else [0] * len(row)
        lists: dict[int, list[tuple[int, Instruction]]] = {}
        for place, stream in zip(row, streams, strict=True):
            lists.setdefault(stream, []).append(place)
        took = {bar.instruction: bar.end - bar.start for bar in bars}
        took |= {one.instruction: one.end - one.start for one in beside}
        firsts = {a.instruction for a, b in pairwise(bars) if a.unit == b.unit != NONE}
        gathers: dict[StageIndex, int] = {}
        for places in lists.values():
            self.walk(places, took, firsts, gathers)

    def walk(
        self,
        places: list[tuple[int, Instruction]],
        took: dict[int, int],
        firsts: set[int],
        gathers: dict[StageIndex, int],
    ) -> None:
        """One stream's instructions with their places in the list. By place: `took`, the ticks of
        what runs; `firsts`, of pairs the first. `gathers`: by stage not used yet, when its weights
        are there."""
        now, pair = self.after(), NONE  # `pair`: the end of one whose second half is to come
        counts: dict[tuple[type, int], int] = {}
        begun: dict[int, list[int]] = {}  # by slot: arrivals that have not been waited for
        made: dict[int, int] = {}  # by slot: when what is in it was made
        last: dict[type, int] = {}  # of each kind that runs beside: the one before
        for at, one in places:
            if type(one) is Compute:
                if one.operation[1:3] in gathers:
                    now = self.after((now, 0), (gathers.pop(one.operation[1:3]), 0))
                if pair != NONE:
                    end = self.ends[one.operation] = pair
                else:
                    end = self.end(one.operation)
                    self.before[end].append((now, took[at]))
                    self.final.append(end)
                made[one.writes] = end
                pair = end if at in firsts else NONE
                if pair == NONE:
                    now = end
            elif type(one) is Wait:
                now = self.after((now, 0), *((arrival, 0) for arrival in begun.pop(one.slot, ())))
            elif type(one) is Await:
                now = self.after((now, 0), (self.end(one.operation), 0))
            elif isinstance(one, Send | Receive):
                number = counts.get((type(one), one.channel), 0)
                counts[type(one), one.channel] = number + 1
                arrival = self.arrival((one.channel, number))
                begun.setdefault(one.slot, []).append(arrival)
                ticks = self.transfers[one.channel]
                self.before[arrival].append((now, ticks))
                if type(one) is Send:
                    self.before[arrival].append((made[one.slot], ticks))
                else:
                    made[one.slot] = now
            elif type(one) is Reduce:
                self.before[self.meetings[one.reduction]].append((now, 0))
                now = self.after((self.meetings[one.reduction], 0))
            elif isinstance(one, BeginReduction | BeginUnshard):
                end = self.after((now, took[at]))
                if type(one) in last:
                    self.before[end].append((last[type(one)], took[at]))
                last[type(one)] = end
                self.final.append(end)
                if type(one) is BeginUnshard:
                    gathers[one.pipeline, one.stage] = end

    def latest(self, makespan: int) -> list[int]:
        """The latest tick of every moment with which the step ends at `makespan`."""
        behind = [0] * len(self.before)
        for before in self.before:
            for other, _ in before:
                behind[other] += 1
        found = [FAR] * len(self.before)
        for moment in self.final:
            found[moment] = makespan
        known = [moment for moment, count in enumerate(behind) if not count]
        while known:
            moment = known.pop()
            tick = found[moment]
            for other, ticks in self.before[moment]:
                if tick - ticks < found[other]:
                    found[other] = tick - ticks
                behind[other] -= 1
                if not behind[other]:
                    known.append(other)
        return found
