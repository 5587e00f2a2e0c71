"""An oracle for the proof: runs a small Program in every possible interleaving.

It shares no code with `compiler/proof/`, nor its notion of what an instruction does. There a
slot has a state that rules are checked against; here a slot is a cell of memory. A message is
read out of its cell at the moment when the transport takes it and written into its cell when it
is delivered, which may be at any time; so whoever writes too early, reads too early or frees too
early is found out by the data that some interleaving sees.

`explore` gives the outcomes of all interleavings for one capacity of the channels: 0 (a message
is handed over only when its receive is posted), n (n messages fit into the channel), or None (any
number). `alone` follows each rank's list by itself, for what does not depend on the others:
what each computation keeps for the next, and the peaks.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from stretto.compiler.problem.spec import Operation, Spec
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

CAPACITIES = (0, 1, None)
FINISH, STUCK, WRONG, LEFT = "finish", "stuck", "wrong", "left over"
NOTHING = 0  # what a cell holds that was never written, or was freed; results count from 1

Cells = tuple[int, ...]
# A channel: the cells whose messages wait to be taken; the messages inside; the cells that wait
# for a delivery, each with the result that it is to bring.
Wire = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]
State = tuple[tuple[int, ...], tuple[Cells, ...], tuple[Wire, ...]]
Chooser = Callable[[list[State | None]], State | None]


class TooLarge(Exception):
    """More states than were allowed."""


def explore(program: Program, capacity: int | None, most: int = 200_000) -> set[str]:
    """The outcomes over all interleavings: FINISH; STUCK, where nobody can go on; WRONG, where a
    computation or a delivery saw other data than it should, or a broken reference; LEFT, where
    something stayed in a cell or on a wire. Raises `TooLarge` beyond `most` states."""
    return all_outcomes(Machine(program, capacity), most)


def follow(program: Program, capacity: int | None, choose: Chooser) -> str:
    """The outcome of one interleaving, in which `choose` picks among the possible steps."""
    return outcome_of(Machine(program, capacity), choose)


class Stepping(Protocol):
    """What can be explored: from a state all that one step leads to, None for a mistake."""

    start: Any

    def steps(self, state: Any) -> Iterator[Any]: ...

    def remarks(self, state: Any) -> set[str]: ...

    def outcome(self, state: Any) -> str: ...


def all_outcomes(machine: Stepping, most: int) -> set[str]:
    """Over all interleavings, with what is remarked of the states. Raises `TooLarge`."""
    seen, todo, outcomes = {machine.start}, [machine.start], set[str]()
    while todo:
        state = todo.pop()
        outcomes |= machine.remarks(state)
        stuck = True
        for following in machine.steps(state):
            stuck = False
            if following is None:
                outcomes.add(WRONG)
            elif following not in seen:
                seen.add(following)
                todo.append(following)
                if len(seen) > most:
                    raise TooLarge(f"more than {most} states")
        if stuck:
            outcomes.add(machine.outcome(state))
    return outcomes


def outcome_of(machine: Stepping, choose: Callable[[list[Any]], Any]) -> str:
    """Of one interleaving."""
    state = machine.start
    while possible := list(machine.steps(state)):
        following = choose(possible)
        if following is None:
            return WRONG
        state = following
    return machine.outcome(state)


def choosers(random: int = 6) -> Iterator[Chooser]:
    """Ways to pick the next step: always the first (ranks run as far as they can, messages move
    late), always the last (messages move at once), and some at random."""
    yield lambda possible: possible[0]
    yield lambda possible: possible[-1]
    for seed in range(random):
        yield Random(seed).choice


def inputs(spec: Spec, operation: Operation) -> Iterator[set[Operation]]:
    """Which results an operation must find in the cells that it reads, in this order; each as the
    set of names that may stand there."""
    p, s = operation.pipeline, operation.stage
    lines = spec.pipelines
    if operation.kind == "F":
        if s > 0:
            yield {operation._replace(stage=s - 1)}
        for q, line in enumerate(lines):
            for feed in line.feeds:
                if feed == (p, s):
                    yield {operation._replace(pipeline=q, stage=len(line.stages) - 1)}
    elif operation.kind in ("B", "I"):
        ahead = [(p, s + 1)] if s + 1 < len(lines[p].stages) else sorted(lines[p].feeds)
        for q, t in ahead:
            if not lines[q].forward_only:
                yield {operation._replace(kind=kind, pipeline=q, stage=t) for kind in ("B", "I")}


# ---------------------------------------------------------------------------- one step

COMPUTE, RECEIVE, SEND, WAIT, FREE, REDUCE, BROKEN = range(7)


class Machine:
    """The Program with every result as a number, and the steps that it can take."""

    def __init__(self, program: Program, capacity: int | None):
        self.program, self.capacity = program, capacity
        self.numbers: dict[Operation, int] = {}
        self.lists = [
            [self.translated(rank, one) for one in own] for rank, own in enumerate(program.ranks)
        ]
        cells = tuple((NOTHING,) * (1 + self.last_slot(own)) for own in program.ranks)
        wires: tuple[Wire, ...] = (((), (), ()),) * len(program.channels)
        self.start: State = (0,) * len(program.ranks), cells, wires

    @staticmethod
    def last_slot(own: tuple[Instruction, ...]) -> int:
        slots = [-1]
        for one in own:
            if isinstance(one, Compute):
                slots += [*one.reads, one.writes]
            elif not isinstance(one, Reduce | BeginReduction | BeginUnshard | Await):
                slots.append(one.slot)
        return max(slots)

    def number(self, operation: Operation) -> int:
        return self.numbers.setdefault(operation, len(self.numbers) + 1)

    def translated(self, rank: int, one: Instruction) -> tuple[Any, ...]:
        """The instruction as a plain tuple; BROKEN where it names what does not exist."""
        channels, reductions = self.program.channels, self.program.reductions
        if isinstance(one, Compute):
            needed = [
                frozenset(map(self.number, names))
                for names in inputs(self.program.spec, one.operation)
            ]
            fits = len(needed) == len(one.reads) and all(slot >= 0 for slot in one.reads)
            reads = tuple(zip(one.reads, needed, strict=True)) if fits else ()
            return (COMPUTE, reads, one.writes, self.number(one.operation)) if fits else (BROKEN,)
        if isinstance(one, Send | Receive):
            c, end = one.channel, 0 if isinstance(one, Send) else 1
            if not 0 <= c < len(channels) or channels[c][end] != rank or one.slot < 0:
                return (BROKEN,)
            if isinstance(one, Send):
                return SEND, one.slot, c
            return RECEIVE, one.slot, c, self.number(one.result)
        if isinstance(one, Reduce):
            if not 0 <= one.reduction < len(reductions):
                return (BROKEN,)
            return (
                REDUCE,
                one.reduction,
                {rank, *(c.rank for c in reductions[one.reduction].copies)},
            )
        if isinstance(
            one, BeginReduction | BeginUnshard | Await
        ):  # moves nothing that is followed here
            return (BROKEN,)
        return (WAIT if isinstance(one, Wait) else FREE), one.slot

    def steps(self, state: State) -> Iterator[State | None]:
        """Every state that one step leads to; None where the step shows a mistake."""
        at, cells, wires = state
        for rank, own in enumerate(self.lists):
            if at[rank] < len(own):
                yield from self.instruction(state, rank, own[at[rank]])
        for c, (source, target, *_) in enumerate(self.program.channels):
            leaving, inside, arriving = wires[c]
            if leaving and arriving and not inside:
                wire = leaving[1:], inside, arriving[1:]
                yield self.deliver(state, c, wire, target, arriving[0], cells[source][leaving[0]])
            if leaving and (self.capacity is None or len(inside) < self.capacity):
                value = cells[source][leaving[0]]
                yield at, cells, put(wires, c, (leaving[1:], (*inside, value), arriving))
            if inside and arriving:
                wire = leaving, inside[1:], arriving[1:]
                yield self.deliver(state, c, wire, target, arriving[0], inside[0])

    def deliver(
        self, state: State, c: int, wire: Wire, rank: int, receive: tuple[int, int], value: int
    ) -> State | None:
        at, cells, wires = state
        slot, result = receive
        if value != result:
            return None
        return at, put(cells, rank, put(cells[rank], slot, value)), put(wires, c, wire)

    def instruction(self, state: State, rank: int, one: tuple[Any, ...]) -> Iterator[State | None]:
        at, cells, wires = state
        own, gone = cells[rank], put(at, rank, at[rank] + 1)
        kind = one[0]
        if kind == COMPUTE:
            _, reads, writes, result = one
            if any(own[slot] not in names for slot, names in reads):
                yield None
            elif writes < 0:
                yield gone, cells, wires
            else:
                yield gone, put(cells, rank, put(own, writes, result)), wires
        elif kind == SEND:
            leaving, inside, arriving = wires[one[2]]
            yield gone, cells, put(wires, one[2], ((*leaving, one[1]), inside, arriving))
        elif kind == RECEIVE:
            leaving, inside, arriving = wires[one[2]]
            arriving = (*arriving, (one[1], one[3]))
            yield gone, cells, put(wires, one[2], (leaving, inside, arriving))
        elif kind == WAIT:
            if not self.busy(wires, rank, one[1]):
                yield gone, cells, wires
        elif kind == FREE:
            yield gone, put(cells, rank, put(own, one[1], NOTHING)), wires
        elif kind == REDUCE:
            here = [r for r in one[2] if at[r] < len(self.lists[r]) and self.lists[r][at[r]] == one]
            if len(here) == len(one[2]):
                yield tuple(k + (r in one[2]) for r, k in enumerate(at)), cells, wires
        else:
            yield None

    def busy(self, wires: tuple[Wire, ...], rank: int, slot: int) -> bool:
        """Whether a message begun on this cell is not over."""
        for (source, target, *_), wire in zip(self.program.channels, wires, strict=True):
            if source == rank and slot in wire[0]:
                return True
            if target == rank and any(slot == other for other, _ in wire[2]):
                return True
        return False

    def remarks(self, state: State) -> set[str]:
        """Nothing: where memory has no limit, all is seen in the steps."""
        return set()

    def outcome(self, state: State) -> str:
        """What a state is in which nobody can go on."""
        at, cells, wires = state
        if any(k < len(own) for k, own in zip(at, self.lists, strict=True)):
            return STUCK
        clean = not any(any(own) for own in cells) and not any(any(wire) for wire in wires)
        return FINISH if clean else LEFT


def put(values: tuple[Any, ...], k: int, value: Any) -> tuple[Any, ...]:
    return (*values[:k], value, *values[k + 1 :])


# ---------------------------------------------------------------------------- a rank alone


@dataclass
class Alone:
    """What the lists show by themselves. `flow`: by operation its rank, its partner in an
    overlapped unit, and (for the last of the three) what it found kept on the rank. `sums`: by
    reduction and rank the weight gradients that went in."""

    order: list[list[Operation]] = field(default_factory=list)
    flow: dict[Operation, tuple[int, Operation | None, frozenset[str]]] = field(
        default_factory=dict
    )
    sums: dict[tuple[int, int], frozenset[Operation]] = field(default_factory=dict)
    activations: list[int] = field(default_factory=list)
    receives: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def alone(program: Program) -> Alone:
    """Follow each list by itself; see `Alone`."""
    found = Alone()
    for rank in range(len(program.ranks)):
        _Alone(program, rank, found).run()
    return found


class _Alone:
    def __init__(self, program: Program, rank: int, found: Alone):
        self.program, self.rank, self.found = program, rank, found
        self.done: list[Operation] = []
        self.live: Counter[tuple[int, ...]] = Counter()  # grains by stage and micro-batch
        self.filled: dict[int, str] = {}  # by cell: "receives" or "outputs"
        self.begun: Counter[int] = Counter()
        self.peaks = {"activations": 0, "receives": 0, "outputs": 0}

    def run(self) -> None:
        units: dict[int, list[Operation]] = {}
        for one in self.program.ranks[self.rank]:
            if isinstance(one, Compute):
                self.compute(one)
                if one.unit >= 0:
                    units.setdefault(one.unit, []).append(one.operation)
            elif isinstance(one, Receive):
                self.put(one.slot, "receives")
                self.begun[one.slot] += 1
            elif isinstance(one, Send):
                self.begun[one.slot] += 1
            elif isinstance(one, Wait):
                if not self.begun.pop(one.slot, 0):
                    self.found.wrong.append(f"rank {self.rank}: a wait for nothing")
            elif isinstance(one, Free):
                if self.begun[one.slot] or not self.filled.pop(one.slot, ""):
                    self.found.wrong.append(f"rank {self.rank}: a free of {one.slot}")
            elif isinstance(one, Reduce):
                self.reduce(one)
        for unit in units.values():
            for operation in unit:
                partner = next((o for o in unit if o != operation), None)
                where, _, kept = self.found.flow[operation]
                self.found.flow[operation] = where, partner, kept
        self.found.order.append(self.done)
        for name, peak in self.peaks.items():
            getattr(self.found, name).append(peak)

    def put(self, slot: int, what: str) -> None:
        if slot in self.filled:
            self.found.wrong.append(f"rank {self.rank}: slot {slot} is filled twice")
        self.filled[slot] = what
        self.peaks[what] = max(self.peaks[what], list(self.filled.values()).count(what))

    def compute(self, one: Compute) -> None:
        operation = one.operation
        kind, p, s, m, k, _ = operation
        line = self.program.spec.pipelines[p]
        stage = line.stages[s]
        kept = frozenset(o.kind for o in self.done if o[1:] == operation[1:])
        if operation in self.found.flow:
            self.found.wrong.append(f"{operation} is done twice")
        before = {"F": set(), "B": {"F"}, "I": {"F"}, "W": {"F", "I"}}[kind]
        if kept != before or not self.slices_fit(operation):
            self.found.wrong.append(f"{operation} comes after {sorted(kept)} of its own")
        self.found.flow[operation] = self.rank, None, kept
        self.done.append(operation)
        if one.writes >= 0:
            self.put(one.writes, "outputs")
        place = (p, s, m, k)
        if kind == "F":
            self.live[place] = stage.activation
        self.peaks["activations"] = max(self.peaks["activations"], sum(self.live.values()))
        over = kind in "BW" or line.forward_only or self.program.name == "eval"
        if over:
            self.live.pop(place, None)
        elif kind == "I":
            self.live[place] = stage.kept

    def slices_fit(self, operation: Operation) -> bool:
        """Whether the slice before it (for a backward, the one behind it) was done."""
        k, many = operation.slice, self.program.spec.slices
        before = k - 1 if operation.kind == "F" else k + 1
        if operation.kind == "W" or not 0 <= before < many:
            return True
        kinds = "F" if operation.kind == "F" else "BI"
        other = operation._replace(slice=before)
        return any(other._replace(kind=kind) in self.done for kind in kinds)

    def reduce(self, one: Reduce) -> None:
        copies = self.program.reductions[one.reduction].copies
        mine = {(c.pipeline, c.stage) for c in copies if c.rank == self.rank}
        if (one.reduction, self.rank) in self.found.sums:
            self.found.wrong.append(f"rank {self.rank}: sum {one.reduction} is made twice")
        self.found.sums[one.reduction, self.rank] = frozenset(
            o for o in self.done if o.kind in "BW" and (o.pipeline, o.stage) in mine
        )
