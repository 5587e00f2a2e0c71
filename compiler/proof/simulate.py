"""All lists together: `run_together` lets every rank run as far as it gets, until all are done, or
nobody gets further and the circle in which they wait for each other is told.

A message is over once both its sides have begun: its send, and the receive that was posted for it.
Which rank runs first makes no difference (`docs/proof.md`), so one run decides, and one list of
ranks that can go on is all it takes. Times run along: a message has arrived as many ticks after
the later of its sides as it travels, a wait lasts until then, a sum until its last rank has come.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.program.program import Operation, Program, Reduce
from stretto.compiler.proof.kinds import ends
from stretto.compiler.proof.ledger import (
    GATHER,
    MEET,
    NEED,
    REDUCE,
    RUN,
    SENT,
    SHIFT,
    TAG,
    WAIT,
    Ledger,
    RankTrace,
)
from stretto.compiler.proof.messages import Location, Wording
from stretto.compiler.proof.obligations import Obligations


@dataclass(slots=True)
class RankTimes:
    """Times in ticks: per rank of its first start and last end, and how long it computed; `beside`:
    per rank the end of what runs beside its computations."""

    first: list[int]
    last: list[int]
    busy: list[int]
    beside: list[int]


def run_together(
    program: Program,
    obligations: Obligations,
    ranks: Sequence[RankTrace],
    ledger: Ledger,
    words: Wording,
) -> RankTimes:
    """Run all lists. Raises `Rejected`: the circle where the step cannot finish, or the rules that
    are not kept between ranks."""
    many = len(ranks)
    state = _Simulation([0] * many, [0] * many, [0] * many, [[] for _ in ranks])
    clock = RankTimes([-1] * many, [0] * many, [0] * many, [0] * many)
    lag = _lags(program)
    sizes = [len({copy.rank for copy in r.copies}) for r in program.reductions]
    ready = list(range(many))
    while ready:
        rank = ready.pop()
        ready += _advance(rank, ranks[rank].events, state, clock, lag, sizes)
    if any(at < len(trace.events) for at, trace in zip(state.at, ranks, strict=True)):
        raise Rejected([_circle(program, ranks, state, ledger, words)])
    if broken := [*_across(program, obligations, ranks, state, words)]:
        raise Rejected(broken)
    clock.first = [max(first, 0) for first in clock.first]
    return clock


@dataclass(slots=True)
class _Simulation:
    """Where the run stands. By message: when its first side began, when it was over, which rank
    waits for it; by reduction the ranks that have come. By rank: the end of the last averaging of
    gradients, and the ends of all gatherings of weights."""

    at: list[int]
    now: list[int]
    reduced: list[int]
    gathered: list[list[int]]
    begun: dict[int, int] = field(default_factory=dict)
    over: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)
    met: dict[int, list[int]] = field(default_factory=dict)
    steps: list[tuple[int, int, int]] = field(default_factory=list)  # rank, from and to event


def _advance(
    rank: int,
    events: list[int],
    state: _Simulation,
    clock: RankTimes,
    lag: list[int],
    sizes: list[int],
) -> list[int]:
    """Run one rank until it has to wait or is done; the ranks that can go on because of it."""
    begun, over, waiting, channels = state.begun, state.over, state.waiting, len(lag)
    at, now, end = state.at[rank], state.now[rank], len(events)
    freed = []
    while at < end:
        event = events[at]
        tag, value = event & TAG, event >> SHIFT
        if tag == RUN:
            if clock.first[rank] < 0:
                clock.first[rank] = now
            now += value
            clock.busy[rank] += value
            clock.last[rank] = now
        elif tag == WAIT:
            arrival = over.get(value)
            if arrival is None:
                waiting[value] = rank
                break
            if arrival > now:
                now = arrival
        elif tag == MEET:
            met = state.met.setdefault(value, [])
            met.append(rank)
            if len(met) < sizes[value]:
                break
            now = max(now, *(state.now[other] for other in met))
            for other in met[:-1]:
                state.now[other] = now
                state.at[other] += 1
                freed.append(other)
        elif tag in (REDUCE, GATHER, NEED):
            now = _beside(rank, tag, value, now, state, clock)
        else:
            other_side = begun.pop(value, None)
            if other_side is None:
                begun[value] = now
            else:
                over[value] = max(other_side, now) + lag[value % channels]
                if value in waiting:
                    freed.append(waiting.pop(value))
        at += 1
    state.steps.append((rank, state.at[rank], at))
    state.at[rank], state.now[rank] = at, now
    return freed


def _beside(rank: int, tag: int, value: int, now: int, state: _Simulation, clock: RankTimes) -> int:
    """What runs beside the computations begins when the one before it of its kind has ended; only
    who needs gathered weights waits. Returns the rank's time."""
    ends = state.gathered[rank]
    if tag == NEED:
        return max(now, ends[value])
    if tag == REDUCE:
        end = state.reduced[rank] = max(now, state.reduced[rank]) + value
    else:
        end = max(now, ends[-1] if ends else 0) + value
        ends.append(end)
    clock.beside[rank] = max(clock.beside[rank], end)
    return now


