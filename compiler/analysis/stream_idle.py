"""TimedProgram → the idle stretches of the streams of a rank, each with its cause, in the words of
`idle`, where ranks have several.

While a stream is idle its next part waits for data, of its own rank (another stream makes them) or
of another, and once they were made, until they are there; or a rule has something else first. From
the moment that some other part of the same stream, which the order has later, could run, the order
is the reason; where each of those would break the rank's limit of memory, memory is. A part that
has all it needs and does not start waits for a message or for another stream. After its last part a
stream is done.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from stretto.compiler.analysis.dependencies import name
from stretto.compiler.analysis.idle import Cause, Idle, beside, held_up, stretches
from stretto.compiler.analysis.memory import effects, levels
from stretto.compiler.analysis.rows import SearchedRow
from stretto.compiler.analysis.timed_program import TimedProgram
from stretto.compiler.analysis.units import TimedUnit, unit_line, unit_name
from stretto.compiler.problem.spec import NONE

FAR = 1 << 62

MOST = 64
"""So many of the parts that could run are asked why they do not."""


class Reason(NamedTuple):
    """Why a stream is idle, and the rank whose result it waits for, if it does."""

    cause: Cause
    why: str
    waits_for: int = NONE


def rank_stretches(timed: TimedProgram, rank: int) -> Iterator[Idle]:
    """The idle stretches of a rank in the order of time, stream by stream where there are several;
    of a stream on which the rank has nothing none, but of the first."""
    if not timed.spec.streams:
        yield from stretches(timed, rank)
        return
    memory = RoomLeft(timed, rank)
    for lane in timed.lanes(rank):
        yield from _of_lane(timed, lane, memory)


def _of_lane(timed: TimedProgram, lane: int, memory: "RoomLeft") -> Iterator[Idle]:
    units, (rank, stream) = timed.units[lane], timed.place(lane)
    if not units and stream:
        return
    behind = Behind(units)
    found: list[list[Idle]] = []
    for at in reversed(range(len(units))):
        before = units[at - 1].end if at else 0
        if units[at].start > before:
            found.append([*_cut(timed, (lane, at), before, behind.before(at), memory)])
    for pieces in reversed(found):
        yield from pieces
    before, end = units[-1].end if units else 0, timed.timeline.makespan
    if before < end:
        why = "its last operation has ended" if units else "it has nothing to do"
        yield Idle(rank, before, end, "done", None, None, why, stream)


class Behind:
    """What stands behind a place in a stream's order. Asked from the last place to the first."""

    def __init__(self, units: list[TimedUnit]):
        self.units = units
        self.place = len(units)
        self.ready: list[tuple[int, int, int]] = []  # of those behind it: ready, start, place
        self.ruled: list[tuple[int, int]] = []  # of those for which a rule is not met: arrived

    def before(self, at: int) -> list[TimedUnit]:
        """Those behind place `at` that have their data before its unit starts: the first `MOST` of
        those that have all they need then, and of those for which a rule is not met."""
        while self.place > at + 1:
            self.place -= 1
            unit = self.units[self.place]
            insort(self.ready, (unit.ready, unit.start, self.place))
            if unit.arrived < unit.ready:
                insort(self.ruled, (unit.arrived, self.place))
        start = self.units[at].start
        found = {place for ready, _, place in self.ready[:MOST] if ready < start}
        found |= {place for arrived, place in self.ruled[:MOST] if arrived < start}
        return sorted((self.units[k] for k in found), key=lambda unit: (unit.ready, unit.start))


