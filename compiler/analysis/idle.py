"""TimedProgram → the idle stretches of a rank, each with its cause, in the words that `explain` and
every format of `show` use.

An idle stretch ends when the next unit starts. While no other unit of the rank has what it needs,
the rank waits for data, and once that was made, for the channel that brings it. From the moment
that some other unit has what it needs, memory is the reason if none of those fits: running one of
them here would break the limit, now or at a unit that the order has before it. Else the order is
the reason, which has another unit next; likewise where data is there and only a rule is not met, or
where one half of a pair could run and has to wait for the other.
If the next unit has what it needs too, a message of its own was posted or is taken late: a channel
again. After its last unit a rank is done.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from stretto.compiler.analysis.candidates import FULL, RankCandidates, ReadyUnit
from stretto.compiler.analysis.dependencies import name
from stretto.compiler.analysis.message_timings import MessageTiming
from stretto.compiler.analysis.timed_program import TimedProgram
from stretto.compiler.analysis.units import unit_line, unit_name
from stretto.compiler.problem.figures import time_figure
from stretto.compiler.problem.spec import NONE, Operation, Spec
from stretto.compiler.program.program import Await

Cause = Literal["data", "memory", "order", "channel", "done"]
CAUSES: tuple[Cause, ...] = ("data", "memory", "order", "channel", "done")
WAITS: dict[Cause, str] = {
    "data": "waits for data",
    "memory": "waits for memory",
    "order": "waits for the order",
    "channel": "waits for a channel",
    "done": "done",
}


class Idle(Struct, frozen=True):
    """A stretch without work of one cause, of a stream of a rank. `before` is the unit that ends
    it, or None. `waits_for`: where ranks have several streams, the rank whose result is waited for,
    if one is."""

    rank: int
    start: int
    end: int
    cause: Cause
    before: str | None
    line: int | None
    why: str
    stream: int = 0
    waits_for: int = NONE


def told(spec: Spec, idle: Idle) -> str:
    """Where a stretch is and why, in one line; times in the units of the file."""
    start, end = (time_figure(spec, tick) for tick in (idle.start, idle.end))
    stream = f" {spec.streams[idle.stream]}" if spec.streams else ""
    return f"rank {idle.rank}{stream}, {start} – {end}: {idle.why}"


def longest(listed: Iterable[Idle], many: int) -> tuple[Idle, ...]:
    """The longest stretches, the first of equals first."""
    order = sorted(listed, key=lambda one: (one.start - one.end, one.rank, one.start))
    return tuple(order[:many])


def stretches(timed: TimedProgram, rank: int) -> Iterator[Idle]:
    """The idle stretches of a rank in the order of time, cut where the cause changes."""
    units = timed.units[rank]
    limit = timed.spec.limits[rank] if timed.spec.limits else None
    others = RankCandidates(units, limit and limit.grains)
    before = 0
    for at, unit in enumerate(units):
        if unit.start > before:
            yield from _cut(timed, rank, at, before, others)
        before = unit.end
    end = timed.timeline.makespan
    if before < end:
        why = "its last operation has ended" if units else "it has nothing to do"
        yield Idle(rank, before, end, "done", None, None, why)


def _cut(
    timed: TimedProgram, rank: int, at: int, start: int, others: RankCandidates
) -> Iterator[Idle]:
    """One stretch, from `start` to the unit at place `at`, in pieces by their cause."""
    unit = timed.units[rank][at]
    fits, large = others.after(at)
    end = min(max(start, unit.ready), unit.start)  # from here on only a channel is left
    order = min(max(start, fits.since), end)
    memory = min(max(start, large.since), order)
    ruled, _ = others.ruled(at + 1)
    rule = min(max(start, min(unit.arrived, unit.half_ready, ruled)), memory)
    data = min(max(start, unit.made), rule)
    pieces: tuple[tuple[Cause, int], ...] = (
        ("data", data),
        ("channel", rule),
        ("order", memory),
        ("memory", order),
        ("order", end),
        ("channel", unit.start),
    )
    begin = start
    for k, (cause, until) in enumerate(pieces):
        if begin < until:
            if k == RULE:
                why = _rule(timed, rank, at, others.ruled(at), begin)
            else:
                why = _why(timed, rank, at, k, (fits, large))
            yield Idle(
                rank,
                begin,
                until,
                cause,
                unit_name(timed.spec, unit),
                unit_line(timed.spec, unit),
                why,
            )
        begin = max(begin, until)


DATA, WAY, RULE, MEMORY, ORDER = range(5)
"""The pieces of a stretch, in their sequence; behind them those of a message that is late."""


def _why(
    timed: TimedProgram,
    rank: int,
    at: int,
    piece: int,
    ready: tuple[ReadyUnit, ReadyUnit],
) -> str:
    """The cause in words, where it is no rule."""
    units, (fits, large) = timed.units[rank], ready
    here = unit_name(timed.spec, units[at])
    if piece == MEMORY:
        other = unit_name(timed.spec, units[large.at])
        if large.short == FULL:
            return f"{other} is ready, but memory is full until {here}"
        needing = unit_name(timed.spec, units[large.short])
        return f"{other} is ready, but would take memory that {needing} needs first"
    if piece == ORDER:
        return f"{unit_name(timed.spec, units[fits.at])} is ready, but the order has {here} first"
    if piece not in (DATA, WAY):
        return f"{here} {held_up(timed, rank, at)}"
    need = timed.dependencies.latest(units[at].names, arrived=piece == WAY)
    if need is None:
        return f"{here} waits for its turn"
    what, source = name(timed.spec, need[0]), timed.dependencies.topology.rank(need[0])
    if piece == WAY:
        return f"{here} waits for {what}, on its way from rank {source}"
    return f"{here} waits for {what}" + (f" of rank {source}" if source != rank else "")


def _rule(timed: TimedProgram, rank: int, at: int, ruled: tuple[int, int], begin: int) -> str:
    """Which unit could run but for a rule, and what that has first; or which half of a pair.
    `ruled`: of the unit at this place and those behind it the first that has its data and for which
    a rule is not met then. (It is not met at `begin` either: else another piece would be here.)"""
    arrived, place = ruled
    if arrived > begin:
        pair = timed.units[rank][at].operations
        first, other = sorted(pair, key=lambda t: timed.dependencies.ready(t.operation))
        one, with_it = (name(timed.spec, t.operation) for t in (first, other))
        return f"{one} is ready, but the order runs it together with {with_it}"
    unit = timed.units[rank][place]
    rules = [o for t in unit.operations for o in timed.dependencies.rules.get(t.operation, ())]
    held = name(timed.spec, max(rules, key=lambda o: timed.dependencies.end[o]))
    return f"{unit_name(timed.spec, unit)} has its data, but a rule has {held} first"


def held_up(timed: TimedProgram, lane: int, at: int) -> str:
    """What a unit that has all it needs still waits for."""
    if timed.waits_for_weights(lane, at):
        return "waits for its weights, which are being gathered"
    awaited = last_awaited(timed, lane, at)
    if awaited is not None:
        what = f"{name(timed.spec, awaited)}{beside(timed, lane, awaited)}"
        return f"has all that it needs, but runs when {what} has ended"
    rank, _ = timed.place(lane)
    message = last_message(timed, lane, at)
    if message is None:
        return "has all that it needs, but a message is not through"
    what = name(timed.spec, message.result)
    if message.source == rank:
        return f"runs when rank {message.target} has taken {what}"
    if message.posted is None:
        return f"waits for {what}, on its way from rank {message.source}"
    return f"waits for {what} from rank {message.source}, whose receive was posted late"


def last_message(timed: TimedProgram, lane: int, at: int) -> MessageTiming | None:
    """The message that ends the wait before a unit, if one does."""
    units, (rank, _) = timed.units[lane], timed.place(lane)
    start = units[at].start
    return next((p for p in timed.messages.waited_for(units, rank, at) if p.arrived == start), None)


def last_awaited(timed: TimedProgram, lane: int, at: int) -> Operation | None:
    """The operation of another stream whose end ends the wait before a unit, if one does."""
    units, (rank, _) = timed.units[lane], timed.place(lane)
    if not timed.program.streams:
        return None
    for k in timed.messages.between(units, rank, at):
        one = timed.program.ranks[rank][k]
        if type(one) is Await and timed.dependencies.end[one.operation] == units[at].start:
            return one.operation
    return None


def beside(timed: TimedProgram, lane: int, other: Operation) -> str:
    """` on comm`, where another stream of the rank runs the operation; else nothing."""
    there = timed.unit_of[other][0]
    return "" if there == lane else f" on {timed.spec.streams[timed.place(there)[1]]}"
