"""The second part of the checker: what must come before what in a relaxation of the instance. B0,
B2 and B3 of `docs/bounds.md`."""

from collections.abc import Iterator
from itertools import pairwise, product

from stretto.compiler.certificate.checker.durations import Durations
from stretto.compiler.certificate.checker.graph import OrderGraph, TypedOp, TypeEdge, lower_sets
from stretto.compiler.certificate.checker.instance import Instance, Op, OpType, demand


class RelaxedInstance:
    """`edges` and `singles`: what must come before what (see `OrderGraph`). `in_turn`: whether the
    operations of each type may run micro-batch by micro-batch (B0). `lower`: of each type what
    comes before it within a micro-batch."""

    def __init__(self, instance: Instance):
        self.instance = instance
        self.durations = Durations(instance)
        self.count = self.durations.count
        self.rank: dict[OpType, int] = {s: instance.stage(s)["rank"] for s in self.count}
        self.in_turn = not instance.exceptions
        self.edges: list[TypeEdge] = list(self._data())
        self.singles: list[tuple[TypedOp, TypedOp]] = []
        self._rules()
        self._fixed()
        instance.spend(len(self.count) ** 2)
        self.lower = lower_sets(self.count, self.edges)
        if self.in_turn:
            self.edges += [(s, s, 0, 1) for s in self.count]
            self.edges += list(self._memory())

    def graph(self, ticks: dict[OpType, int]) -> OrderGraph:
        """The graph of it, if operations keep others off their rank for so many ticks."""
        path = self.durations.path
        return OrderGraph(
            self.count,
            self.rank,
            path,
            ticks,
            self.edges,
            self.singles,
            self.in_turn,
            self.instance.spend,
        )

    def on(self, rank: int) -> list[OpType]:
        """The types with operations on a rank."""
        return [s for s, count in self.count.items() if self.rank[s] == rank and count]

    def passing(self, one: OpType) -> bool:
        """Whether it is of a pipeline without backwards."""
        return bool(self.instance.pipelines[one[1]]["forward_only"])

    def residencies(self, rank: int) -> list[tuple[OpType, OpType, int]]:
        """What forwards of the rank leave in memory: who takes it, who gives it back, grains."""
        found = []
        for f in self.count:
            if f[0] == "F" and self.rank[f] == rank and not self.passing(f):
                stage = self.instance.stage(f)
                kept = stage["kept"] if self.instance.split else 0
                found.append((f, self.durations.backward(f), stage["activation"] - kept))
                found.append((f, ("W", *f[1:]), kept))
        return [one for one in found if one[2]]

    def _data(self) -> Iterator[TypeEdge]:
        """What a type waits for within a micro-batch."""
        for kind, p, s, k in self.count:
            one = (kind, p, s, 0, k)
            for other in self.instance.needs(one, lambda place: self.instance.split):
                yield other[:3] + other[4:], (kind, p, s, k), self.instance.lag(other, one), 0

    def _rules(self) -> None:
        """Rules: those at one distance for all micro-batches are edges; else these need not run in
        turn."""
        families: dict[tuple[OpType, OpType, int], set[int]] = {}
        for later, earlier in self.instance.rules:
            key = (self._half(earlier, "W"), self._half(later, "I"), later[3] - earlier[3])
            families.setdefault(key, set()).add(earlier[3])
        for (a, b, shift), where in families.items():
            alike = self.count[a] == self.count[b] and where == set(range(self.count[a] - shift))
            if alike and shift >= 0:
                self.edges.append((a, b, 0, shift))
            else:
                self.in_turn = False
                self.singles += [((a, m), (b, m + shift)) for m in where]

    def _half(self, o: Op, half: str) -> OpType:
        """The type of an operation; of a backward that may be split that of its half."""
        kind = half if o[0] == "B" and self.instance.split else o[0]
        demand(
            (kind, *o[1:3], o[4]) in self.count,
            f"a rule or a fixed unit names {o}, which is no operation of the instance",
        )
        return kind, o[1], o[2], o[4]

    def _fixed(self) -> None:
        """Parts of an order that are given: unit after unit."""
        turns: dict[OpType, list[int]] = {}
        for units in self.instance.fixed:
            groups = [
                {(self._half(o, half), o[3]) for o in unit for half in "IW"} for unit in units
            ]
            for kind, m in (one for group in groups for one in sorted(group)):
                turns.setdefault(kind, []).append(m)
            for before, after in pairwise(groups):
                self.instance.spend(len(before) * len(after))
                self.singles += product(before, after)
        self.in_turn &= all(turns[s] == list(range(self.count[s])) for s in turns)

    def _memory(self) -> Iterator[TypeEdge]:
        """B3: for every forward x and backward or weight gradient y of a pipeline on a rank, the
        least K for which x of micro-batch i + K waits for y of micro-batch i. Else K + 1
        micro-batches hold `held` each, and the first of them `more` when its y starts; or K hold
        it when the last has taken all of its `own`."""
        for x, y in product(self.count, self.count):
            rank, limit = self.rank[x], self.instance.limits[self.rank[x]]
            if x[0] != "F" or y[0] == "F" or x[1] != y[1] or rank != self.rank[y] or limit is None:
                continue
            held = more = own = 0
            for take, give, grains in self.residencies(rank):
                early = take in self.lower[x]
                if early and x in self.lower[give]:
                    own += grains
                if y in self.lower[give]:
                    held += grains if early else 0
                    more += grains if not early and take in self.lower[y] else 0
            if held:
                shift = max(1, min((limit - more) // held, (limit - own) // held + 1))
                if shift < self.count[x]:
                    yield y, x, 0, shift