class RoomLeft:
    """A rank's activations over time, by whom they are taken, and its limit."""

    def __init__(self, timed: TimedProgram, rank: int):
        row = timed.timeline.ranks[rank]
        curve = levels(row, effects(timed.program, [row]))
        self.ticks = [level.tick for level in curve]
        self.grains = [level.grains for level in curve]
        self.room = SearchedRow([-level.grains for level in curve])
        limit = timed.spec.limits[rank] if timed.spec.limits else None
        self.limit = FAR if limit is None else limit.grains
        self.takers = sorted(
            (unit.start, unit_name(timed.spec, unit))
            for lane in timed.lanes(rank)
            for unit in timed.units[lane]
            if unit.alloc
        )

    def changes(self, start: int, end: int, others: list[TimedUnit]) -> set[int]:
        """The ticks between two at which what `lacking` says of these may change: the activations
        do, or one that gives back what it takes would end behind the next change."""
        if self.limit == FAR:
            return set()
        found = {*self.ticks[bisect_right(self.ticks, start) : bisect_left(self.ticks, end)]}
        for one in others:
            if one.alloc and one.free:
                length = one.end - one.start
                until = min(one.start, end + length)
                late = self.ticks[bisect_right(self.ticks, start) : bisect_left(self.ticks, until)]
                found |= {tick - length + 1 for tick in late}
        return found

    def lacking(self, unit: TimedUnit, tick: int) -> str:
        """What memory says against a unit that starts already at `tick`; "" if nothing."""
        if self.limit == FAR or not unit.alloc:
            return ""
        first = bisect_right(self.ticks, tick) - 1
        last = bisect_left(self.ticks, unit.start)
        if self.grains[first] + unit.alloc > self.limit:
            return "but memory has no room for it then"
        later = bisect_left(self.ticks, tick + unit.end - unit.start)  # where it has ended
        short = self.room.first_below(first + 1, min(later, last), unit.alloc - self.limit)
        if short >= min(later, last):
            begin = max(first + 1, later)
            short = self.room.first_below(begin, last, unit.alloc - unit.free - self.limit)
            if short >= last:
                return ""
        at = bisect_left(self.takers, (self.ticks[short], ""))
        return f"but would take memory that {self.takers[at][1]} needs first"


def _cut(
    timed: TimedProgram,
    index: tuple[int, int],
    start: int,
    others: list[TimedUnit],
    memory: "RoomLeft",
) -> Iterator[Idle]:
    """One stretch, from `start` to the unit at this place, in pieces by their cause. `others`: what
    stands behind it and has its data before."""
    (lane, at), spec = index, timed.spec
    rank, stream = timed.place(lane)
    unit = timed.units[lane][at]
    ticks = {start, unit.start, unit.made, unit.arrived, unit.ready}
    ticks |= {tick for other in others for tick in (other.arrived, other.ready)}
    ticks |= memory.changes(start, unit.start, others)
    known = [tick for tick in sorted(ticks) if start <= tick <= unit.start]
    found: list[tuple[int, int, Reason]] = []
    for begin, end in pairwise(known):
        reason = _reason(timed, index, begin, others, memory)
        if found and found[-1][2] == reason:
            begin = found.pop()[0]
        found.append((begin, end, reason))
    for begin, end, (cause, why, waits_for) in found:
        names = unit_name(spec, unit), unit_line(spec, unit)
        yield Idle(rank, begin, end, cause, *names, why, stream, waits_for)


def _reason(
    timed: TimedProgram,
    index: tuple[int, int],
    tick: int,
    others: list[TimedUnit],
    memory: RoomLeft,
) -> Reason:
    """Why the stream is idle from this tick on, until something changes."""
    lane, at = index
    unit = timed.units[lane][at]
    here = unit_name(timed.spec, unit)
    if tick >= unit.ready:
        return Reason("channel", f"{here} {held_up(timed, lane, at)}")
    lacks = ""
    for other in others:
        if other.ready <= tick:
            short, words = memory.lacking(other, tick), f"{unit_name(timed.spec, other)} is ready"
            if not short:
                return Reason("order", f"{words}, but the order has {here} first")
            lacks = lacks or f"{words}, {short}"
    if lacks:
        return Reason("memory", lacks)
    for one in (unit, *others):
        if one.arrived <= tick < one.ready:
            return Reason("order", _rule(timed, one))
    need = timed.dependencies.latest(unit.names, arrived=tick >= unit.made)
    if need is None:
        return Reason("order", f"{here} waits for its turn")
    what, source = name(timed.spec, need[0]), timed.dependencies.topology.rank(need[0])
    if tick >= unit.made:
        return Reason("channel", f"{here} waits for {what}, on its way from rank {source}", source)
    own = source == timed.place(lane)[0]
    where = beside(timed, lane, need[0]) if own else f" of rank {source}"
    return Reason("data", f"{here} waits for {what}{where}", source)


def _rule(timed: TimedProgram, unit: TimedUnit) -> str:
    """What a rule has before a part that has its data."""
    rules = [o for one in unit.names for o in timed.dependencies.rules.get(one, ())]
    held = name(timed.spec, max(rules, key=lambda o: timed.dependencies.end[o]))
    return f"{unit_name(timed.spec, unit)} has its data, but a rule has {held} first"
