"""Program → Timeline: when everything starts and ends by the clock of `docs/instructions.md`. The
only clock there is, for orders that were written, found or imported alike.

The instruction lists are run as they stand: one that receives too late is timed as late. Where
ranks have streams, each stream runs its own part of its rank's list. All times are ticks, from 0.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.problem.spec import NONE, Costs, Operation, show
from stretto.compiler.problem.topology import Topology
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
    Compute,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)


class Timed(NamedTuple):
    """One operation. The two of a pair have the same `unit`, start and end. `at` is the index in
    `Spec.spans` of the text that asks for it, `instruction` its place in the rank's list, `stream`
    the one that it runs on, 0 compute."""

    operation: Operation
    unit: int
    start: int
    end: int
    at: int
    instruction: int
    stream: int = 0


class Collective(NamedTuple):
    """What a rank does beside its computations, once for a stage: `what` is the statement that asks
    for it."""

    what: Literal["reduce gradients", "unshard weights"]
    pipeline: int
    stage: int
    start: int
    end: int
    instruction: int


class Delivery(NamedTuple):
    """A result on its way: `sent`, when it was made and its send had begun; `arrived`, when it can
    be used."""

    channel: int
    operation: Operation
    sent: int
    arrived: int


@dataclass(frozen=True)
class Timeline:
    """For every rank its operations by start, then as its list has them; all messages, channel by
    channel; for every rank what it does beside its computations, in the order of its list."""

    ranks: tuple[tuple[Timed, ...], ...]
    messages: tuple[Delivery, ...]
    collectives: tuple[tuple[Collective, ...], ...] = ()

    @cached_property
    def makespan(self) -> int:
        """The end of the last operation, and of all that runs beside."""
        beside = max((one.end for row in self.collectives for one in row), default=0)
        return max(self.computed, beside)

    @property
    def computed(self) -> int:
        """The end of the last operation."""
        return max((last_end(row) for row in self.ranks if row), default=0)

    @property
    def span(self) -> int:
        """The longest time that one rank is occupied, from its first start to its last end, on any
        stream."""
        return max((last_end(row) - row[0].start for row in self.ranks if row), default=0)

    def busy(self, rank: int) -> int:
        """How long the rank's stream `compute` is occupied, a pair counted once."""
        row = [timed for timed in self.ranks[rank] if timed.stream == 0]
        seconds = {a.instruction for b, a in pairwise(row) if _one(b, a)}
        return sum(t.end - t.start for t in row if t.instruction not in seconds)

    def idle(self, rank: int) -> int:
        """How much of the makespan the rank does not compute."""
        return self.makespan - self.busy(rank)


def last_end(row: Sequence[Timed]) -> int:
    """When the last of a rank's operations ends, of which there is one at least."""
    return max(one.end for one in row)


def _one(before: Timed, after: Timed) -> bool:
    """Whether two neighbours in a list are one overlapped unit."""
    return before.unit == after.unit != NONE


def time(program: Program) -> Timeline:
    """Run all lists until each has ended. Raises `Rejected`: `deadlock`, where they cannot; the
    proof says more about it."""
    clock = _Clock(program)
    walks = [clock.walk(number) for number in range(len(clock.rows))]
    ended = [next(walk, True) for walk in walks]
    while clock.ready:
        number = clock.ready.popleft()
        ended[number] = ended[number] or next(walks[number], True)
    if not all(ended):
        raise Rejected([_stuck(clock, ended)])
    messages = [
        Delivery(channel, operation, sent, arrived)
        for channel, queue in enumerate(clock.queues)
        for (operation, sent), arrived in zip(queue.sends, queue.arrived, strict=False)
    ]
    beside = tuple([tuple(row) for row in clock.beside]) if any(clock.beside) else ()
    if clock.streams > 1:
        for row in clock.done:
            row.sort(key=lambda one: (one.start, one.instruction))
    return Timeline(tuple([tuple(row) for row in clock.done]), tuple(messages), beside)


