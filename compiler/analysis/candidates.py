"""Units of a rank → `RankCandidates`: which of those that stand behind a place of its order could
run there, as its data and its memory are. Each question takes about the square root of the units.
"""

from bisect import bisect_right
from typing import NamedTuple

from stretto.compiler.analysis.rows import SearchedRow
from stretto.compiler.analysis.units import TimedUnit

FAR = 1 << 62
"""A tick behind every other."""

FITS, FULL = -1, -2

MOST_SIZES = 64
"""Where units of a rank take and give back more different amounts than this, memory is asked about
the next `NEXT` units behind a place, not about all."""

NEXT = 1024


class ReadyUnit(NamedTuple):
    """A unit that could run: since when it has what it needs, and its place. `short`: `FITS`,
    `FULL` if memory has no room for it now, or the place of a unit that would have none then."""

    since: int
    at: int
    short: int


NOBODY = ReadyUnit(FAR, -1, FITS)


class AlikeUnits(NamedTuple):
    """The units of a rank that take and give back the same: their places, and when each has what
    it needs."""

    alloc: int
    free: int
    places: list[int]
    ready: SearchedRow


class RankCandidates:
    """What stands behind a place in a rank's order, and may run there. `limit`: of the rank's
    memory in grains, if it has one."""

    def __init__(self, units: list[TimedUnit], limit: int | None):
        self.units, self.limit = units, limit
        self.ready = SearchedRow([unit.ready for unit in units])
        self.room = SearchedRow([-unit.most for unit in units] if limit is not None else [])
        self.alike = _alike(units) if limit is not None else []
        self._ruled = [(FAR, -1)]
        for place in reversed(range(len(units))):
            unit = units[place]
            here = unit.arrived if unit.arrived < unit.ready else FAR
            self._ruled.append(min(self._ruled[-1], (here, place)))
        self._ruled.reverse()
        self._soon = [FAR]
        for unit in reversed(units):
            self._soon.append(min(self._soon[-1], unit.ready))
        self._soon.reverse()

    def ruled(self, place: int) -> tuple[int, int]:
        """When the first of the units from this place on has its data, of those for which a rule is
        not met then, and its place."""
        return self._ruled[place]

    def after(self, at: int) -> tuple[ReadyUnit, ReadyUnit]:
        """Of the units behind place `at` that have what they need when its unit starts: the first
        that would fit into memory here, and the first that would not."""
        start = self.units[at].start
        if self._soon[at + 1] >= start:
            return NOBODY, NOBODY
        if self.limit is None:
            place = self.ready.least(at + 1, len(self.units))
            return ReadyUnit(self.units[place].ready, place, FITS), NOBODY
        if len(self.alike) > MOST_SIZES:
            found = self._next(at)
        else:
            found = [one for alike in self.alike for one in self._of(at, alike, self.limit)]
        there = [one for one in found if one.since < start]
        return (
            min((one for one in there if one.short == FITS), default=NOBODY),
            min((one for one in there if one.short != FITS), default=NOBODY),
        )

    def _of(self, at: int, alike: AlikeUnits, limit: int) -> list[ReadyUnit]:
        """Of those behind the place that are alike the first that fits, and the first that does
        not: up to where the units between leave too little room all fit, behind it none does."""
        alloc, free, places, ready = alike
        begin, end = bisect_right(places, at), len(places)
        full = self.units[at].held + alloc > limit
        fit = begin
        if not full and begin < end:
            scarce = self.room.first_below(at, places[-1], alloc - free - limit)
            fit = bisect_right(places, scarce)
        found = []
        if begin < fit:
            k = ready.least(begin, fit)
            found.append(ReadyUnit(ready.numbers[k], places[k], FITS))
        if fit < end:
            k = ready.least(fit, end)
            short = FULL if full else self.room.least(at, places[k])
            found.append(ReadyUnit(ready.numbers[k], places[k], short))
        return found

    def _next(self, at: int) -> list[ReadyUnit]:
        """The next units behind the place, one by one."""
        limit, found = self.limit or 0, list[ReadyUnit]()
        most, fullest = self.units[at].most, at
        for place in range(at + 1, min(at + 1 + NEXT, len(self.units))):
            unit = self.units[place]
            fits = most + unit.alloc - unit.free <= limit
            full = self.units[at].held + unit.alloc > limit
            found.append(ReadyUnit(unit.ready, place, FULL if full else FITS if fits else fullest))
            if unit.most > most:
                most, fullest = unit.most, place
        return found


def _alike(units: list[TimedUnit]) -> list[AlikeUnits]:
    """The units, those together that take and give back the same."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, unit in enumerate(units):
        places.setdefault((unit.alloc, unit.free), []).append(place)
    return [
        AlikeUnits(*effect, listed, SearchedRow([units[place].ready for place in listed]))
        for effect, listed in places.items()
    ]
