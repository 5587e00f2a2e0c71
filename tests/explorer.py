"""An oracle for the proof: runs a small Program in every possible interleaving.

It shares no code with `compiler/prove*.py`, nor its notion of what an instruction does. There a
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
from collections.abc import Iterator
from dataclasses import dataclass, field

from stretto.compiler.program import Compute, Free, Program, Receive, Reduce, Send, Wait
from stretto.compiler.spec import Operation, Spec

CAPACITIES = (0, 1, None)
FINISH, STUCK, WRONG, LEFT = "finish", "stuck", "wrong", "left over"
NOTHING = None  # what a cell holds that was never written, or was freed

Cells = tuple[Operation | None, ...]
# A channel: the cells whose messages wait to be taken; the messages inside; the cells that wait
# for a delivery, each with the result that it is to bring.
Wire = tuple[tuple[int, ...], tuple[Operation | None, ...], tuple[tuple[int, Operation], ...]]
State = tuple[tuple[int, ...], tuple[Cells, ...], tuple[Wire, ...]]


class TooLarge(Exception):
    """More states than were allowed."""


def explore(program: Program, capacity: int | None, most: int = 200_000) -> set[str]:
    """The outcomes over all interleavings: FINISH; STUCK, where nobody can go on; WRONG, where a
    computation saw other data than it needs, or a broken reference; LEFT, where something stayed
    in a cell or on a wire. Raises `TooLarge` beyond `most` states."""
    inputs = Inputs(program.spec)
    start = _start(program)
    seen, todo, outcomes = {start}, [start], set()
    while todo:
        state = todo.pop()
        stuck = True
        for following in _steps(program, state, capacity, inputs):
            stuck = False
            if following is None:
                outcomes.add(WRONG)
            elif following not in seen:
                seen.add(following)
                todo.append(following)
                if len(seen) > most:
                    raise TooLarge(f"more than {most} states")
        if stuck:
            outcomes.add(_outcome(program, state))
    return outcomes


def follow(program: Program, capacity: int | None, choose: "Chooser") -> str:
    """The outcome of one interleaving, in which `choose` picks among the possible steps."""
    inputs = Inputs(program.spec)
    state = _start(program)
    while True:
        possible = list(_steps(program, state, capacity, inputs))
        if not possible:
            return _outcome(program, state)
        following = choose(possible)
        if following is None:
            return WRONG
        state = following


class Chooser:
    """Picks a step; subclasses decide which."""

    def __call__(self, possible: list[State | None]) -> State | None:
        raise NotImplementedError


class Inputs:
    """Which results an operation must find in the cells that it reads, each a set of names that
    may stand there, and in what order."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self.known: dict[Operation, list[set[Operation]]] = {}

    def __call__(self, operation: Operation) -> list[set[Operation]]:
        if operation not in self.known:
            self.known[operation] = list(self._of(operation))
        return self.known[operation]

    def _of(self, operation: Operation) -> Iterator[set[Operation]]:
        p, s = operation.pipeline, operation.stage
        lines = self.spec.pipelines
        if operation.kind == "F":
            if s > 0:
                yield {operation._replace(stage=s - 1)}
            for q, line in enumerate(lines):
                for target, stage in line.feeds:
                    if (target, stage) == (p, s):
                        last = len(line.stages) - 1
                        yield {operation._replace(pipeline=q, stage=last)}
        elif operation.kind in ("B", "I"):
            ahead = [(p, s + 1)] if s + 1 < len(lines[p].stages) else sorted(lines[p].feeds)
            for q, t in ahead:
                if not lines[q].forward_only:
                    yield {
                        operation._replace(kind=kind, pipeline=q, stage=t)  # type: ignore[arg-type]
                        for kind in ("B", "I")
                    }


# ---------------------------------------------------------------------------- one step


def _start(program: Program) -> State:
    cells = []
    for instructions in program.ranks:
        slots = [-1]
        for one in instructions:
            if isinstance(one, Compute):
                slots += [*one.reads, one.writes]
            elif not isinstance(one, Reduce):
                slots.append(one.slot)
        cells.append((NOTHING,) * (max(slots) + 1))
    return (0,) * len(program.ranks), tuple(cells), (((), (), ()),) * len(program.channels)


