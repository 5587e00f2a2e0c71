"""The second half of `certify`: a lower bound from its evidence. The theorems with their proofs are
B0 to B7 of `docs/bounds.md`; here is only what has to be compared and added up.
"""

from itertools import pairwise, product
from math import gcd
from typing import Any

from stretto.compiler.certify import Instance, Op, demand, op

Strand = tuple[str, int, int, int]
"""An operation without its micro-batch."""


class Bound:
    """Evidence for a bound that holds for every order of the instance.

    What is proved is proved of a relaxation: a backward that may be split is an I and a W of the
    least ticks that either way takes, and an operation that may overlap has its result after the
    least ticks that either way takes. `cases` has one case; for a span one for each operation that
    may be the first of rank `rank`, and the bound is the least of theirs.

    A case has facts. `heads`: an operation starts no earlier than `ticks` (after the start of the
    step, or of the first operation of the rank); `tails`: the step (or the rank) ends no earlier
    than `ticks` after the operation. `from` is how we know: nothing for 0; one chain of operations,
    from one that has a fact to this one, each forced to come before the next; or several chains
    from operations of this one's own rank, which run one after another. Then, by `by`:

    `chain`: an operation; head + its ticks + tail.
    `busy`: operations of one rank; least head + the sum of their ticks + least tail. With overlaps
       each counts with a share, and the shares of two that may overlap fit into their unit.
    `window`: before the first backward (t1) a rank runs forwards only, as many as memory takes; in
       the last t2, after its last forward, it runs only what memory then held; unless all of its
       work fits into these, t1 + t2 + the rest of its work.
    `little`: for how long operations leave how much in memory, over the limit.
    """

    def __init__(self, instance: Instance, evidence: dict[str, Any]):
        self.instance, self.evidence = instance, evidence
        self.alike = not instance.exceptions and not instance.rules
        self.many: dict[Strand, int] = {}
        for p, line in enumerate(instance.pipelines):
            kinds = "F" if line["forward_only"] else "FIW" if instance.split else "FB"
            for s, k in product(range(len(line["stages"])), instance.slices):
                self.many |= {(kind, p, s, k): line["microbatches"] for kind in kinds}
        self.after: dict[Strand, set[Strand]] = {}
        for strand in reversed(self.many):
            for earlier in self.needs(strand):
                self.after.setdefault(earlier, set()).add(strand)
        self.upper = {strand: self.reach(strand) for strand in self.many}

    def value(self) -> int:
        """The bound."""
        by = {"chain": self.chain, "busy": self.busy, "window": self.window, "little": self.little}
        found = {}
        for case in self.evidence["cases"]:
            first = op(case["first"]) if case["first"] else None
            rank = self.evidence["rank"] if self.instance.minimize == "span" else None
            heads = self.facts(case["heads"], first, rank, forwards=True)
            tails = self.facts(case["tails"], None, rank, forwards=False)
            found[first] = by[self.evidence["by"]](case, heads, tails)
        if self.instance.minimize == "span":
            demand(set(found) == self.firsts(self.evidence["rank"]) or None in found, "cases")
        else:
            demand(set(found) == {None}, "one case, and no first operation")
        return min(found.values())

    # What must come before what

    def needs(self, strand: Strand) -> list[Strand]:
        """What a strand waits for within a micro-batch."""
        kind, p, s, k = strand
        found = self.instance.needs((kind, p, s, 0, k), lambda place: self.instance.split)
        return [o[:3] + o[4:] for o in found]

    def reach(self, strand: Strand) -> set[Strand]:
        """The strand and all that come after it within a micro-batch."""
        found, todo = {strand}, [strand]
        while todo:
            for later in self.after.get(todo.pop(), set()) - found:
                found.add(later)
                todo.append(later)
        return found

    def rank(self, strand: Strand) -> int:
        return int(self.instance.stage(strand)["rank"])

    def firsts(self, rank: int) -> set[Op | None]:
        """The operations of which one is the first of the rank, as micro-batches that are alike
        may run first in, first out."""
        own = [s for s in self.many if self.rank(s) == rank and self.many[s]]
        first = [s for s in own if not any(s != o and s in self.upper[o] for o in own)]
        return {(*s[:3], 0, s[3]) for s in first} if self.alike else {None}

    def forced(self, a: Op, b: Op) -> int:
        """Ticks from the end of a to the start of b, which must come after it."""
        x, y = a[:3] + a[4:], b[:3] + b[4:]
        demand(0 <= a[3] < self.many[x] and 0 <= b[3] < self.many[y], f"{a} or {b} is none")
        if a[3] == b[3]:
            demand(x in self.needs(y), f"{b} does not wait for {a}")
            return self.instance.lag(a, b)
        demand(self.alike, "micro-batches differ, so they need not run in turn")
        if x != y or b[3] != a[3] + 1:  # not first in, first out on one strand: memory
            demand(b[3] - a[3] >= self.distance(x, y), f"memory does not make {b} wait for {a}")
        return 0

    def distance(self, y: Strand, x: Strand) -> int:
        """The least K for which forward x of micro-batch i + K waits for the backward or weight
        gradient y of micro-batch i. Else K + 1 micro-batches hold `held` each, and the first of
        them `more` when its y starts; or K hold it when the last has taken all of its `own`."""
        rank, limit = self.rank(x), self.instance.limits[self.rank(x)]
        demand(rank == self.rank(y) and x[1] == y[1] and limit is not None, "no memory in common")
        demand(x[0] == "F" != y[0], "memory makes forwards wait for backwards")
        held = more = own = 0
        for take, give, grains in self.tokens(rank):
            early = x in self.upper[take]
            if early and give in self.upper[x]:
                own += grains
            if give in self.upper[y]:
                held += grains if early else 0
                more += grains if not early and y in self.upper[take] else 0
        demand(held > 0, f"{x} does not wait for {y}")
        return max(1, min((limit - more) // held, (limit - own) // held + 1))  # type: ignore[operator]

    def tokens(self, rank: int) -> list[tuple[Strand, Strand, int]]:
        """What forwards of the rank leave in memory: who takes it, who gives it back, how much."""
        found = []
        for f in self.many:
            stage = self.instance.stage(f)
            if f[0] == "F" and stage["rank"] == rank and not self.alone(f):
                back = ("I", *f[1:]) if self.instance.split else ("B", *f[1:])
                kept = stage["kept"] if self.instance.split else 0
                found += [(f, back, stage["activation"] - kept), (f, ("W", *f[1:]), kept)]
        return [one for one in found if one[2]]

    def alone(self, strand: Strand) -> bool:
        """Whether it is of a pipeline without backwards."""
        return bool(self.instance.pipelines[strand[1]]["forward_only"])

    # How long things take, at least

    def work(self, strand: Strand) -> int:
        """The least ticks of a strand's operations by themselves."""
        kind, p, s, k = strand
        least = []
        for m in range(self.many[strand]) if self.instance.exceptions else [0]:
            b, i, w = (self.instance.ticks((one, p, s, m, k)) for one in "BIW")
            halves = {"I": min(i, b), "W": min(w, b - min(i, b))}
            least.append(halves.get(kind, self.instance.ticks((kind, p, s, m, k))))
        return min(least)

    def units(self, strand: Strand) -> list[tuple[Strand, Strand, bool, int]]:
        """The overlapped units that it may be in, and save time: forward, backward, whether the
        whole backward is in the unit, ticks."""
        listed = [(f, kind, b, ticks) for (f, kind, b), ticks in self.instance.pairs.items()]
        listed += [(f[1:3], b[0], b[1:3], t) for (f, b), t in self.instance.rare.items()]
        found = []
        for (p, s), kind, (q, t), ticks in listed:
            for j, k in product(self.instance.slices, self.instance.slices):
                f, b = ("F", p, s, j), ("I" if self.instance.split else "B", q, t, k)
                if strand in (f, b) or (kind == "B" and strand == ("W", q, t, k)):
                    found.append((f, b, kind == "B", ticks))
        return found

    def path(self, strand: Strand) -> int:
        """The least ticks from its start to its result."""
        own, units = self.work(strand), self.units(strand)
        if strand[0] != "W":
            return min([own, *(ticks for _, _, _, ticks in units)])
        first = self.path(("I", *strand[1:]))
        return min([own, *(max(0, ticks - first) for _, _, _, ticks in units)])

    # Facts

    def facts(
        self, listed: list[Any], first: Op | None, rank: int | None, forwards: bool
    ) -> dict[Op, int]:
        """Heads or tails that are proved, each from those before it."""
        found: dict[Op, int] = {} if first is None else {first: 0}
        for fact in listed:
            o, ticks, chains = op(fact["op"]), fact["ticks"], fact["from"]
            starts = []
            for chain in chains:
                ops = [op(one) for one in chain]
                demand(len(ops) > 1 and ops[-1] == o and ops[0] in found, f"{o}: {chain}")
                total = 0
                for a, b in pairwise(ops):
                    way = self.forced(a, b) if forwards else self.forced(b, a)
                    total += way + self.path(a[:3] + a[4:])
                starts.append((ops[0], total))
            if not chains:
                known = 0 if rank is None or self.rank(o[:3] + o[4:]) == rank else -1
            elif len(chains) == 1:
                known = found[starts[0][0]] + starts[0][1]
            else:
                strands = {a: a[:3] + a[4:] for a, _ in starts}
                demand(len(strands) == len(starts), f"{o}: one operation twice")
                demand(
                    {self.rank(s) for s in strands.values()} == {self.rank(o[:3] + o[4:])}, f"{o}"
                )
                demand(not any(self.units(s) for s in strands.values()), f"{o}: overlaps")
                known = min(found[a] for a in strands) + sum(map(self.work, strands.values()))
            demand(0 <= ticks <= known, f"nothing proves {ticks} for {o}")
            found[o] = max(ticks, found.get(o, 0))
        return found

    # Bounds

    def chain(self, case: dict[str, Any], heads: dict[Op, int], tails: dict[Op, int]) -> int:
        o = op(case["operation"])
        return heads[o] + self.path(o[:3] + o[4:]) + tails[o]

    def busy(self, case: dict[str, Any], heads: dict[Op, int], tails: dict[Op, int]) -> int:
        shares = {(s[0], s[1], s[2], s[3]): ticks for s, ticks in case["shares"]}
        total, ends, seen = 0, [], set()
        for listed, first, last in case["operations"]:
            s: Strand = (listed[0], listed[1], listed[2], listed[3])
            demand(s not in seen and 0 <= first <= last < self.many[s], f"{s}")
            demand(self.alike or first == last, "micro-batches differ")
            seen.add(s if self.alike else (s, first))
            share = min(shares.get(s, self.work(s)), self.work(s))
            total += share * (last - first + 1)
            ends.append((heads[*s[:3], first, s[3]], tails[*s[:3], last, s[3]]))
            for f, b, whole, ticks in self.units(s):
                both = [shares.get(f, self.work(f)), shares.get(b, self.work(b))]
                weight = ("W", *b[1:])
                both += [shares.get(weight, self.work(weight))] if whole and b[0] == "I" else []
                demand(sum(both) <= ticks, f"{f} and {b} do not fit into their unit")
                demand(both[1] + sum(both[2:]) <= ticks and both[1] <= self.path(b), f"{b}")
                if both[2:]:
                    demand(self.path(b) + both[2] <= ticks, f"{weight}")
        demand(len({self.rank(s[0] if len(s) == 2 else s) for s in seen}) == 1, "one rank")
        return min(h for h, _ in ends) + total + min(t for _, t in ends)

    def window(self, case: dict[str, Any], heads: dict[Op, int], tails: dict[Op, int]) -> int:
        rank = case["rank"]
        own = [s for s in self.many if self.rank(s) == rank and self.many[s]]
        stages = [s for s in own if s[0] == "F" and not self.alone(s)]
        back = {f: ("I" if self.instance.split else "B", *f[1:]) for f in stages}
        demand(self.alike and bool(stages), "windows are of micro-batches that are alike")
        t1 = min(heads[*b[:3], 0, b[3]] for b in back.values())
        t2 = min(tails[*f[:3], self.many[f] - 1, f[3]] for f in stages)
        h = min(heads.get((*s[:3], 0, s[3]), 0) for s in own)
        q = min(tails.get((*s[:3], self.many[s] - 1, s[3]), 0) for s in own)
        total = {s: self.work(s) * self.many[s] for s in own}
        free = sum(ticks for s, ticks in total.items() if self.alone(s))
        starts, rests = [], []
        for f in stages:
            stage, n, weight = self.instance.stage(f), self.many[f], ("W", *f[1:])
            starts.append((stage["activation"], self.work(f), n))
            rest = self.work(weight) if self.instance.split else 0
            rests.append((stage["activation"], self.work(back[f]) + rest, n))
            if self.instance.split:
                rests.append((stage["kept"], rest, n))
        limit = self.instance.limits[rank]
        before = min(t1 - h, free + most(starts, limit), free + sum(total[f] for f in stages))
        after = min(t2 - q, free + most(rests, limit))
        demand(before >= 0 <= after, "a window of less than nothing")
        # with x forwards and y backwards in the windows no more than the others may overlap
        work, saved, wholly = sum(total.values()), 0, True
        for f, b, whole, ticks in {u for s in own for u in self.units(s)}:
            alone = self.work(f) + self.work(b)
            alone += self.work(("W", *b[1:])) if whole and self.instance.split else 0
            saved = max(saved, alone - ticks)
            wholly = wholly and whole
        forwards = sum(self.many[s] for s in own if s[0] == "F")
        backwards = sum(self.many[f] for f in stages)
        xs = most([(a, 1, n) for a, _, n in starts], limit) + forwards - backwards
        ys = most([(a, 1, n) for a, _, n in rests], limit) if wholly else 0
        slowest = max(self.work(s) for s in own if s[0] == "F"), max(t for _, t, _ in rests)

        def spent(first: bool, last: bool) -> int:
            """The most that an order can put into the windows and save."""
            options = []
            for x in range(min(xs, forwards) + 1 if first and saved else 1):
                a = min(before, x * slowest[0]) if saved else before
                for y in range(min(ys, backwards) + 1 if last and saved else 1):
                    b = min(after, y * slowest[1] + free) if saved and wholly else after
                    more = saved * min(forwards - x, backwards - y)
                    options.append(a * first + b * last + more)
            return max(options)

        found = [t1 + work - spent(True, False), t2 + work - spent(False, True)]
        if work > before + after:
            found.append(t1 + t2 + work - spent(True, True))
        return max(found)

    def little(self, case: dict[str, Any], heads: dict[Op, int], tails: dict[Op, int]) -> int:
        rank, total = case["rank"], 0
        chains = {(tuple(c[0]), tuple(c[-1])): [op(o) for o in c] for c in case["stays"]}
        for take, give, grains in self.tokens(rank):
            chain = chains[(*take[:3], 0, take[3]), (*give[:3], 0, give[3])]
            ticks = self.path(give)
            for a, b in pairwise(chain):
                demand(a[3] == b[3], "a stay is within one micro-batch")
                ticks += self.path(a[:3] + a[4:]) + self.forced(a, b)
            total += grains * ticks * self.many[take]
        own = [s for s in self.many if self.rank(s) == rank and self.many[s]]
        demand(self.alike or not case["heads"] + case["tails"], "micro-batches differ")
        h = min(heads.get((*s[:3], 0, s[3]), 0) for s in own)
        q = min(tails.get((*s[:3], self.many[s] - 1, s[3]), 0) for s in own)
        limit = self.instance.limits[rank] or 0
        limit -= limit % gcd(*(grains for _, _, grains in self.tokens(rank)))  # of no use
        demand(limit > 0, "no limit, no bound")
        return int(h + q - (-total // limit))


def most(items: list[tuple[int, int, int]], room: int | None) -> int:
    """At least the ticks that fit into `room` grains, of (grains, ticks, how many)."""
    kinds: dict[tuple[int, int], int] = {}
    for grains, ticks, many in items:
        kinds[grains, ticks] = kinds.get((grains, ticks), 0) + many
    found = sum(t * n for (a, t), n in kinds.items() if room is None or not a)
    dense = sorted(((a, t, n) for (a, t), n in kinds.items() if a), key=lambda k: -k[1] / k[0])
    if room is None or not dense:
        return found
    if len(dense) <= 2:  # exact
        (a, t, n), (b, u, m) = dense[0], dense[-1] if len(dense) == 2 else (1, 0, 0)
        return found + max(
            x * t + min(m, (room - x * a) // b) * u for x in range(min(n, room // a) + 1)
        )
    for a, t, n in dense:  # as if the last could be cut
        fits = min(n, room // a)
        found, room = found + fits * t, room - fits * a
        if fits < n:
            return found + -(-room * t // a)
    return found
