"""All lists together: `run_together` lets every process run as far as it gets, until all are done,
or nobody gets further and the circle in which they wait for each other is told. A process is a
rank; where the schedule has streams, one stream of a rank.

A message is over once both its sides have begun: its send, and the receive that was posted for it.
Which process runs first makes no difference (`docs/proof.md`), so one run decides, and one list of
those that can go on is all it takes. Times run along: a message has arrived as many ticks after
the later of its sides as it travels, a wait lasts until then, a sum until its last rank has come.
"""

from collections.abc import Iterator, Sequence
from functools import reduce

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.program.program import Operation, Program
from stretto.compiler.proof.circle import circle
from stretto.compiler.proof.findings import reject
from stretto.compiler.proof.kinds import ends
from stretto.compiler.proof.ledger import (
    AWAIT,
    MEET,
    NEED,
    PART,
    POSTED,
    REDUCE,
    RUN,
    SENT,
    SHIFT,
    TAG,
    WAIT,
    Ledger,
    ProcessTrace,
)
from stretto.compiler.proof.messages import Wording
from stretto.compiler.proof.obligations import Rules


class ProcessTimes(Struct):
    """Times in ticks: per process of its first start and last end, and how long it computed;
    `beside`: per rank the end of what runs beside its computations. `began`: of parts by number the
    start."""

    first: list[int]
    last: list[int]
    busy: list[int]
    beside: list[int]
    began: list[int]


def run_together(
    program: Program,
    processes: Sequence[ProcessTrace],
    ledger: Ledger,
    words: Wording,
    across: Rules,
) -> ProcessTimes:
    """Run all lists: of each rank one process, or one for each of its streams. `across` has the
    rules between ranks. Raises `Rejected`: the circle where the step cannot finish, or the rules
    that are not kept."""
    many, ranks = len(processes), len(program.ranks)
    state = _Simulation(
        at=[0] * many,
        now=[0] * many,
        reduced=[0] * ranks,
        gathered=[[] for _ in range(ranks)],
        width=many // ranks,
        lasting=ledger.parts.lasting,
    )
    clock = ProcessTimes(
        [-1] * many, [0] * many, [0] * many, [0] * ranks, [0] * len(ledger.parts.lasting)
    )
    lag = _lags(program)
    sizes = [len({copy.rank for copy in r.copies}) for r in program.reductions]
    ready = list(range(many))
    while ready:
        process = ready.pop()
        ready += _advance(process, processes[process].events, state, clock, lag, sizes)
    if any(at < len(trace.events) for at, trace in zip(state.at, processes, strict=True)):
        raise Rejected([circle(program, processes, state.at, state.met, ledger, words)])
    reject([*_across(program, processes, state, words, across)])
    return clock


class _Simulation(Struct):
    """Where the run stands. By message: when its first side began, when it was over, which process
    waits for it; by reduction those that have come; of parts by number when it ended, and who waits
    for that. By rank: the end of the last averaging of gradients, the ends of all gatherings of
    weights, and who waits for the next. `width`: processes of each rank."""

    at: list[int]
    now: list[int]
    reduced: list[int]
    gathered: list[list[int]]
    width: int
    lasting: list[int]
    begun: dict[int, int] = {}
    over: dict[int, int] = {}
    waiting: dict[int, int] = {}
    met: dict[int, list[int]] = {}
    ended: dict[int, int] = {}
    awaiting: dict[int, list[int]] = {}
    needing: dict[int, list[int]] = {}
    steps: list[tuple[int, int, int]] = []  # process, from and to event


def _advance(
    process: int,
    events: list[int],
    state: _Simulation,
    clock: ProcessTimes,
    lag: list[int],
    sizes: list[int],
) -> list[int]:
    """Run one process until it has to wait or is done; those that can go on because of it."""
    begun, over, waiting, channels = state.begun, state.over, state.waiting, len(lag)
    at, now, end = state.at[process], state.now[process], len(events)
    freed: list[int] = []
    ran, last = 0, -1  # ticks, and when the last computation ended
    while at < end:
        event = events[at]
        tag, value = event & TAG, event >> SHIFT
        if tag == WAIT:
            arrival = over.get(value)
            if arrival is None:
                waiting[value] = process
                break
            if arrival > now:
                now = arrival
        elif tag == RUN:
            if last < 0 and clock.first[process] < 0:
                clock.first[process] = now
            ran += value
            now += value
            last = now
        elif tag <= POSTED:  # SENT or POSTED: RUN was before
            other_side = begun.pop(value, None)
            if other_side is None:
                begun[value] = now
            else:
                over[value] = max(other_side, now) + lag[value % channels]
                if value in waiting:
                    freed.append(waiting.pop(value))
        elif tag == MEET:
            met = state.met.setdefault(value, [])
            met.append(process)
            if len(met) < sizes[value]:
                break
            now = max(now, *(state.now[other] for other in met))
            for other in met[:-1]:
                state.now[other] = now
                state.at[other] += 1
                freed.append(other)
        else:
            later = _beside(process, tag, value, now, state, clock, freed)
            if later is None:
                break
            now = later
        at += 1
    if last >= 0:
        clock.busy[process] += ran
        clock.last[process] = last
    state.steps.append((process, state.at[process], at))
    state.at[process], state.now[process] = at, now
    return freed


