"""What a Program with streams comes to at its planned times, by a clock of the tests' own; and what
no timing changes: sums, and what each stream computes in which sequence. It shares no code with
`compiler/`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stretto.compiler.problem.spec import Operation
from stretto.compiler.program.program import Await, Compute, Program, Receive, Reduce, Send, Wait


@dataclass(frozen=True)
class HeldGrains:
    """From the start of one operation to the last end of others."""

    grains: int
    taken_by: Operation
    freed_by: tuple[Operation, ...]


def held_grains(program: Program, rank: int) -> Iterator[HeldGrains]:
    """Every amount of memory that the rank ever takes, from the words of the language."""
    spec = program.spec
    for p, line in enumerate(spec.pipelines):
        for s, stage in enumerate(line.stages):
            if stage.rank != rank:
                continue
            chain = spec.parts[p][s]
            for m in range(line.microbatches):
                forwards = [Operation("F", p, s, m, -1, x) for x in range(len(chain))]
                if line.forward_only or program.name == "eval":
                    for x, figures in enumerate(stage.parts):
                        yield HeldGrains(figures.activation, forwards[x], (forwards[-1],))
                    yield HeldGrains(stage.activation, forwards[0], (forwards[-1],))
                    continue
                back = "I" if spec.split_backward else "B"
                backs = [one._replace(kind=back) for one in forwards]
                weights = [
                    one._replace(kind="W")
                    for one, part in zip(forwards, chain, strict=True)
                    if back == "I" and part.stream == 0
                ]
                for x, figures in enumerate(stage.parts):
                    own = forwards[x]._replace(kind="W")
                    yield HeldGrains(
                        figures.activation, forwards[x], (own if own in weights else backs[x],)
                    )
                kept = stage.kept if back == "I" else stage.activation
                yield HeldGrains(stage.activation - kept, forwards[0], (backs[0],))
                yield HeldGrains(kept, forwards[0], (backs[0], *weights))


def sums_of(program: Program) -> list[list[int]]:
    """Of every rank the sums that it makes, in their sequence."""
    return [[one.reduction for one in own if isinstance(one, Reduce)] for own in program.ranks]


def sequences(program: Program, rank: int) -> list[list[Operation]]:
    """Of every stream of a rank what it computes, in its sequence."""
    rows: list[list[Operation]] = [[] for _ in program.spec.streams]
    for one, stream in zip(program.ranks[rank], program.streams[rank], strict=True):
        if isinstance(one, Compute):
            rows[stream].append(one.operation)
    return rows


class PlannedStreams:
    """The Program by the clock, worked out by going round its streams until nothing changes."""

    def __init__(self, program: Program):
        self.program, self.spec = program, program.spec
        self.start: dict[Operation, int] = {}
        self.end: dict[Operation, int] = {}
        self.place: dict[Operation, int] = {}
        self.begun: dict[tuple[int, int, str], int] = {}  # channel, number, side: when
        self.met: dict[tuple[int, int], int] = {}
        self.rows = [
            (rank, stream, [k for k, on in enumerate(program.streams[rank]) if on == stream])
            for rank in range(len(program.ranks))
            for stream in range(len(self.spec.streams))
        ]
        self.at = [0] * len(self.rows)
        self.now = [0] * len(self.rows)
        self.messages: dict[tuple[int, int], list[tuple[int, int]]] = {}  # of rank and slot
        self.counts: dict[tuple[int, str], int] = {}
        moved = True
        while moved:
            moved = False
            for process in range(len(self.rows)):
                moved |= self.step(process)

    def step(self, process: int) -> bool:
        rank, _, places = self.rows[process]
        if self.at[process] == len(places):
            return False
        place = places[self.at[process]]
        one, now = self.program.ranks[rank][place], self.now[process]
        until: int | None = now
        if isinstance(one, Compute):
            self.start[one.operation], self.place[one.operation] = now, place
            until = self.end[one.operation] = now + self.ticks(one.operation)
        elif isinstance(one, Send | Receive):
            side = "send" if isinstance(one, Send) else "receive"
            number = self.counts.get((one.channel, side), 0)
            self.counts[one.channel, side] = number + 1
            self.begun[one.channel, number, side] = now
            self.messages.setdefault((rank, one.slot), []).append((one.channel, number))
        elif isinstance(one, Wait):
            begun = self.messages.get((rank, one.slot), [])
            arrived = [self.arrival(*message) for message in begun]
            until = None if None in arrived else max([now, *(t for t in arrived if t is not None)])
            if until is not None:
                self.messages.pop((rank, one.slot), None)
        elif isinstance(one, Await):
            until = max(now, self.end[one.operation]) if one.operation in self.end else None
        elif isinstance(one, Reduce):
            self.met[rank, one.reduction] = now
            ranks = {copy.rank for copy in self.program.reductions[one.reduction].copies}
            come = [self.met.get((r, one.reduction)) for r in ranks]
            until = None if None in come else max(t for t in come if t is not None)
        if until is None:
            return False
        self.at[process], self.now[process] = self.at[process] + 1, until
        return True

    def arrival(self, channel: int, number: int) -> int | None:
        sides = [self.begun.get((channel, number, side)) for side in ("send", "receive")]
        if None in sides:
            return None
        source, target, *_ = self.program.channels[channel]
        travels = {(a, b): ticks for a, b, ticks in self.spec.transfers}
        return max(t for t in sides if t is not None) + travels.get((source, target), 0)

    def ticks(self, one: Operation) -> int:
        for operation, ticks in self.spec.exceptions:
            if operation == one:
                return ticks
        figures = self.spec.pipelines[one.pipeline].stages[one.stage].parts[one.part]
        return int(getattr(figures, one.kind))

    def figures(self) -> tuple[object, ...]:
        """What a plan claims of it."""
        ranks = range(len(self.program.ranks))
        lines = self.spec.pipelines
        own = [
            [o for o in self.end if lines[o.pipeline].stages[o.stage].rank == rank]
            for rank in ranks
        ]
        spans = [
            max(self.end[o] for o in row) - min(self.start[o] for o in row) if row else 0
            for row in own
        ]
        busy = sum(
            self.end[o] - self.start[o]
            for o in self.end
            if self.spec.parts[o.pipeline][o.stage][o.part].stream == 0
        )
        filled = [
            (
                len({one.slot for one in row if isinstance(one, Receive)}),
                len({one.writes for one in row if isinstance(one, Compute)} - {-1}),
            )
            for row in self.program.ranks
        ]
        return (
            max(self.end.values(), default=0),
            max(spans, default=0),
            busy,
            tuple(self.peak(rank) for rank in ranks),
            tuple(receives for receives, _ in filled),
            tuple(outputs for _, outputs in filled),
        )

    def peak(self, rank: int) -> int:
        """The most that is held at once at these times."""
        amounts = [a for a in held_grains(self.program, rank) if a.taken_by in self.start]
        amounts = [a for a in amounts if all(one in self.end for one in a.freed_by)]

        def begins(one: Operation) -> tuple[int, int]:
            return self.start[one], self.place[one]

        def freed(one: Operation, taker: Operation) -> bool:
            if self.end[one] == self.start[one] == self.start[taker]:
                return self.place[one] < self.place[taker]
            return self.end[one] <= self.start[taker]

        return max(
            (
                sum(
                    a.grains
                    for a in amounts
                    if begins(a.taken_by) <= begins(taker)
                    and not all(freed(one, taker) for one in a.freed_by)
                )
                for taker in {a.taken_by for a in amounts}
            ),
            default=0,
        )
