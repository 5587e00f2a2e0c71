"""The second part of `certify`: what must come before what, and the least time before and after
every operation that follows from it. B0, B2 and B3 of `docs/bounds.md`, and longest paths.

What is said here is said of a relaxation of the instance. A *strand* is an operation without its
micro-batch; `many` operations of it there are. A backward that may be split is an I and a W of the
least ticks that either way takes. An operation that may overlap with others has its result after
the least ticks that either way takes.
"""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

from stretto.compiler.certificate.checker.instance import Instance, Op, demand

Strand = tuple[str, int, int, int]
Place = tuple[Strand, int]
Times = dict[Place, int]
FAR = -(1 << 62)  # of what no chain connects


class Net:
    """Strands of one pipeline after another, or a rank's in place of all: `many`, `rank`, ticks
    from an operation's start to its result (`path`) and for which it keeps others off its rank
    (`ticks`). `edges`: tail, head, ticks in between, shift: micro-batch i + shift of the head
    comes after micro-batch i of the tail, for every i. `singles`: one operation after another.
    `turn`: whether the operations of a strand run in turn."""

    def __init__(self, turn: bool) -> None:
        self.turn = turn
        self.many: dict[Strand, int] = {}
        self.rank: dict[Strand, int] = {}
        self.path: dict[Strand, int] = {}
        self.ticks: dict[Strand, int] = {}
        self.edges: list[tuple[Strand, Strand, int, int]] = []
        self.singles: list[tuple[Place, Place]] = []

    def prepare(self) -> None:
        """When all edges are there: who follows whom, a sequence that honours it, and the strands
        of a rank that precede a strand there, each with the least shift."""
        self.into: dict[Strand, list[tuple[Strand, int, int]]] = {s: [] for s in self.many}
        self.out: dict[Strand, list[tuple[Strand, int, int]]] = {s: [] for s in self.many}
        for tail, head, lag, shift in self.edges:
            self.into[head].append((tail, lag, -shift))
            self.out[tail].append((head, lag, shift))
        self.single_into: dict[Place, list[Place]] = {}
        self.single_out: dict[Place, list[Place]] = {}
        for a, b in self.singles:
            self.single_into.setdefault(b, []).append(a)
            self.single_out.setdefault(a, []).append(b)
        waits = {place: sum(1 for _ in self.near(place, True)) for place in self.places()}
        self.order = [place for place, n in waits.items() if not n]
        for place in self.order:  # grows while it is read
            for other, _ in self.near(place, False):
                waits[other] -= 1
                if not waits[other]:
                    self.order.append(other)
        demand(len(self.order) == len(waits), "what must come first makes a circle")
        self.shifts = self.precede()

    def places(self) -> Iterator[Place]:
        return ((s, m) for s, many in self.many.items() for m in range(many))

    def near(self, place: Place, before: bool) -> Iterator[tuple[Place, int]]:
        """What comes right before (or after) an operation, and the ticks in between."""
        strand, m = place
        for other, lag, shift in (self.into if before else self.out)[strand]:
            if 0 <= m + shift < self.many[other]:
                yield (other, m + shift), lag
        for one in (self.single_into if before else self.single_out).get(place, ()):
            yield one, 0

    def lower_sets(self) -> dict[Strand, set[Strand]]:
        """For every strand, it and all that come before it within a micro-batch."""
        direct: dict[Strand, set[Strand]] = {s: set() for s in self.many}
        for a, b, _, shift in self.edges:
            if not shift:
                direct[b].add(a)
        found = {}
        for goal in self.many:
            found[goal], todo = {goal}, [goal]
            while todo:
                new = direct[todo.pop()] - found[goal]
                found[goal] |= new
                todo += new
        return found

    def precede(self) -> dict[tuple[Strand, Strand], int]:
        """The least shift at which operations of one strand of a rank follow those of another."""
        least: dict[tuple[Strand, Strand], int] = {}
        for a, b, _, shift in self.edges:
            if self.rank[a] == self.rank[b]:
                least[a, b] = min(shift, least.get((a, b), shift))
        lower = self.lower_sets()
        for rank in set(self.rank.values()):
            own = [s for s in self.many if self.rank[s] == rank]
            for b in own:
                for a in lower[b].intersection(own) - {b}:
                    least[a, b] = 0
            for via, a, b in product(own, own, own):
                if (a, via) in least and (via, b) in least:
                    shift = least[a, via] + least[via, b]
                    least[a, b] = min(shift, least.get((a, b), shift))
        return least

    def times(self, before: bool, low: Times, source: Place | None = None) -> Times:
        """Heads: for every operation the least time before its start, at least `low`. Or tails:
        after its end. What it follows on its own rank runs one after another. From the start of
        `source`, where that is given."""
        group: dict[Strand, list[tuple[Strand, int]]] = {s: [] for s in self.many}
        for (a, b), shift in self.shifts.items():
            group[b if before else a].append((a, -shift) if before else (b, shift))
        found: Times = {}
        for place in self.order if before else reversed(self.order):
            strand, m = place
            known = 0 if place == source else low[place]
            for other, lag in self.near(place, before):
                known = max(known, found[other] + self.path[other[0]] + lag)
            rows = [
                (found[s, m + shift], self.ticks[s])
                for s, shift in group[strand]
                if 0 <= m + shift < self.many[s]
            ]
            total = 0
            for start, ticks in sorted(rows, reverse=True):
                total += ticks
                known = max(known, start + total if start >= 0 else FAR)
            found[place] = known
        return found


