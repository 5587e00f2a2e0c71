"""List scheduling of parts: whenever a lane is free, the first in a list of what is ready there.

Memory is what can get such a schedule stuck. So what takes memory keeps, on each rank, the sequence
that it has in a `base`: a sequence of all operations that stays within the limits. Then nothing
gets stuck. Look at the first operation of the base that has not run: all that it waits for has run.
If it takes memory, all that takes memory before it has run, nothing after it has, and all that
frees memory before it has run: there is room, as there was in the base.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from stretto.compiler.order.engines.parts.instance import Lanes, PartsInstance
from stretto.compiler.problem.topological import topological


class _DispatchMemory:
    """What ranks hold while a schedule is made, and who takes memory next on each."""

    def __init__(self, instance: PartsInstance, base: Sequence[int]):
        self.instance = instance
        self.held = [0] * instance.ranks
        self.taken: list[int] = [0] * instance.size
        self.frees: list[list[int]] = [[] for _ in instance.lane]
        self.left = [len(holding.freed_by) for holding in instance.holdings]
        for h, (grains, taken_by, freed_by) in enumerate(instance.holdings):
            self.taken[taken_by] += grains
            for i in freed_by:
                self.frees[i].append(h)
        self.turn: list[list[int]] = [[] for _ in range(instance.ranks)]
        for i in reversed(base):
            if i in instance.takers:
                self.turn[instance.rank(i)].append(i)

    def may(self, i: int) -> bool:
        """Whether the operation may start as far as memory goes."""
        if i not in self.instance.takers:
            return True
        rank = self.instance.rank(i)
        room = self.instance.limit[rank] - self.held[rank]
        return self.turn[rank][-1] == i and self.taken[i] <= room

    def start(self, i: int) -> None:
        """It takes what it takes."""
        if i in self.instance.takers:
            rank = self.instance.rank(i)
            self.turn[rank].pop()
            self.held[rank] += self.taken[i]

    def end(self, i: int) -> bool:
        """It frees what it was the last to free; whether that was anything."""
        freed = False
        for h in self.frees[i]:
            self.left[h] -= 1
            if not self.left[h]:
                self.held[self.instance.rank(i)] -= self.instance.holdings[h].grains
                freed = True
        return freed


def dispatched(instance: PartsInstance, base: Sequence[int], priority: Sequence[int]) -> Lanes:
    """The lanes of a list schedule: of what is ready the operation with the least `priority`.
    What takes memory keeps the sequence of `base`."""
    memory = _DispatchMemory(instance, base)
    waits = [len(row) for row in instance.before]
    due = [0] * instance.size
    lanes: Lanes = [[] for _ in range(instance.lanes)]
    free = [0] * instance.lanes
    open_: list[list[tuple[int, int]]] = [[] for _ in lanes]  # ready, by priority
    events = [(0, 0, i) for i, many in enumerate(waits) if not many]  # when, what, operation
    heapify(events)
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, ended, i = heappop(events)
            if not ended:
                heappush(open_[instance.lane[i]], (priority[i], i))
                continue
            memory.end(i)
            for j, lag in instance.after[i]:
                due[j] = max(due[j], now + lag)
                waits[j] -= 1
                if not waits[j]:
                    heappush(events, (due[j], 0, j))
        for lane, ready in enumerate(open_):
            if ready and free[lane] <= now:
                i = _first(ready, memory)
                if i >= 0:
                    memory.start(i)
                    lanes[lane].append(i)
                    free[lane] = now + instance.ticks[i]
                    heappush(events, (free[lane], 1, i))
    return lanes


def _first(ready: list[tuple[int, int]], memory: _DispatchMemory) -> int:
    """The first of what is ready that memory lets start; -1 where there is none."""
    kept = []
    found = -1
    while ready and found < 0:
        entry = heappop(ready)
        if memory.may(entry[1]):
            found = entry[1]
        else:
            kept.append(entry)
    for entry in kept:
        heappush(ready, entry)
    return found


def in_turn(instance: PartsInstance, turn: Sequence[int]) -> list[int]:
    """A sequence of all operations that finishes one micro-batch after another, by `turn`: it needs
    the least memory."""
    heads = [[i for i, _ in row] for row in instance.after]
    return topological(heads, [len(row) for row in instance.before], turn.__getitem__)


def lanes_of(instance: PartsInstance, sequence: Sequence[int]) -> Lanes:
    """The lanes of a sequence of all operations."""
    lanes: Lanes = [[] for _ in range(instance.lanes)]
    for i in sequence:
        lanes[instance.lane[i]].append(i)
    return lanes