def _steps(
    program: Program, state: State, capacity: int | None, inputs: Inputs
) -> Iterator[State | None]:
    """Every state that one step leads to; None where the step shows a mistake."""
    at, cells, wires = state
    for rank, instructions in enumerate(program.ranks):
        if at[rank] < len(instructions):
            yield from _instruction(program, state, rank, instructions[at[rank]], inputs)
    for c, (source, target, _) in enumerate(program.channels):
        leaving, inside, arriving = wires[c]
        if leaving and arriving and not inside:
            wire = leaving[1:], inside, arriving[1:]
            yield _deliver(state, c, wire, target, arriving[0], cells[source][leaving[0]])
        if leaving and (capacity is None or len(inside) < capacity):
            value = cells[source][leaving[0]]
            yield at, cells, _wire(wires, c, (leaving[1:], (*inside, value), arriving))
        if inside and arriving:
            wire = leaving, inside[1:], arriving[1:]
            yield _deliver(state, c, wire, target, arriving[0], inside[0])


def _deliver(
    state: State,
    c: int,
    wire: Wire,
    rank: int,
    receive: tuple[int, Operation],
    value: Operation | None,
) -> State | None:
    at, cells, wires = state
    slot, result = receive
    return (at, _put(cells, rank, slot, value), _wire(wires, c, wire)) if value == result else None


def _instruction(
    program: Program, state: State, rank: int, instruction: object, inputs: Inputs
) -> Iterator[State | None]:
    at, cells, wires = state
    gone = (*at[:rank], at[rank] + 1, *at[rank + 1 :])
    own = cells[rank]
    if isinstance(instruction, Compute):
        needed = inputs(instruction.operation)
        found = [own[slot] if slot >= 0 else NOTHING for slot in instruction.reads]
        right = len(needed) == len(found) and all(
            value in names for value, names in zip(found, needed, strict=True)
        )
        if not right:
            yield None
        elif instruction.writes < 0:
            yield gone, cells, wires
        else:
            yield gone, _put(cells, rank, instruction.writes, instruction.operation), wires
    elif isinstance(instruction, Send | Receive):
        c, sends = instruction.channel, isinstance(instruction, Send)
        if not 0 <= c < len(wires) or program.channels[c][0 if sends else 1] != rank:
            yield None
            return
        leaving, inside, arriving = wires[c]
        if isinstance(instruction, Send):
            leaving = (*leaving, instruction.slot)
        else:
            arriving = (*arriving, (instruction.slot, instruction.result))
        yield gone, cells, _wire(wires, c, (leaving, inside, arriving))
    elif isinstance(instruction, Wait):
        if not _busy(program, wires, rank, instruction.slot):
            yield gone, cells, wires
    elif isinstance(instruction, Free):
        yield gone, _put(cells, rank, instruction.slot, NOTHING), wires
    elif isinstance(instruction, Reduce):
        if not 0 <= instruction.reduction < len(program.reductions):
            yield None
            return
        meeting = {copy.rank for copy in program.reductions[instruction.reduction].copies} | {rank}
        here = [
            at[r] < len(program.ranks[r]) and program.ranks[r][at[r]] == instruction
            for r in meeting
        ]
        if all(here):
            yield tuple(k + 1 if r in meeting else k for r, k in enumerate(at)), cells, wires
    else:
        raise AssertionError(instruction)


def _busy(program: Program, wires: tuple[Wire, ...], rank: int, slot: int) -> bool:
    """Whether a message begun on this cell is not over."""
    for (source, target, _), (leaving, _, arriving) in zip(program.channels, wires, strict=True):
        if (source == rank and slot in leaving) or (
            target == rank and any(slot == other for other, _ in arriving)
        ):
            return True
    return False


def _put(
    cells: tuple[Cells, ...], rank: int, slot: int, value: Operation | None
) -> tuple[Cells, ...]:
    own = cells[rank]
    return (*cells[:rank], (*own[:slot], value, *own[slot + 1 :]), *cells[rank + 1 :])


def _wire(wires: tuple[Wire, ...], c: int, wire: Wire) -> tuple[Wire, ...]:
    return (*wires[:c], wire, *wires[c + 1 :])


def _outcome(program: Program, state: State) -> str:
    at, cells, wires = state
    if any(k < len(own) for k, own in zip(at, program.ranks, strict=True)):
        return STUCK
    clean = all(value is NOTHING for own in cells for value in own) and not any(
        part for wire in wires for part in wire
    )
    return FINISH if clean else LEFT


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
        return any(other._replace(kind=kind) in self.done for kind in kinds)  # type: ignore[arg-type]

    def reduce(self, one: Reduce) -> None:
        copies = self.program.reductions[one.reduction].copies
        mine = {(c.pipeline, c.stage) for c in copies if c.rank == self.rank}
        if (one.reduction, self.rank) in self.found.sums:
            self.found.wrong.append(f"rank {self.rank}: sum {one.reduction} is made twice")
        self.found.sums[one.reduction, self.rank] = frozenset(
            o for o in self.done if o.kind in "BW" and (o.pipeline, o.stage) in mine
        )