class _ChannelState(Struct):
    """One channel: what is sent and what is posted meet, first with first, second with second."""

    transfer: int
    sends: list[tuple[Operation, int]]  # what, and when it was made and its send had begun
    posts: list[int]  # when
    arrived: list[int]  # when, of those that have met
    waiting: list[int]  # numbers of rows


class _Clock:
    """What the lists share: channels, reductions, computations that other streams wait for, and who
    can go on. `rows` has for each stream of each rank its instructions, with their places in the
    rank's list; without streams the ranks' lists."""

    def __init__(self, program: Program):
        spec = program.spec
        topology = Topology(spec)
        self.program = program
        self.costs = Costs(spec)
        self.queues = [
            _ChannelState(topology.transfer(c.source, c.target), [], [], [], [])
            for c in program.channels
        ]
        self.streams = max(1, len(spec.streams))
        self.rows = _rows(program, self.streams)
        self.members = [{c.rank for c in r.copies} for r in program.reductions]
        self.there: list[dict[int, int]] = [{} for _ in program.reductions]  # rank: since when
        self.meeting: list[list[int]] = [[] for _ in program.reductions]  # rows that wait
        self.ends: list[dict[Operation, int]] = [{} for _ in program.ranks]
        self.awaiting: dict[tuple[int, Operation], list[int]] = {}
        self.gathering: list[dict[tuple[int, int], int]] = [{} for _ in program.ranks]
        self.ready: deque[int] = deque()
        self.at = [0 for _ in self.rows]
        self.done: list[list[Timed]] = [[] for _ in program.ranks]
        self.beside: list[list[Collective]] = [[] for _ in program.ranks]
        self.reduces = {(p, s): ticks for p, s, ticks in spec.reduce_gradients}
        self.gathers = {(p, s): ticks for p, s, ticks in spec.unshard_weights}

    def walk(self, number: int) -> Iterator[bool]:
        """Run a row; yield False wherever it must wait for another."""
        now, pair_end, rank = 0, NONE, number // self.streams
        held: dict[int, tuple[Operation, int]] = {}  # by slot: what is in it, and since when
        begun: dict[int, list[tuple[_ChannelState, int]]] = {}  # by slot: messages not waited for
        gathers = self.gathering[rank]  # by stage not used yet: when they end
        for at, one in self.rows[number]:
            self.at[number] = at
            if type(one) is Compute:
                if gathers:  # only the first operation of a stage, a forward, finds it there
                    now = max(now, gathers.pop(one.operation[1:3], 0))
                operation, start = one.operation, now
                if pair_end != NONE:  # the second half of a pair
                    end, now, pair_end = pair_end, pair_end, NONE
                else:
                    other = self._other_half(rank, at, one)
                    if other is None:
                        end = now = start + self.costs.of(operation)
                    else:
                        end = pair_end = start + self.costs.pair(operation, other)
                timed = Timed(operation, one.unit, start, end, one.at, at, one.stream)
                self.done[rank].append(timed)
                if self.streams > 1:
                    self._computed(rank, operation, end)
                held[one.writes] = operation, end
            elif type(one) is Wait:
                for queue, k in begun.pop(one.slot, ()):
                    while len(queue.arrived) <= k:
                        queue.waiting.append(number)
                        yield False
                    now = max(now, queue.arrived[k])
            elif type(one) is Await:
                while one.operation not in self.ends[rank]:
                    self.awaiting.setdefault((rank, one.operation), []).append(number)
                    yield False
                now = max(now, self.ends[rank][one.operation])
            elif type(one) is Send:
                queue = self.queues[one.channel]
                begun.setdefault(one.slot, []).append((queue, len(queue.sends)))
                operation, made = held[one.slot]
                queue.sends.append((operation, max(made, now)))
                self._meet(queue)
            elif type(one) is Receive:
                queue = self.queues[one.channel]
                begun.setdefault(one.slot, []).append((queue, len(queue.posts)))
                held[one.slot] = one.result, now
                queue.posts.append(now)
                self._meet(queue)
            elif type(one) is Reduce:
                there, members = self.there[one.reduction], self.members[one.reduction]
                there[rank] = now
                if len(there) == len(members):
                    self.ready.extend(self.meeting[one.reduction])
                while len(there) < len(members):
                    self.meeting[one.reduction].append(number)
                    yield False
                now = max(there.values())
            elif type(one) is BeginReduction:
                self._begin(rank, at, one, now)
            elif type(one) is BeginUnshard:
                gathers[one.pipeline, one.stage] = self._begin(rank, at, one, now)
            else:
                assert type(one) is Free
        self.at[number] = len(self.program.ranks[rank])

    def _computed(self, rank: int, operation: Operation, end: int) -> None:
        """Let go the streams that wait for the operation."""
        self.ends[rank][operation] = end
        self.ready.extend(self.awaiting.pop((rank, operation), ()))

    def _begin(self, rank: int, at: int, one: BeginReduction | BeginUnshard, now: int) -> int:
        """A collective: it starts once the one of its kind before it on the rank has ended, and
        nobody waits. Returns its end."""
        place = one.pipeline, one.stage
        reduces = type(one) is BeginReduction
        what: Literal["reduce gradients", "unshard weights"] = (
            "reduce gradients" if reduces else "unshard weights"
        )
        row = self.beside[rank]
        start = max([now, *(other.end for other in row if other.what == what)])
        end = start + (self.reduces if reduces else self.gathers).get(place, 0)
        row.append(Collective(what, *place, start, end, at))
        return end

    def _other_half(self, rank: int, at: int, first: Compute) -> Operation | None:
        """The second operation of the unit that `first` begins."""
        if first.unit != NONE:
            instructions = self.program.ranks[rank]
            for k in range(at + 1, len(instructions)):
                one = instructions[k]
                if type(one) is Compute:
                    return one.operation if one.unit == first.unit else None
        return None

    def _meet(self, queue: _ChannelState) -> None:
        """If the next message has both its sides, note its arrival and let go who waits for it."""
        k = len(queue.arrived)
        if k < len(queue.sends) and k < len(queue.posts):
            queue.arrived.append(max(queue.sends[k][1], queue.posts[k]) + queue.transfer)
            self.ready.extend(queue.waiting)
            queue.waiting.clear()


