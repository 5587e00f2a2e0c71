"""Order, the sequence in which it is issued, and its messages → the instructions of every rank,
without the sums at their end: what stands before each unit, the unit, and what stands behind it.
`docs/instructions.md` says where each instruction stands and why."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct

from stretto.compiler.order import Order, RankOrder
from stretto.compiler.problem.spec import NONE
from stretto.compiler.program.issue import Issue
from stretto.compiler.program.known import StreamKnowledge, StreamPlace
from stretto.compiler.program.messages import Message, Output
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


class RankList(Struct):
    """The list of one rank, and the stream of each of its instructions; without streams none."""

    instructions: list[Instruction] = []
    streams: list[int] = []


class ListInputs(NamedTuple):
    """What the lists are made of: `reads`, for each operation those whose results it uses; `after`,
    for each the others of its rank, on other streams, that it comes after."""

    order: Order
    issue: Issue
    reads: Sequence[Sequence[int]]
    after: Mapping[int, Sequence[int]]


class _Lane:
    """What is to stand where on one stream of a rank: `arriving` are the messages to it, `own` the
    results that it makes. By number of a unit, behind the last of which one more is thought."""

    def __init__(self, lane: RankOrder, arriving: list[Message], own: Sequence[Output]):
        self.units = lane.units
        self.stream = lane.stream
        self.posts: dict[int, list[Message]] = defaultdict(list)  # before the unit
        self.send_waits: dict[int, list[Output]] = defaultdict(list)  # before the unit
        self.freed: dict[int, list[Output]] = defaultdict(list)  # behind the unit
        self.freed_late: dict[int, list[Output]] = defaultdict(list)  # before the unit
        self.received: dict[int, Message] = {}  # these three by the operation that made it
        self.made: dict[int, Output] = {}
        self.slot: dict[int, int] = {}
        arriving.sort(key=attrgetter("channel"))
        arriving.sort(key=attrgetter("made"))  # keeps each channel's sequence
        for message in arriving:
            self.posts[message.posted].append(message)
            self.received[message.result] = message
        for output in own:
            self.made[output.result] = output
            if output.messages:
                self.send_waits[output.send_wait].append(output)


def lists(inputs: ListInputs, made: Sequence[Sequence[Output]]) -> Iterator[RankList]:
    """The instructions of every rank; `made` has the results of every lane."""
    order, times = inputs.order, inputs.issue.times
    arriving: list[list[Message]] = [[] for _ in order.lanes]
    for row in made:
        for output in row:
            for message in output.messages:
                arriving[message.target].append(message)
    ranks = order.problem.spec.ranks
    many = len(order.lanes) // ranks
    for rank in range(ranks):
        numbers = range(many * rank, many * (rank + 1))
        lanes = [_Lane(order.lanes[n], arriving[n], made[n]) for n in numbers]
        for number, own in zip(numbers, lanes, strict=True):
            for output in made[number]:
                if not output.elsewhere:
                    if output.last != NONE and output.last >= output.send_wait:
                        own.freed[output.last].append(output)  # else with the wait for its messages
                    continue
                lane, unit, late = releases(times, number, output)
                of = lanes[lane - numbers.start]
                (of.freed_late if late else of.freed)[unit].append(output)
        yield _ListBuilder(inputs, rank, lanes).row()


class _ListBuilder:
    """The list of one rank under construction."""

    def __init__(self, inputs: ListInputs, rank: int, lanes: list[_Lane]):
        self.inputs, self.rank, self.lanes = inputs, rank, lanes
        self.first = rank * len(lanes)  # lane
        self.operations, self.at = inputs.order.problem.operations, inputs.order.problem.at
        self.reads = inputs.reads
        self.found = RankList()
        self.out = self.found.instructions
        self.streams = bool(inputs.order.lists)
        self.known = StreamKnowledge(len(lanes))
        many = _number_received(lanes)
        self.slots = OutputSlots(inputs.issue.times, self.first, self.known, many)
        if not self.streams:
            _number_made(lanes[0], many)
        self.wait, self.free = _Shared(Wait), _Shared(Free)
        self.send = _Shared[tuple[int, int], Send](lambda key: Send(*key))
        self.alone = _Shared[int, tuple[int, ...]](lambda slot: (slot,))

    def row(self) -> RankList:
        """All of it."""
        for lane in self.lanes:
            self.post(lane, 0)
            self.on(lane)
        for number, k in self.inputs.issue.units(self.rank):
            lane = self.lanes[number - self.first]
            if k in lane.send_waits or k in lane.freed_late:
                self.head(lane, k)
            self.unit(lane, k)
            if k + 1 in lane.posts:
                self.post(lane, k + 1)
            if self.streams:
                self.on(lane)
        for lane in self.lanes:
            self.head(lane, len(lane.units))
            self.on(lane)
        return self.found

    def on(self, lane: _Lane) -> None:
        """What was added last stands on this stream."""
        if self.streams:
            more = len(self.out) - len(self.found.streams)
            self.found.streams.extend([lane.stream] * more)

    def post(self, lane: _Lane, k: int) -> None:
        """The receives that stand before the unit, directly behind the one before it."""
        out, slot, operations = self.out, lane.slot, self.operations
        for message in lane.posts.get(k, _NOTHING):
            i = message.result
            out.append(Receive(slot[i], message.channel, operations[i]))

    def head(self, lane: _Lane, k: int) -> None:
        """What else stands before the unit that does not belong to it."""
        for output in lane.send_waits.get(k, _NOTHING):
            self.out.append(self.wait[lane.slot[output.result]])
            if output.last < k and not output.elsewhere:
                self.free_made(lane, output)
        for output in lane.freed_late.get(k, _NOTHING):
            assert output.elsewhere
            readers = [*output.elsewhere.items()]
            if output.last != NONE:
                readers.append((self.inputs.issue.times.lane[output.result], output.last))
            self.wait_for(lane, [(a - self.first, unit) for a, unit in readers])
            self.free_made(lane, output)

    def unit(self, lane: _Lane, k: int) -> None:
        """The unit, what it waits for, and what follows it."""
        unit, out, slot, received = lane.units[k], self.out, lane.slot, lane.received
        arriving: Sequence[Message] = _NOTHING
        for i in unit:
            for j in self.reads[i]:
                message = received.get(j)
                if message is not None:
                    arriving = (*arriving, message)
        if self.streams:
            self.before(lane, unit[0])
        for message in arriving:
            if message.first == k:
                out.append(self.wait[slot[message.result]])
        pair = k if len(unit) > 1 else NONE
        for i in unit:
            self.computation(lane, i, pair)
        if self.streams:
            self.known.compute(lane.stream)
        for message in arriving:
            if message.last == k:
                out.append(self.free[slot[message.result]])
        for output in lane.freed.get(k, _NOTHING):
            self.free_made(lane, output)

    def computation(self, lane: _Lane, i: int, pair: int) -> None:
        """One operation, alone or in the overlapped unit `pair`, and the sends of its result."""
        reads, uses, out = self.reads[i], _NO_SLOTS, self.out
        if len(reads) == 1:
            j = reads[0]
            uses = self.alone[lane.slot[j] if j in lane.slot else self.slot(lane, j)]
        elif reads:
            uses = tuple([self.slot(lane, j) for j in reads])
        output = lane.made.get(i)
        if output is None:
            out.append(Compute(self.operations[i], uses, NONE, pair, lane.stream, self.at[i]))
            return
        writes = lane.slot[i]
        out.append(Compute(self.operations[i], uses, writes, pair, lane.stream, self.at[i]))
        for message in output.messages:
            out.append(self.send[writes, message.channel])

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
            self.out.append(Await(self.operations[self.lanes[stream].units[k][0]]))
        for place in missing:
            self.known.tell(lane.stream, place)

    def free_made(self, lane: _Lane, output: Output) -> None:
        """A result of the rank's own is given up."""
        slot = self.slot(lane, output.result)
        self.out.append(self.free[slot])
        if self.streams:
            self.slots.give(lane.stream, slot)

    def slot(self, lane: _Lane, i: int) -> int:
        """Where the stream finds the result of operation i."""
        slot = lane.slot.get(i)
        if slot is None:
            slot = next(other.slot[i] for other in self.lanes if i in other.made)
        return slot