def _lags(program: Program) -> list[int]:
    """Ticks that a message of each channel travels."""
    ticks = {(t.source, t.target): t.ticks for t in program.spec.transfers}
    return [ticks.get((channel.source, channel.target), 0) for channel in program.channels]


def _across(
    program: Program,
    obligations: Obligations,
    ranks: Sequence[RankTrace],
    state: _Simulation,
    words: Wording,
) -> Iterator[Diagnostic]:
    """A rule between two ranks holds only where messages carry it: the later operation's rank has
    heard, directly or not, from the earlier one's after it ended. Follow the run once more with a
    vector clock: for every rank that has an earlier operation of a rule, up to which of its events
    each rank has heard of it. A message's clock is let go of when it has arrived."""
    column, ended = _earlier(obligations, ranks)
    heard: list[VectorClock] = [tuple(-1 for _ in column) for _ in ranks]
    told, channels = dict[int, VectorClock](), len(program.channels)
    for rank, start, stop in state.steps if obligations.across else ():
        trace = ranks[rank]
        for e in range(start, stop):
            tag, value = trace.events[e] & TAG, trace.events[e] >> SHIFT
            if tag == SENT:
                told[value] = heard[rank]
            elif tag == WAIT and program.channels[value % channels].target == rank:
                heard[rank] = _later(heard[rank], told.pop(value))
            elif tag == MEET:
                met = state.met[value]
                every = reduce(_later, (heard[other] for other in met))
                for other in met:
                    heard[other] = every
            marks = trace.marks.get(e, ())
            for operation in marks:
                for earlier in obligations.across.get(operation, ()):
                    where = [ended[one] for one in ends(earlier) if one in ended]
                    if not any(heard[rank][k] >= event for k, event in where):
                        place = rank, trace.places[e]
                        text = (
                            f"nothing makes it wait for {words.operation(earlier)}, as a rule asks"
                        )
                        yield words.finding("rule-between-ranks", place, text)
            if any(operation in ended for operation in marks):
                own = column[rank]
                heard[rank] = (*heard[rank][:own], e, *heard[rank][own + 1 :])


VectorClock = tuple[int, ...]
"""Of each rank in question the last event that was heard of; -1 for none."""


def _earlier(
    obligations: Obligations, ranks: Sequence[RankTrace]
) -> tuple[dict[int, int], dict[Operation, tuple[int, int]]]:
    """The place in a clock of every rank that has an earlier operation of a rule; and for each such
    operation that place and the event with which it ends."""
    wanted = {
        one for many in obligations.across.values() for earlier in many for one in ends(earlier)
    }
    column: dict[int, int] = {}
    ended: dict[Operation, tuple[int, int]] = {}
    for rank, trace in enumerate(ranks) if wanted else ():
        for event, operations in trace.marks.items():
            for operation in wanted.intersection(operations):
                ended[operation] = column.setdefault(rank, len(column)), event
    return column, ended


