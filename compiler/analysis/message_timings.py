"""Program and its Timeline → `MessageTimings`: for every message when it arrived, and after which
units it was sent and its receive was posted. Times are ticks.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.analysis.units import TimedUnit, UnitIndex
from stretto.compiler.problem.spec import Operation
from stretto.compiler.program.program import Compute, Program, Receive, Send, Wait
from stretto.compiler.program.timeline import Timeline

InstructionIndex = tuple[int, int]
"""An instruction: its rank, and its place in the rank's list."""


class MessageTiming(NamedTuple):
    """A message: whose result, from which rank to which, after which units it is sent and its
    receive posted (None: before the first), and when it has arrived."""

    result: Operation
    source: int
    target: int
    sent: UnitIndex | None
    posted: UnitIndex | None
    arrived: int


class MessageTimings:
    """All messages of a Program, found by the instruction that sends or receives them."""

    def __init__(self, program: Program, timeline: Timeline, unit_of: dict[Operation, UnitIndex]):
        self.ranks = program.ranks
        self.streams = program.streams
        self.unit_of = unit_of
        self.computes: dict[tuple[int, int], list[int]] = {}  # by rank and stream
        for rank, row in enumerate(timeline.ranks):
            for timed in row:
                self.computes.setdefault((rank, timed.stream), []).append(timed.instruction)
        self.at = dict(self._matched(program, timeline))
        self.awaited: dict[int, dict[int, list[int]]] = {}

    def waited_for(self, units: list[TimedUnit], rank: int, at: int) -> Iterator[MessageTiming]:
        """The messages that a lane of `rank` waits for between the unit at place `at` of its
        `units` and the one before: those it receives, and its own that have to be taken first."""
        for k in self.between(units, rank, at):
            one = self.ranks[rank][k]
            if type(one) is Wait:
                yield from self._begun(rank, k)

    def between(self, units: list[TimedUnit], rank: int, at: int) -> Iterator[int]:
        """The places in the rank's list that the stream of a unit has between it and the unit
        before."""
        first = units[at - 1].operations[-1].instruction + 1 if at else 0
        last = units[at].operations[0].instruction
        stream = self.stream(rank, last)
        yield from (k for k in range(first, last) if self.stream(rank, k) == stream)

    def stream(self, rank: int, k: int) -> int:
        """The stream of an instruction."""
        return self.streams[rank][k] if self.streams else 0

    def _begun(self, rank: int, end: int) -> Iterator[MessageTiming]:
        """The messages begun on the slot of the wait at place `end`, the last first, which it waits
        for: all since the wait before, and nothing before a receive."""
        if rank not in self.awaited:
            self.awaited[rank] = self._awaited(rank)
        yield from (self.at[rank, k] for k in self.awaited[rank][end])

    def _awaited(self, rank: int) -> dict[int, list[int]]:
        """For every wait of a rank, by place, the places of what it waits for."""
        found: dict[int, list[int]] = {}
        begun: dict[tuple[int, int], list[int]] = {}  # by stream and slot
        for k, one in enumerate(self.ranks[rank]):
            if type(one) is Wait:
                found[k] = begun.pop((self.stream(rank, k), one.slot), [])[::-1]
            elif type(one) is Receive:
                begun[self.stream(rank, k), one.slot] = [k]
            elif type(one) is Send:
                begun.setdefault((self.stream(rank, k), one.slot), []).append(k)
        return found

    def _matched(
        self, program: Program, timeline: Timeline
    ) -> Iterator[tuple[InstructionIndex, MessageTiming]]:
        """Every message twice, by its send and by its receive: the n-th send of a channel meets
        the n-th receive."""
        sends: list[list[InstructionIndex]] = [[] for _ in program.channels]
        posts: list[list[InstructionIndex]] = [[] for _ in program.channels]
        for rank, row in enumerate(program.ranks):
            for k, one in enumerate(row):
                if type(one) is Send:
                    sends[one.channel].append((rank, k))
                elif type(one) is Receive:
                    posts[one.channel].append((rank, k))
        arrivals: list[list[tuple[Operation, int]]] = [[] for _ in program.channels]
        for message in timeline.messages:
            arrivals[message.channel].append((message.operation, message.arrived))
        for c, (source, target, *_) in enumerate(program.channels):
            for sent, posted, (result, arrived) in zip(
                sends[c], posts[c], arrivals[c], strict=False
            ):
                before, there = self._unit_before(*sent), self._unit_before(*posted)
                timing = MessageTiming(result, source, target, before, there, arrived)
                yield sent, timing
                yield posted, timing

    def _unit_before(self, rank: int, k: int) -> UnitIndex | None:
        """The unit of the last compute of the same stream before place `k` of a rank's list."""
        computes = self.computes.get((rank, self.stream(rank, k)), [])
        n = bisect_left(computes, k)
        if not n:
            return None
        one = self.ranks[rank][computes[n - 1]]
        assert type(one) is Compute
        return self.unit_of[one.operation]