_NOTHING: tuple[Any, ...] = ()

_NO_SLOTS: tuple[int, ...] = ()

_SlotNumbers = TypeVar("_SlotNumbers")
_Value = TypeVar("_Value")


class _Shared(dict[_SlotNumbers, _Value]):
    """What is the same wherever a list names the same slots: made once, of their numbers."""

    def __init__(self, make: Callable[[_SlotNumbers], _Value]):
        super().__init__()
        self.make = make

    def __missing__(self, key: _SlotNumbers) -> _Value:
        found = self[key] = self.make(key)
        return found


def _number_received(lanes: Sequence[_Lane]) -> int:
    """Give every received result a slot that no other stream has. Within a unit, in time: 0 posts,
    1 waits and frees before it, 2 and 3 its operations, 4 frees behind it. Returns how many."""
    many = 0
    for own in lanes:
        messages = list(chain.from_iterable(own.posts[k] for k in sorted(own.posts)))
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
        born, unit = 5 * output.made + 2, own.units[output.made]
        if unit[0] != output.result:
            born += 1
        waits, used = 5 * output.send_wait + 1, 5 * output.last + 4
        lifetimes.append((born, waits if waits > used else used))
    numbers = assign(lifetimes)
    own.slot.update((i, many + n) for i, n in zip(results, numbers, strict=True))