def _beside(
    process: int,
    tag: int,
    value: int,
    now: int,
    state: _Simulation,
    clock: ProcessTimes,
    freed: list[int],
) -> int | None:
    """A part and an await of one; and what runs beside the computations, which begins when the one
    before it of its kind has ended, while only who needs gathered weights waits. Returns the
    process's time, None where it waits."""
    if tag == PART:
        return _part(process, value, now, state, clock, freed)
    if tag == AWAIT:
        if value in state.ended:
            return max(now, state.ended[value])
        state.awaiting.setdefault(value, []).append(process)
        return None
    rank = process // state.width
    ends = state.gathered[rank]
    if tag == NEED:
        if value < len(ends):
            return max(now, ends[value])
        state.needing.setdefault(rank, []).append(process)
        return None
    if tag == REDUCE:
        end = state.reduced[rank] = max(now, state.reduced[rank]) + value
    else:
        end = max(now, ends[-1] if ends else 0) + value
        ends.append(end)
        freed += state.needing.pop(rank, ())
    clock.beside[rank] = max(clock.beside[rank], end)
    return now


def _part(
    process: int, number: int, now: int, state: _Simulation, clock: ProcessTimes, freed: list[int]
) -> int:
    """The operation of this number runs; returns its end."""
    if clock.first[process] < 0:
        clock.first[process] = now
    clock.began[number] = now
    now += state.lasting[number]
    clock.busy[process] += state.lasting[number]
    clock.last[process] = state.ended[number] = now
    freed += state.awaiting.pop(number, ())
    return now


def _lags(program: Program) -> list[int]:
    """Ticks that a message of each channel travels."""
    ticks = {(t.source, t.target): t.ticks for t in program.spec.transfers}
    return [ticks.get((channel.source, channel.target), 0) for channel in program.channels]


def _across(
    program: Program,
    processes: Sequence[ProcessTrace],
    state: _Simulation,
    words: Wording,
    across: Rules,
) -> Iterator[Diagnostic]:
    """A rule between two ranks holds only where messages carry it: the later operation's process
    has heard, directly or not, from the earlier one's after it ended. Follow the run once more with
    a vector clock: for every process that has an earlier operation of a rule, up to which of its
    events each has heard of it. A message's clock is let go of when it has arrived."""
    column, ended = _earlier(across, processes)
    heard: list[VectorClock] = [tuple(-1 for _ in column) for _ in processes]
    told, parts = dict[int, VectorClock](), dict[int, VectorClock]()
    channels = len(program.channels)
    for process, start, stop in state.steps if across else ():
        trace = processes[process]
        for e in range(start, stop):
            tag, value = trace.events[e] & TAG, trace.events[e] >> SHIFT
            if tag == SENT:
                told[value] = heard[process]
            elif tag == WAIT and program.channels[value % channels].target == trace.rank:
                heard[process] = _later(heard[process], told.pop(value))
            elif tag == AWAIT:
                heard[process] = _later(heard[process], parts[value])
            elif tag == MEET:
                met = state.met[value]
                every = reduce(_later, (heard[other] for other in met))
                for other in met:
                    heard[other] = every
            marks = trace.marks.get(e, ())
            for operation in marks:
                for earlier in across.get(operation, ()):
                    where = [ended[one] for one in ends(earlier) if one in ended]
                    if not any(heard[process][k] >= event for k, event in where):
                        place = trace.rank, trace.places[e]
                        text = (
                            f"nothing makes it wait for {words.operation(earlier)}, as a rule asks"
                        )
                        yield words.finding("rule-between-ranks", place, text)
            if any(operation in ended for operation in marks):
                own = column[process]
                heard[process] = (*heard[process][:own], e, *heard[process][own + 1 :])
            if tag == PART:
                parts[value] = heard[process]


VectorClock = tuple[int, ...]
"""Of each process in question the last event that was heard of; -1 for none."""


def _earlier(
    across: Rules, processes: Sequence[ProcessTrace]
) -> tuple[dict[int, int], dict[Operation, tuple[int, int]]]:
    """The place in a clock of every process that has an earlier operation of a rule; and for each
    such operation that place and the event with which it ends."""
    wanted = {one for many in across.values() for earlier in many for one in ends(earlier)}
    column: dict[int, int] = {}
    ended: dict[Operation, tuple[int, int]] = {}
    for process, trace in enumerate(processes) if wanted else ():
        for event, operations in trace.marks.items():
            for operation in wanted.intersection(operations):
                ended[operation] = column.setdefault(process, len(column)), event
    return column, ended


def _later(one: VectorClock, other: VectorClock) -> VectorClock:
    return one if one is other else tuple(map(max, one, other))
