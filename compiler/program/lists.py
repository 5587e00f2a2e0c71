"""Order, the sequence in which it is issued, and its messages → the instructions of every rank,
without the sums at their end: what stands before each unit, the unit, and what stands behind it.
`docs/instructions.md` says where each instruction stands and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from stretto.compiler.order import Order, RankOrder
from stretto.compiler.problem.problem import Problem
from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.issue import Issue
from stretto.compiler.program.known import StreamKnowledge, StreamPlace
from stretto.compiler.program.messages import DataEdge, Message, Output
from stretto.compiler.program.output_slots import OutputSlots, releases
from stretto.compiler.program.program import (
    Await,
    Compute,
    Free,
    Instruction,
    Receive,
    Send,
    Wait,
)
from stretto.compiler.program.slots import assign


@dataclass(slots=True)
class RankList:
    """The list of one rank, and the stream of each of its instructions; without streams none."""

    instructions: list[Instruction] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)


class ListInputs(NamedTuple):
    """What the lists are made of: `reads`, for each operation those whose results it uses; `after`,
    for each the others of its rank, on other streams, that it comes after."""

    order: Order
    issue: Issue
    reads: Sequence[Sequence[int]]
    after: Mapping[int, Sequence[int]]


class _Lane:
    """What is to stand where on one stream of a rank."""

    def __init__(self, lane: RankOrder):
        many = len(lane.units) + 1  # the last is for what stands behind all of them
        self.units = lane.units
        self.stream = lane.stream
        self.posts: list[list[Message]] = [[] for _ in range(many)]  # before the unit
        self.send_waits: list[list[Output]] = [[] for _ in range(many)]  # before the unit
        self.freed: list[list[Output]] = [[] for _ in range(many)]  # behind the unit
        self.freed_late: list[list[Output]] = [[] for _ in range(many)]  # before the unit
        self.received: dict[int, Message] = {}  # these three by the operation that made it
        self.made: dict[int, Output] = {}
        self.slot: dict[int, int] = {}


def lists(inputs: ListInputs, made: Sequence[Sequence[Output]]) -> list[RankList]:
    """The instructions of every rank; `made` has the results of every lane."""
    order = inputs.order
    lanes = [_Lane(lane) for lane in order.lanes]
    for number, (own, row) in enumerate(zip(lanes, made, strict=True)):
        for output in row:
            own.made[output.result] = output
            if output.messages:
                own.send_waits[output.send_wait].append(output)
            where = releases(inputs.issue.times, number, output)
            if where is not None:
                lane, unit, late = where
                (lanes[lane].freed_late if late else lanes[lane].freed)[unit].append(output)
            for message in output.messages:
                lanes[message.target].posts[message.posted].append(message)
                lanes[message.target].received[message.result] = message
    for own in lanes:
        for posts in own.posts:
            posts.sort(key=lambda message: (message.made, message.channel))  # keeps each channel's
    many = len(lanes) // len(inputs.issue.ranks)
    rows = []
    for rank in range(len(inputs.issue.ranks)):
        streams = lanes[many * rank : many * (rank + 1)]
        rows.append(_ListBuilder(inputs, rank, streams).row())
    return rows


class _ListBuilder:
    """The list of one rank under construction."""

    def __init__(self, inputs: ListInputs, rank: int, lanes: list[_Lane]):
        self.inputs, self.rank, self.lanes = inputs, rank, lanes
        self.first = rank * len(lanes)  # lane
        self.operations = inputs.order.problem.operations
        self.found = RankList()
        self.streams = bool(inputs.order.lists)
        self.known = StreamKnowledge(len(lanes))
        many = _number_received(lanes)
        self.slots = OutputSlots(inputs.issue.times, self.first, self.known, many)
        if not self.streams:
            _number_made(lanes[0], many)

    def row(self) -> RankList:
        """All of it."""
        for lane in self.lanes:
            self.post(lane, 0)
        for number, k in self.inputs.issue.ranks[self.rank]:
            lane = self.lanes[number - self.first]
            self.head(lane, k)
            self.unit(lane, k)
            self.post(lane, k + 1)
        for lane in self.lanes:
            self.head(lane, len(lane.units))
        return self.found

    def add(self, lane: _Lane, *instructions: Instruction) -> None:
        """The next instructions of the stream."""
        self.found.instructions.extend(instructions)
        if self.streams:
            self.found.streams.extend([lane.stream] * len(instructions))

    def post(self, lane: _Lane, k: int) -> None:
        """The receives that stand before the unit, directly behind the one before it."""
        for message in lane.posts[k]:
            i = message.result
            self.add(lane, Receive(lane.slot[i], message.channel, self.operations[i]))

    def head(self, lane: _Lane, k: int) -> None:
        """What else stands before the unit that does not belong to it."""
        for output in lane.send_waits[k]:
            slot = self.slot(lane, output.result)
            self.add(lane, Wait(slot))
            if output.last < k and not output.elsewhere:
                self.free_made(lane, output)
        for output in lane.freed_late[k]:
            readers = [*output.elsewhere.items()]
            if output.last != NONE:
                readers.append((self.inputs.issue.times.lane[output.result], output.last))
            self.wait_for(lane, [(a - self.first, unit) for a, unit in readers])
            self.free_made(lane, output)

    def unit(self, lane: _Lane, k: int) -> None:
        """The unit, what it waits for, and what follows it."""
        unit, reads = lane.units[k], self.inputs.reads
        arriving = [j for i in unit for j in reads[i] if j in lane.received]
        if self.streams:
            self.before(lane, unit[0])
        self.add(lane, *[Wait(lane.slot[j]) for j in arriving if lane.received[j].first == k])
        for i in unit:
            writes = self.slot(lane, i) if i in lane.made else NONE
            uses = tuple([self.slot(lane, j) for j in reads[i]]) if reads[i] else ()
            pair = k if len(unit) > 1 else NONE
            at = self.inputs.order.problem.at[i]
            self.add(lane, Compute(self.operations[i], uses, writes, pair, lane.stream, at))
            if i in lane.made:
                self.add(lane, *[Send(writes, one.channel) for one in lane.made[i].messages])
        if self.streams:
            self.known.compute(lane.stream)
        self.add(lane, *[Free(lane.slot[j]) for j in arriving if lane.received[j].last == k])
        for output in lane.freed[k]:
            self.free_made(lane, output)

    def before(self, lane: _Lane, i: int) -> None:
        """The `await`s that the operation needs: for what it comes after, and for a slot."""
        needs = [self.place(j) for j in self.inputs.after.get(i, ())]
        if i in lane.made:
            lane.slot[i], more = self.slots.take(lane.stream, i, needs)
            needs += more
        self.wait_for(lane, needs)

    def place(self, i: int) -> StreamPlace:
        """The stream of an operation of the rank, and its place there."""
        times = self.inputs.issue.times
        return times.lane[i] - self.first, times.index[i]

    def wait_for(self, lane: _Lane, places: list[StreamPlace]) -> None:
        """The `await`s that the stream needs to know that these computations have ended."""
        missing = self.known.missing(lane.stream, places)
        for stream, k in missing:
            self.add(lane, Await(self.operations[self.lanes[stream].units[k][0]]))
        for place in missing:
            self.known.tell(lane.stream, place)

    def free_made(self, lane: _Lane, output: Output) -> None:
        """A result of the rank's own is given up."""
        slot = self.slot(lane, output.result)
        self.add(lane, Free(slot))
        if self.streams:
            self.slots.give(lane.stream, slot)

    def slot(self, lane: _Lane, i: int) -> int:
        """Where the stream finds the result of operation i."""
        if i in lane.slot:
            return lane.slot[i]
        return next(other.slot[i] for other in self.lanes if i in other.made)