class Relaxation(Net):
    """The net of an instance."""

    def __init__(self, instance: Instance):
        super().__init__(not instance.exceptions)
        self.instance = instance
        for p, line in enumerate(instance.pipelines):
            kinds = "F" if line["forward_only"] else "FIW" if instance.split else "FB"
            for s, k in product(range(len(line["stages"])), instance.slices):
                for kind in kinds:
                    self.many[kind, p, s, k] = line["microbatches"]
                    self.rank[kind, p, s, k] = line["stages"][s]["rank"]
        self.ticks = {s: self.least(s) for s in self.many}
        self.path = {s: self.result(s) for s in self.many}
        self.data()
        self.ruled()
        self.fixed()
        self.lower = self.lower_sets()
        if self.turn:
            self.edges += [(s, s, 0, 1) for s in self.many]
            self.edges += list(self.memory())
        self.prepare()

    def data(self) -> None:
        """What a strand waits for within a micro-batch."""
        for kind, p, s, k in self.many:
            one = (kind, p, s, 0, k)
            for other in self.instance.needs(one, lambda place: self.instance.split):
                self.edges.append((other[:3] + other[4:], (kind, p, s, k), self.lag(other, one), 0))

    def lag(self, a: Op, b: Op) -> int:
        return self.instance.lag(a, b)

    def ruled(self) -> None:
        """Rules: those at one distance for all micro-batches are edges; else these need not run in
        turn."""
        families: dict[tuple[Strand, Strand, int], set[int]] = {}
        for later, earlier in self.instance.rules:
            key = (self.half(earlier, "W"), self.half(later, "I"), later[3] - earlier[3])
            families.setdefault(key, set()).add(earlier[3])
        for (a, b, shift), where in families.items():
            alike = self.many[a] == self.many[b] and where == set(range(self.many[a] - shift))
            if alike and shift >= 0:
                self.edges.append((a, b, 0, shift))
            else:
                self.turn = False
                self.singles += [((a, m), (b, m + shift)) for m in where]

    def half(self, o: Op, half: str) -> Strand:
        """The strand of an operation; of a backward that may be split that of its half."""
        kind = half if o[0] == "B" and self.instance.split else o[0]
        demand((kind, *o[1:3], o[4]) in self.many, f"{o} is no operation")
        return kind, o[1], o[2], o[4]

    def fixed(self) -> None:
        """Parts of an order that are given: unit after unit."""
        turns: dict[Strand, list[int]] = {}
        for units in self.instance.fixed:
            groups = [{(self.half(o, half), o[3]) for o in unit for half in "IW"} for unit in units]
            for strand, m in (place for group in groups for place in sorted(group)):
                turns.setdefault(strand, []).append(m)
            for before, after in pairwise(groups):
                self.singles += product(before, after)
        self.turn &= all(turns[s] == list(range(self.many[s])) for s in turns)

    def memory(self) -> Iterator[tuple[Strand, Strand, int, int]]:
        """B3: for every forward x and backward or weight gradient y of a pipeline on a rank, the
        least K for which x of micro-batch i + K waits for y of micro-batch i. Else K + 1
        micro-batches hold `held` each, and the first of them `more` when its y starts; or K hold
        it when the last has taken all of its `own`."""
        for x, y in product(self.many, self.many):
            rank, limit = self.rank[x], self.instance.limits[self.rank[x]]
            if x[0] != "F" or y[0] == "F" or x[1] != y[1] or rank != self.rank[y] or limit is None:
                continue
            held = more = own = 0
            for take, give, grains in self.tokens(rank):
                early = take in self.lower[x]
                if early and x in self.lower[give]:
                    own += grains
                if y in self.lower[give]:
                    held += grains if early else 0
                    more += grains if not early and take in self.lower[y] else 0
            if held:
                shift = max(1, min((limit - more) // held, (limit - own) // held + 1))
                if shift < self.many[x]:
                    yield y, x, 0, shift

    def tokens(self, rank: int) -> list[tuple[Strand, Strand, int]]:
        """What forwards of the rank leave in memory: who takes it, who gives it back, how much."""
        found = []
        for f in self.many:
            if f[0] == "F" and self.rank[f] == rank and not self.passing(f):
                stage = self.instance.stage(f)
                kept = stage["kept"] if self.instance.split else 0
                found.append((f, self.back(f), stage["activation"] - kept))
                found.append((f, ("W", *f[1:]), kept))
        return [one for one in found if one[2]]

    def back(self, f: Strand) -> Strand:
        return ("I" if self.instance.split else "B", *f[1:])

    def passing(self, strand: Strand) -> bool:
        """Whether it is of a pipeline without backwards."""
        return bool(self.instance.pipelines[strand[1]]["forward_only"])

    def least(self, strand: Strand) -> int:
        """The least ticks of a strand's operations by themselves."""
        kind, p, s, k = strand
        least = []
        for m in range(self.many[strand]) if self.instance.exceptions else [0]:
            b, i, w = (self.instance.ticks((one, p, s, m, k)) for one in "BIW")
            halves = {"I": min(i, b), "W": min(w, b - min(i, b))}
            least.append(halves.get(kind, self.instance.ticks((kind, p, s, m, k))))
        return min(least, default=0)

    def units(self, strand: Strand) -> list[tuple[Strand, Strand, bool, int]]:
        """The overlapped units that it may be in: forward, backward, whether the whole backward is
        in the unit, ticks."""
        listed: list[Any] = [(f, kind, b, t) for (f, kind, b), t in self.instance.pairs.items()]
        listed += [(f[1:3], b[0], b[1:3], t) for (f, b), t in self.instance.rare.items()]
        found = []
        for (p, s), kind, (q, t), ticks in listed:
            for j, k in product(self.instance.slices, self.instance.slices):
                f, b = ("F", p, s, j), self.back(("F", q, t, k))
                if not {f, b} <= self.many.keys():
                    continue
                if strand in (f, b) or (kind == "B" and strand == ("W", q, t, k)):
                    found.append((f, b, kind == "B", ticks))
        return found

    def result(self, strand: Strand) -> int:
        """The least ticks from its start to its result."""
        own, units = self.ticks[strand], self.units(strand)
        if strand[0] != "W":
            return min([own, *(ticks for _, _, _, ticks in units)])
        first = self.result(("I", *strand[1:]))
        return min([own, *(max(0, ticks - first) for _, _, _, ticks in units)])

    def shared(self, listed: list[Any]) -> dict[Strand, int]:
        """For how long operations keep others off their rank, if the ones that may overlap each
        have a share, and the shares of two that may be one unit fit into it."""
        given = {(s[0], s[1], s[2], s[3]): ticks for s, ticks in listed}
        demand(given.keys() <= self.many.keys(), "a share of nothing")
        shares = {s: min(work, given.get(s, work)) for s, work in self.ticks.items()}
        demand(all(type(t) is int and t >= 0 for t in shares.values()), "a share is a number")
        for one in self.many:
            for f, b, whole, ticks in self.units(one):
                weight = ("W", *b[1:])
                rest = shares[weight] if whole and b[0] == "I" else 0
                demand(shares[f] + shares[b] + rest <= ticks, f"{f} and {b} are no unit")
                demand(shares[b] <= self.path[b], f"{b} ends before its share")
                demand(not rest or self.path[b] + rest <= ticks, f"{weight} begins too late")
        return shares
