"""The oracle for Programs with streams: as `explorer`, but every stream of every rank is a process
that runs arbitrarily fast or slow. It shares no code with `compiler/proof/`.

A computation takes two steps. When it begins, everything it comes after must have ended and the
cells that it reads must hold its inputs, and from then on nobody knows what is in the cell that it
writes; when it ends, its inputs must still be there, and its result is written. So a stream that
was not waited for is found out in some interleaving, by what another one then sees.

`explore_streams` goes through all interleavings of a Program; `together`: with one thread per rank
that runs the rank's list in its sequence. `explore_rank` goes through those of one rank alone,
whose messages are taken and delivered at any time: what is wrong there, nothing on the rank itself
prevents.
"""

from collections.abc import Callable, Iterator
from typing import Any

from stretto.compiler.problem.spec import Operation
from stretto.compiler.program.program import (
    Await,
    Compute,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Send,
    Wait,
)
from tests.support.explorer import (
    FINISH,
    LEFT,
    NOTHING,
    STUCK,
    all_outcomes,
    outcome_of,
    put,
)
from tests.support.part_programs import operations, own_needs, results
from tests.support.planned_streams import held_grains

OVER = "over the limit"
UNKNOWN = -1  # what stands in a cell while it is being written

BEGIN, END, RECEIVE, SEND, WAIT, FREE, REDUCE, AWAIT, BROKEN = range(9)

Step = tuple[Any, ...]
# A wire: what waits to be taken (cell, result); what is inside; what waits to be delivered.
PartWire = tuple[tuple[tuple[int, int], ...], tuple[int, ...], tuple[tuple[int, int], ...]]
PartState = tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[PartWire, ...]]
PartChooser = Callable[[list[PartState | None]], PartState | None]


def explore_streams(
    program: Program, capacity: int | None, *, together: bool = False, most: int = 60_000
) -> set[str]:
    """The outcomes over all interleavings; see `explorer.explore`. OVER: some rank held more than
    its limit in some of them. Raises `TooLarge`."""
    return all_outcomes(StreamMachine(program, capacity, together=together), most)


def explore_rank(program: Program, rank: int, *, most: int = 60_000) -> set[str]:
    """The outcomes of one rank alone, among messages that come and go at any time."""
    return all_outcomes(StreamMachine(program, None, only=rank), most)


