"""Start and end of every part → makespan, span and peaks, or `Refuted`: each stream runs one part
at a time, everything waits for what it needs, and memory stays under the limits."""

from heapq import heappop, heappush
from typing import Any

from stretto.compiler.certificate.checker.instance import demand
from stretto.compiler.certificate.checker.parts_instance import (
    ChainInstance,
    PartOp,
    of_microbatch,
    type_of,
)


class PartsSchedule:
    """When everything runs, in ticks: `start`, `end`, and `place`, where it stands in the list of
    its rank, along which starts do not fall."""

    def __init__(self, instance: ChainInstance, rows: list[Any]):
        self.instance, self.rows = instance, rows
        self.start: dict[PartOp, int] = {}
        self.end: dict[PartOp, int] = {}
        self.place: dict[PartOp, int] = {}
        for rank, row in enumerate(rows):
            self._run(rank, row)
        missing = sum(instance.count.values()) - len(self.start)
        demand(not missing, f"the schedule does not run {missing} of the instance's operations")
        self._nothing_is_early()

    def _run(self, rank: int, row: list[Any]) -> None:
        """A rank's operations run where they belong, one after another on each stream."""
        clock = [0] * self.instance.streams
        now = 0
        for place, (begin, finish, listed) in enumerate(row):
            o = self.instance.known(listed)
            home, stream = self.instance.lane(type_of(o))
            demand(home == rank, f"the schedule runs {o} on rank {rank}; it is on rank {home}")
            demand(o not in self.start, f"the schedule runs {o} twice")
            demand(begin >= now, f"rank {rank}'s list has {begin} after {now}; it is not by start")
            busy = f"stream {stream} of rank {rank} starts {o} at {begin}, and is busy to"
            demand(begin >= clock[stream], f"{busy} {clock[stream]}")
            ticks = self.instance.ticks(o)
            takes = f"{o} takes {ticks} ticks, and runs from {begin} to {finish}"
            demand(finish == begin + ticks, takes)
            now, clock[stream] = begin, finish
            self.start[o], self.end[o], self.place[o] = begin, finish, place

    def _nothing_is_early(self) -> None:
        """Data, rules, and what was given of an order."""
        instance = self.instance
        for later, many in instance.count.items():
            for earlier, lag in instance.needs(later):
                for m in range(many):
                    self._after(of_microbatch(earlier, m), of_microbatch(later, m), lag)
        for one, other in instance.rules:
            self._after(other, one, 0)
        for row in instance.fixed:
            last: dict[int, PartOp] = {}
            for o in row:
                stream = instance.lane(type_of(o))[1]
                if stream in last:
                    self._after(last[stream], o, 0)
                last[stream] = o

    def _after(self, earlier: PartOp, later: PartOp, lag: int) -> None:
        ready, starts = self.end[earlier] + lag, self.start[later]
        early = f"{later} starts at {starts}, and may start, after {earlier}, at {ready}"
        demand(starts >= ready, early)
        same = self.instance.lane(type_of(earlier))[0] == self.instance.lane(type_of(later))[0]
        listed = f"{later} waits for {earlier}, and is listed before it"
        demand(not same or self.place[later] > self.place[earlier], listed)

    def makespan(self) -> int:
        """The end of the last operation."""
        return max(self.end.values(), default=0)

    def span(self) -> int:
        """The longest time from a rank's first start to its last end."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for o, start in self.start.items():
            rank = self.instance.lane(type_of(o))[0]
            first[rank] = min(start, first.get(rank, start))
            last[rank] = max(self.end[o], last.get(rank, 0))
        return max((last[rank] - first[rank] for rank in first), default=0)

    def peaks(self) -> list[int]:
        """The most grains that each rank holds at once. What is held is free for an operation that
        starts no earlier than all that frees it has ended, and is listed behind it."""
        taken: list[dict[int, int]] = [{} for _ in range(self.instance.ranks)]
        given: list[list[tuple[int, int, int]]] = [[] for _ in taken]  # end, place, grains
        for grains, takes, freed in self.instance.holdings():
            rank = self.instance.lane(takes)[0]
            for m in range(self.instance.count[takes]):
                at = self.place[of_microbatch(takes, m)]
                taken[rank][at] = taken[rank].get(at, 0) + grains
                freers = [of_microbatch(one, m) for one in freed]
                end = max(self.end[o] for o in freers)
                given[rank].append((end, max(self.place[o] for o in freers), grains))
        return [self._peak(rank, *both) for rank, both in enumerate(zip(taken, given, strict=True))]

    def _peak(self, rank: int, taken: dict[int, int], given: list[tuple[int, int, int]]) -> int:
        """Of one rank: grains `taken` by place, and `given` back: end, last place, grains."""
        held = peak = 0
        given.sort(reverse=True)
        waits: list[tuple[int, int]] = []  # place, grains: has ended, and may be listed below
        for place in sorted(taken):
            while given and given[-1][0] <= self.rows[rank][place][0]:
                heappush(waits, given.pop()[1:])
            while waits and waits[0][0] < place:
                held -= heappop(waits)[1]
            held += taken[place]
            peak = max(peak, held)
        limit = self.instance.limits[rank]
        demand(limit is None or peak <= limit, f"rank {rank} holds {peak}, and may hold {limit}")
        return peak
