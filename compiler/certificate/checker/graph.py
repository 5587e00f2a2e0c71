"""What must come before what, and the least time before and after every operation that follows
from it: longest paths over operations that repeat from micro-batch to micro-batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

from stretto.compiler.certificate.checker.instance import OpType, demand

TypedOp = tuple[OpType, int]
"""One operation: its type, and its micro-batch."""

TypeEdge = tuple[OpType, OpType, int, int]
"""Tail, head, ticks in between, shift: micro-batch i + shift of the head comes after micro-batch i
of the tail, for every i."""

TickMap = dict[TypedOp, int]
"""Ticks by operation."""

UNREACHED = -(1 << 100)
"""The time of an operation that no chain connects: below all that a chain of 2^20 operations of at
most 2^53 ticks adds up to."""


def lower_sets(types: dict[OpType, int], edges: list[TypeEdge]) -> dict[OpType, set[OpType]]:
    """For every type, it and all that come before it within a micro-batch."""
    direct: dict[OpType, set[OpType]] = {s: set() for s in types}
    for a, b, _, shift in edges:
        if not shift:
            direct[b].add(a)
    found = {}
    for goal in types:
        found[goal], todo = {goal}, [goal]
        while todo:
            new = direct[todo.pop()] - found[goal]
            found[goal] |= new
            todo += new
    return found


@dataclass
class OrderGraph:
    """Types of one pipeline after another, or a rank's in place of all: `count`, how many
    operations each has; `rank`; ticks from an operation's start to its result (`path`), and for
    which it keeps others off its rank (`ticks`). `singles`: one operation after another. `in_turn`:
    whether the operations of a type run in turn. `spend`: told how many steps will be made. Worked
    out from these: who comes right before
    (`into`) and after (`out`), a sequence that honours it (`order`), and the `shifts`, by which
    operations of one type of a rank follow those of another at least. Raises `Refuted` where there
    is a circle."""

    count: dict[OpType, int]
    rank: dict[OpType, int]
    path: dict[OpType, int]
    ticks: dict[OpType, int]
    edges: list[TypeEdge]
    singles: list[tuple[TypedOp, TypedOp]]
    in_turn: bool
    spend: Callable[[int], None]
    into: dict[OpType, list[tuple[OpType, int, int]]] = field(init=False)
    out: dict[OpType, list[tuple[OpType, int, int]]] = field(init=False)
    order: list[TypedOp] = field(init=False)
    shifts: dict[tuple[OpType, OpType], int] = field(init=False)

    def __post_init__(self) -> None:
        self.into = {s: [] for s in self.count}
        self.out = {s: [] for s in self.count}
        for tail, head, lag, shift in self.edges:
            self.into[head].append((tail, lag, -shift))
            self.out[tail].append((head, lag, shift))
        self._before: dict[TypedOp, list[TypedOp]] = {}
        self._after: dict[TypedOp, list[TypedOp]] = {}
        for a, b in self.singles:
            self._before.setdefault(b, []).append(a)
            self._after.setdefault(a, []).append(b)
        self.spend(sum(self.count.values()) + sum(self.count[b] for _, b, _, _ in self.edges))
        waits = {one: sum(1 for _ in self.near(one, True)) for one in self.members()}
        self.order = [one for one, n in waits.items() if not n]
        for one in self.order:  # grows while it is read
            for other, _ in self.near(one, False):
                waits[other] -= 1
                if not waits[other]:
                    self.order.append(other)
        circle = "the instance's data, rules, fixed units and limits make a circle: no order exists"
        demand(len(self.order) == len(waits), circle)
        self.shifts = self._shifts()

    def members(self) -> Iterator[TypedOp]:
        """All operations."""
        return ((s, m) for s, count in self.count.items() for m in range(count))

    def near(self, one: TypedOp, before: bool) -> Iterator[tuple[TypedOp, int]]:
        """What comes right before (or after) an operation, and the ticks in between."""
        kind, m = one
        for other, lag, shift in (self.into if before else self.out)[kind]:
            if 0 <= m + shift < self.count[other]:
                yield (other, m + shift), lag
        for single in (self._before if before else self._after).get(one, ()):
            yield single, 0

    def _shifts(self) -> dict[tuple[OpType, OpType], int]:
        least: dict[tuple[OpType, OpType], int] = {}
        for a, b, _, shift in self.edges:
            if self.rank[a] == self.rank[b]:
                least[a, b] = min(shift, least.get((a, b), shift))
        self.spend(len(self.count) ** 2)
        lower = lower_sets(self.count, self.edges)
        for rank in set(self.rank.values()):
            own = [s for s in self.count if self.rank[s] == rank]
            self.spend(len(own) ** 3)
            for b in own:
                for a in lower[b].intersection(own) - {b}:
                    least[a, b] = 0
            for via, a, b in product(own, own, own):
                if (a, via) in least and (via, b) in least:
                    shift = least[a, via] + least[via, b]
                    least[a, b] = min(shift, least.get((a, b), shift))
        return least

    def times(self, before: bool, low: TickMap, source: TypedOp | None = None) -> TickMap:
        """Heads: for every operation the least time before its start, at least `low`. Or tails:
        after its end. What it follows on its own rank runs one after another. From the start of
        `source`, where that is given."""
        group: dict[OpType, list[tuple[OpType, int]]] = {s: [] for s in self.count}
        for (a, b), shift in self.shifts.items():
            group[b if before else a].append((a, -shift) if before else (b, shift))
        near = self.into if before else self.out
        self.spend(sum(n * (1 + len(near[s]) + len(group[s])) for s, n in self.count.items()))
        found: TickMap = {}
        for one in self.order if before else reversed(self.order):
            kind, m = one
            known = 0 if one == source else low[one]
            for other, lag in self.near(one, before):
                known = max(known, found[other] + self.path[other[0]] + lag)
            rows = [
                (found[s, m + shift], self.ticks[s])
                for s, shift in group[kind]
                if 0 <= m + shift < self.count[s]
            ]
            total = 0
            for start, ticks in sorted(rows, reverse=True):
                total += ticks
                known = max(known, start + total if start >= 0 else UNREACHED)
            found[one] = known
        return found

    def least(self, types: list[OpType], times: TickMap) -> int:
        """The least time of any operation of these types."""
        return min(times[s, m] for s in types for m in range(self.count[s]))