class StreamMachine:
    """The Program with every result as a number, and the steps that it can take."""

    def __init__(
        self, program: Program, capacity: int | None, *, together: bool = False, only: int = -1
    ):
        self.program, self.capacity, self.only = program, capacity, only
        spec = program.spec
        self.spec = spec
        self.every = set(operations(spec, program.name))
        self.numbers = {one: k for k, one in enumerate(sorted(self.every), 1)}
        self.owner: list[int] = []  # the rank of each process
        self.lists: list[list[Step]] = []
        self.place: dict[Operation, tuple[int, int]] = {}  # process, entry of its end
        streams = range(1 if together else len(spec.streams))
        for rank, own in enumerate(program.ranks):
            if only not in (-1, rank):
                continue
            for stream in streams:
                self.owner.append(rank)
                self.lists.append([])
                for one, there in zip(own, program.streams[rank], strict=True):
                    if together or there == stream:
                        self.enter(len(self.lists) - 1, rank, one, there)
        self.complete = only != -1 or self.place.keys() == self.every
        cells = tuple(
            (NOTHING,) * (1 + max([-1, *(slot for one in own for slot in slots(one))]))
            for own in program.ranks
        )
        wires: tuple[PartWire, ...] = (((), (), ()),) * len(program.channels)
        self.start: PartState = (0,) * len(self.lists), cells, wires
        self.amounts = self.limited()

    def limited(self) -> list[tuple[int, list[tuple[int, tuple[int, int], list[tuple[int, int]]]]]]:
        """Of every rank with a limit, the limit and its amounts."""
        found = []
        for rank, limit in enumerate(self.spec.limits):
            if limit is not None and self.only in (-1, rank):
                own = [
                    (one.grains, self.place[one.taken_by], [self.place[f] for f in one.freed_by])
                    for one in held_grains(self.program, rank)
                    if one.taken_by in self.place and all(f in self.place for f in one.freed_by)
                ]
                found.append((limit.grains, own))
        return found

    def enter(self, process: int, rank: int, one: Instruction, stream: int) -> None:
        """The instruction as one or two entries of a process; BROKEN where it names what does not
        exist, or stands where it cannot."""
        own, channels = self.lists[process], self.program.channels
        if isinstance(one, Compute):
            own += self.computation(rank, one, stream)
            if own[-1][0] == END:
                if one.operation in self.place:
                    own[-1] = (BROKEN,)
                self.place[one.operation] = process, len(own) - 1
        elif isinstance(one, Send | Receive):
            end = 0 if isinstance(one, Send) else 1
            fits = 0 <= one.channel < len(channels) and one.slot >= 0
            fits = fits and channels[one.channel][end] == rank
            fits = fits and channels[one.channel][3 + end] == stream
            if not fits:
                own.append((BROKEN,))
            elif isinstance(one, Send):
                own.append((SEND, one.slot, one.channel))
            else:
                own.append((RECEIVE, one.slot, one.channel, self.numbers.get(one.result, -2)))
        elif isinstance(one, Reduce):
            known = 0 <= one.reduction < len(self.program.reductions) and stream == 0
            own.append((REDUCE, one.reduction) if known else (BROKEN,))
        elif isinstance(one, Await):
            own.append((AWAIT, one.operation, rank))
        elif isinstance(one, Wait | Free):
            own.append((WAIT if isinstance(one, Wait) else FREE, one.slot))
        else:
            own.append((BROKEN,))

    def computation(self, rank: int, one: Compute, stream: int) -> list[Step]:
        operation = one.operation
        if operation not in self.every:
            return [(BROKEN,)]
        part = self.spec.parts[operation.pipeline][operation.stage][operation.part]
        where = self.spec.pipelines[operation.pipeline].stages[operation.stage].rank
        needed = [self.numbers[result] for result in results(self.spec, operation)]
        if len(needed) != len(one.reads) or part.stream != stream or where != rank or one.unit >= 0:
            return [(BROKEN,)]
        reads = tuple(zip(one.reads, needed, strict=True))
        rules = [rule for rule in self.spec.rules if rule.later == operation]
        after = [rule.earlier for rule in rules if rule.earlier in self.every]
        after += own_needs(self.spec, operation)
        number = self.numbers[operation]
        return [(BEGIN, reads, one.writes, tuple(after)), (END, reads, one.writes, number)]

    # ------------------------------------------------------------------ steps

    def steps(self, state: PartState) -> Iterator[PartState | None]:
        """Every state that one step leads to; None where the step shows a mistake."""
        at = state[0]
        if not self.complete:
            yield None
            return
        for process, own in enumerate(self.lists):
            if at[process] < len(own):
                yield from self.entry(state, process, own[at[process]])
        for c, (source, target, *_) in enumerate(self.program.channels):
            if self.only == -1:
                yield from self.transport(state, c, source, target)
            else:
                yield from self.anything(state, c, source, target)

    def transport(
        self, state: PartState, c: int, source: int, target: int
    ) -> Iterator[PartState | None]:
        at, cells, wires = state
        leaving, inside, arriving = wires[c]
        if leaving and arriving and not inside:
            wire = leaving[1:], inside, arriving[1:]
            yield self.deliver(state, c, wire, target, arriving[0], cells[source][leaving[0][0]])
        if leaving and (self.capacity is None or len(inside) < self.capacity):
            value = cells[source][leaving[0][0]]
            yield at, cells, put(wires, c, (leaving[1:], (*inside, value), arriving))
        if inside and arriving:
            wire = leaving, inside[1:], arriving[1:]
            yield self.deliver(state, c, wire, target, arriving[0], inside[0])

    def anything(
        self, state: PartState, c: int, source: int, target: int
    ) -> Iterator[PartState | None]:
        """What the others may do with the messages of the one rank that is looked at."""
        at, cells, wires = state
        leaving, inside, arriving = wires[c]
        if leaving and source == self.only:
            slot, value = leaving[0]
            taken = at, cells, put(wires, c, (leaving[1:], inside, arriving))
            yield taken if cells[source][slot] == value else None
        if arriving and target == self.only:
            wire = leaving, inside, arriving[1:]
            yield self.deliver(state, c, wire, target, arriving[0], arriving[0][1])

    def deliver(
        self,
        state: PartState,
        c: int,
        wire: PartWire,
        rank: int,
        receive: tuple[int, int],
        value: int,
    ) -> PartState | None:
        at, cells, wires = state
        slot, result = receive
        if value != result:
            return None
        return at, put(cells, rank, put(cells[rank], slot, value)), put(wires, c, wire)

    def entry(self, state: PartState, process: int, one: Step) -> Iterator[PartState | None]:
        at, cells, wires = state
        rank = self.owner[process]
        own, gone = cells[rank], put(at, process, at[process] + 1)
        kind = one[0]
        if kind in (BEGIN, END):
            _, reads, writes, what = one
            early = kind == BEGIN and not all(self.ended(at, other) for other in what)
            if early or any(own[slot] != value for slot, value in reads):
                yield None
            else:
                value = UNKNOWN if kind == BEGIN else what
                yield (
                    gone,
                    put(cells, rank, put(own, writes, value)) if writes >= 0 else cells,
                    wires,
                )
        elif kind == SEND:
            leaving, inside, arriving = wires[one[2]]
            leaving = (*leaving, (one[1], own[one[1]]))
            yield gone, cells, put(wires, one[2], (leaving, inside, arriving))
        elif kind == RECEIVE:
            leaving, inside, arriving = wires[one[2]]
            arriving = (*arriving, (one[1], one[3]))
            yield gone, cells, put(wires, one[2], (leaving, inside, arriving))
        elif kind == WAIT:
            if not self.busy(wires, rank, one[1]):
                yield gone, cells, wires
        elif kind == FREE:
            yield gone, put(cells, rank, put(own, one[1], NOTHING)), wires
        elif kind == AWAIT:
            where = self.place.get(one[1])
            if where is not None and self.owner[where[0]] == rank and at[where[0]] > where[1]:
                yield gone, cells, wires
        elif kind == REDUCE:
            yield from self.meet(state, one)
        else:
            yield None

    def ended(self, at: tuple[int, ...], one: Operation) -> bool:
        """Whether the operation has; of another rank, where one rank alone is looked at, it has."""
        where = self.place.get(one)
        if where is None:
            stage = self.spec.pipelines[one.pipeline].stages[one.stage]
            return self.only not in (-1, stage.rank)
        return at[where[0]] > where[1]

    def meet(self, state: PartState, one: Step) -> Iterator[PartState | None]:
        """All ranks of a sum are there; then all of its gradients must be, too."""
        at, cells, wires = state
        copies = self.program.reductions[one[1]].copies
        ranks = {copy.rank for copy in copies} if self.only == -1 else {self.only}
        here = [
            process
            for process, own in enumerate(self.lists)
            if at[process] < len(own) and own[at[process]] == one
        ]
        if {self.owner[process] for process in here} == ranks:
            mine = {copy[:2] for copy in copies if copy.rank in ranks}
            gradients = (o for o in self.every if o.kind != "F" and o[1:3] in mine)
            if all(self.ended(at, o) for o in gradients):
                yield tuple(k + (p in here) for p, k in enumerate(at)), cells, wires
            else:
                yield None

    def busy(self, wires: tuple[PartWire, ...], rank: int, slot: int) -> bool:
        """Whether a message begun on this cell is not over."""
        for (source, target, *_), wire in zip(self.program.channels, wires, strict=True):
            if source == rank and any(slot == other for other, _ in wire[0]):
                return True
            if target == rank and any(slot == other for other, _ in wire[2]):
                return True
        return False

    def remarks(self, state: PartState) -> set[str]:
        """Whether a rank holds more than it may."""
        at = state[0]
        for limit, own in self.amounts:
            held = sum(
                grains
                for grains, (process, end), freed in own
                if at[process] >= end and any(at[q] <= e for q, e in freed)
            )
            if held > limit:
                return {OVER}
        return set()

    def outcome(self, state: PartState) -> str:
        """What a state is in which nobody can go on."""
        at, cells, wires = state
        if any(k < len(own) for k, own in zip(at, self.lists, strict=True)):
            return STUCK
        clean = not any(any(own) for own in cells) and not any(any(wire) for wire in wires)
        return FINISH if clean else LEFT


def slots(one: Instruction) -> tuple[int, ...]:
    """Those that the instruction names."""
    if isinstance(one, Compute):
        return (*one.reads, one.writes)
    return (one.slot,) if isinstance(one, Send | Receive | Wait | Free) else ()


def follow_streams(
    program: Program, capacity: int | None, choose: PartChooser, *, together: bool = False
) -> str:
    """The outcome of one interleaving, in which `choose` picks among the possible steps."""
    return outcome_of(StreamMachine(program, capacity, together=together), choose)