def _later(one: VectorClock, other: VectorClock) -> VectorClock:
    return one if one is other else tuple(map(max, one, other))


# ---------------------------------------------------------------------------- waiting in a circle


def _circle(
    program: Program, ranks: Sequence[RankTrace], state: _Simulation, ledger: Ledger, words: Wording
) -> Diagnostic:
    """The shortest circle of ranks each of which waits for an instruction that stands behind the
    one at which the next rank waits. There is one: every message has both its sides in the lists,
    so whoever waits, waits for a rank that waits."""
    stuck = {
        rank: _awaited(program, rank, ranks[rank].events[at], state, ledger)
        for rank, at in enumerate(state.at)
        if at < len(ranks[rank].events)
    }
    circle = shortest({rank: [other for other, _ in places] for rank, places in stuck.items()})
    notes, labels = [], []
    for rank, other in zip(circle, [*circle[1:], circle[0]], strict=True):
        here = rank, ranks[rank].places[state.at[rank]]
        there = next(place for place in stuck[rank] if place[0] == other)
        own = _own_side(program, rank, ranks[rank].events[state.at[rank]], ledger)
        what = "" if own is None else f" ({words.at(own)})"
        notes.append(f"{words.at(here)}{what} waits for {words.at(there)}")
        labels += words.label(here, f"rank {rank} waits here, at instruction {here[1]}")
    behind = sorted(set(stuck) - set(circle))
    if behind:
        notes.append(
            f"{listed('rank', behind, 8)} {'wait' if len(behind) > 1 else 'waits'} behind them"
        )
    who = listed("rank", sorted(circle), 8)
    text = f"this step can never finish: {who} wait for each other"
    return Diagnostic("deadlock", text, tuple(labels), tuple(notes))


def _awaited(
    program: Program, rank: int, event: int, state: _Simulation, ledger: Ledger
) -> list[Location]:
    """The instructions of other ranks that a rank that stands at `event` waits for."""
    tag, value = event & TAG, event >> SHIFT
    if tag == MEET:
        missing = {copy.rank for copy in program.reductions[value].copies} - set(state.met[value])
        return [(other, _meeting(program, other, value)) for other in sorted(missing)]
    n, c = divmod(value, len(program.channels))
    source, target, *_ = program.channels[c]
    return (
        [(target, ledger.posted_at[c][n])] if rank == source else [(source, ledger.sent_at[c][n])]
    )


def _own_side(program: Program, rank: int, event: int, ledger: Ledger) -> Location | None:
    """The send or receive of its own that a rank waits for."""
    if event & TAG == MEET:
        return None
    n, c = divmod(event >> SHIFT, len(program.channels))
    places = ledger.sent_at if rank == program.channels[c].source else ledger.posted_at
    return rank, places[c][n]


def _meeting(program: Program, rank: int, number: int) -> int:
    """Where the rank sums reduction `number`."""
    return next(
        i
        for i, instruction in enumerate(program.ranks[rank])
        if isinstance(instruction, Reduce) and instruction.reduction == number
    )


def shortest(waits: dict[int, list[int]]) -> list[int]:
    """A shortest circle of the graph rank → ranks that it waits for; there is one."""
    best: list[int] = []
    for root in waits:
        before: dict[int, int] = {}  # breadth first, from the root back to it
        layer, depth = [root], 0
        while layer and root not in before and (not best or depth + 1 < len(best)):
            depth += 1
            following = []
            for rank in layer:
                for other in waits.get(rank, ()):
                    if other not in before:
                        before[other] = rank
                        following.append(other)
            layer = following
        if root in before:
            best = [before[root]]
            while best[-1] != root:
                best.append(before[best[-1]])
            best.reverse()
    return best