def _number_received(lanes: Sequence[_Lane]) -> int:
    """Give every received result a slot that no other stream has. Within a unit, in time: 0 posts,
    1 waits and frees before it, 2 and 3 its operations, 4 frees behind it. Returns how many."""
    many = 0
    for own in lanes:
        messages = list(chain.from_iterable(own.posts))
        numbers = assign([(5 * one.posted, 5 * one.last + 4) for one in messages])
        for message, number in zip(messages, numbers, strict=True):
            own.slot[message.result] = many + number
        many += max(numbers, default=NONE) + 1
    return many


def _number_made(own: _Lane, many: int) -> None:
    """Give every result that is made here a slot, behind the `many` that are received into."""
    results, lifetimes = [], []
    for output in own.made.values():
        results.append(output.result)
        born = 5 * output.made + 2 + own.units[output.made].index(output.result)
        lifetimes.append((born, max(5 * output.send_wait + 1, 5 * output.last + 4)))
    numbers = assign(lifetimes)
    own.slot.update((i, many + n) for i, n in zip(results, numbers, strict=True))


def reads(problem: Problem, edges: Sequence[DataEdge]) -> list[tuple[int, ...]]:
    """For every operation those whose results it uses: its own pipeline's first, then the others
    by their place in the file."""
    found: list[list[int]] = [[] for _ in problem.operations]
    for a, b, _, _ in edges:
        found[b].append(a)
    own = [operation.pipeline for operation in problem.operations]
    for b, uses in enumerate(found):
        if len(uses) > 1:
            uses.sort(key=lambda a: (own[a] != own[b], own[a], problem.operations[a].stage))
    return [tuple(uses) for uses in found]