def _rows(program: Program, streams: int) -> list[list[tuple[int, Instruction]]]:
    """What each stream of each rank runs."""
    if streams == 1:
        return [list(enumerate(row)) for row in program.ranks]
    rows: list[list[tuple[int, Instruction]]] = [[] for _ in range(streams * len(program.ranks))]
    for rank, row in enumerate(program.ranks):
        for at, (one, stream) in enumerate(zip(row, program.streams[rank], strict=True)):
            rows[rank * streams + stream].append((at, one))
    return rows


def _stuck(clock: _Clock, ended: list[bool]) -> Diagnostic:
    """The ranks that wait, each with the operation before which it, or its first such stream,
    does."""
    spec, labels = clock.program.spec, []
    waiting = [number for number, over in enumerate(ended) if not over]
    ranks = list(dict.fromkeys(number // clock.streams for number in waiting))
    for number in waiting:
        rank = number // clock.streams
        for at, one in clock.rows[number]:
            if at >= clock.at[number] and type(one) is Compute and one.at != NONE:
                words = f"rank {rank} waits before `{show(spec, one.operation)}`"
                labels.append(Label(spec.spans[one.at], words))
                break
    names = ", ".join(map(str, ranks))
    return Diagnostic(
        code="deadlock",
        message=f"this plan can never finish: rank{'s' * (len(ranks) > 1)} {names} wait for each "
        "other",
        labels=tuple(labels),
    )
