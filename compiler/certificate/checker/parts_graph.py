"""What must come before what in a relaxation of an instance of parts, and how early and late its
operations can be then. B0, B2 and B3 for parts, which are proven at the top of
`compiler/bounds/parts/graph.py`."""

from collections import deque
from collections.abc import Callable, Iterator

from stretto.compiler.certificate.checker.instance import demand
from stretto.compiler.certificate.checker.parts_instance import (
    ChainInstance,
    PartOp,
    PartsHolding,
    PartType,
    of_microbatch,
    type_of,
)

PartTicks = dict[PartOp, int]
"""Heads or tails: ticks by operation."""

TypeNeeds = dict[PartType, list[tuple[PartType, int]]]
"""What every type waits for within a micro-batch, with the ticks of the way."""

AWAY = -(1 << 80)
"""A tail of what leads to nothing that counts."""


class PartsOrderGraph:
    """The operations with all edges that every order has, or that a best one may be given: `alike`
    has the pipelines whose micro-batches may run in turn (B0)."""

    def __init__(self, instance: ChainInstance):
        self.instance = instance
        self.ticks: PartTicks = {
            of_microbatch(one, m): 0 for one, many in instance.count.items() for m in range(many)
        }
        instance.spend(4 * len(self.ticks))
        for o in self.ticks:
            self.ticks[o] = instance.ticks(o)
        self.needs = {one: instance.needs(one) for one in instance.count}
        self.types = _types_in_turn(self.needs)
        self.alike = self._alike()
        self.after: dict[PartOp, list[tuple[PartOp, int]]] = {o: [] for o in self.ticks}
        for earlier, later, lag in self._given():
            self.after[earlier].append((later, lag))
        own = {o: list(row) for o, row in self.after.items()}
        for earlier, later in self._added():
            self.after[earlier].append((later, 0))
        self.sequence = self._sequence()
        if len(self.sequence) < len(self.ticks):  # a circle of parts that take no time
            self.after = own
            self.sequence = self._sequence()
        demand(len(self.sequence) == len(self.ticks), "operations wait for each other in a circle")

    def heads(self) -> PartTicks:
        """Ticks before each operation can start."""
        found = dict.fromkeys(self.ticks, 0)
        for o in self.sequence:
            for later, lag in self.after[o]:
                found[later] = max(found[later], found[o] + self.ticks[o] + lag)
        return found

    def tails(self, rank: int | None = None) -> PartTicks:
        """Ticks from the end of each operation to the end of the step; with a `rank` to the end of
        what that rank does."""
        found: PartTicks = {}
        for o in reversed(self.sequence):
            here = rank is None or self.instance.lane(type_of(o))[0] == rank
            ways = [lag + self.ticks[b] + found[b] for b, lag in self.after[o]]
            found[o] = max([0 if here else AWAY, *ways])
        return found

    def _alike(self) -> set[int]:
        """The pipelines in which no single operation is named; those that feed each other stand or
        fall together."""
        instance = self.instance
        unlike = {o[1] for o in instance.exceptions}
        unlike |= {o[1] for rule in instance.rules for o in rule}
        unlike |= {o[1] for row in instance.fixed for o in row}
        pairs = [(p, q) for p, line in enumerate(instance.pipelines) for q, _ in line["feeds"]]
        while more := {r for pair in pairs if unlike & set(pair) for r in pair} - unlike:
            instance.spend(len(pairs))
            unlike |= more
        return set(range(len(instance.pipelines))) - unlike

    def _given(self) -> Iterator[tuple[PartOp, PartOp, int]]:
        """What every order has: data, rules, and what was given of it."""
        for one, many in self.instance.count.items():
            for other, lag in self.needs[one]:
                for m in range(many):
                    yield of_microbatch(other, m), of_microbatch(one, m), lag
        for later, earlier in self.instance.rules:
            yield earlier, later, 0
        for row in self.instance.fixed:
            last: dict[int, PartOp] = {}
            for o in row:
                stream = self.instance.lane(type_of(o))[1]
                if stream in last:
                    yield last[stream], o, 0
                last[stream] = o

    def _added(self) -> Iterator[tuple[PartOp, PartOp]]:
        """What a best order may be given: micro-batches in turn (B2), and room in memory (B3)."""
        for one, many in self.instance.count.items():
            if one[1] in self.alike:
                for m in range(1, many):
                    yield of_microbatch(one, m - 1), of_microbatch(one, m)
        for x, y, distance in self._rooms():
            for m in range(distance, self.instance.count[x]):
                yield of_microbatch(y, m - distance), of_microbatch(x, m)

    def _rooms(self) -> Iterator[tuple[PartType, PartType, int]]:
        """B3: x of micro-batch i + K starts only after y of i has ended. Else K + 1 micro-batches
        hold `held` each, or K do when the new one has taken its `own`. (That a part that takes no
        time holds something is not counted.)"""
        own: dict[tuple[int, int], list[PartsHolding]] = {}
        for one in self.instance.holdings():
            rank, p = self.instance.lane(one.taken)[0], one.taken[1]
            if p in self.alike and self.instance.limits[rank] is not None:
                own.setdefault((rank, p), []).append(one)
        if not own:
            return
        self.instance.spend(len(self.needs) ** 2)
        before = _before(self.needs)
        for (rank, _), rows in own.items():
            limit = self.instance.limits[rank] or 0
            starts = dict.fromkeys(one.taken for one in rows)
            ends = dict.fromkeys(y for one in rows for y in one.freed)
            self.instance.spend(len(starts) * len(ends) * len(rows))
            for x in starts:
                taken = [one for one in rows if before(one.taken, x)]
                new = 0
                if self.instance.usual(x):
                    new = sum(h.grains for h in taken if any(before(x, z) for z in h.freed))
                for y in ends:
                    held = sum(h.grains for h in taken if any(before(y, z) for z in h.freed))
                    if held:
                        distance = min(limit // held, (limit - new) // held + 1)
                        if distance > 0:
                            yield x, y, distance

    def _sequence(self) -> list[PartOp]:
        """All operations, each behind those that it waits for; fewer where there is a circle."""
        self.instance.spend(sum(len(row) for row in self.after.values()))
        waits = dict.fromkeys(self.ticks, 0)
        for row in self.after.values():
            for other, _ in row:
                waits[other] += 1
        free = deque(o for o, many in waits.items() if not many)
        found = []
        while free:
            o = free.popleft()
            found.append(o)
            for other, _ in self.after[o]:
                waits[other] -= 1
                if not waits[other]:
                    free.append(other)
        return found


def _before(needs: TypeNeeds) -> Callable[[PartType, PartType], bool]:
    """Whether one type leads to another within a micro-batch, or is it."""
    number = {one: n for n, one in enumerate(_types_in_turn(needs))}
    lower: list[int] = []
    for one, n in number.items():
        bits = 1 << n
        for other, _ in needs[one]:
            bits |= lower[number[other]]
        lower.append(bits)
    return lambda a, b: bool(lower[number[b]] >> number[a] & 1)


def _types_in_turn(needs: TypeNeeds) -> list[PartType]:
    """All types, each behind what it needs."""
    after: dict[PartType, list[PartType]] = {one: [] for one in needs}
    for one, row in needs.items():
        for other, _ in row:
            after[other].append(one)
    waits = {one: len(row) for one, row in needs.items()}
    found = [one for one, many in waits.items() if not many]
    for one in found:  # it grows
        for other in after[one]:
            waits[other] -= 1
            if not waits[other]:
                found.append(other)
    demand(len(found) == len(waits), "operations wait for each other in a circle")
    return found
