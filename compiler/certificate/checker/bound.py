"""The third part of `certify`: a lower bound from its evidence. The theorems with their proofs are
B1 and B4 to B8 of `docs/bounds.md`; here is only what has to be compared and added up.

`evidence`: `rank`, `rounds`, `shares` and `cases`. Every list of `shares` says for how long
operations that may overlap keep others off their rank ([[strand, ticks]]); where nothing overlaps
there is one empty list. `cases` has one case; for the span of `rank` one for each operation that
may be its `first`, and the bound is the least of theirs. A case has `by`, a theorem of those below,
`on`, the rank whose operations are counted, and for some `head`, `tail`, and `share`, a place in
`shares`. Heads and tails of all operations are worked out here; `rounds` times they are raised by
what ranks say as if they had one stage (B8).

`chain`: the longest of head + ticks + tail.
`busy`: all operations on `on` with at least this head and this tail run one after another.
`merged`: the same of the n-th forwards, n-th backwards, n-th weight gradients that run there.
`window`: before its first backward (t1) a rank runs forwards only, as many as memory takes; in the
   last t2, after its last forward, it runs only what memory then held; unless all of its work fits
   into these, t1 + t2 + the rest of its work.
`little`: for how long operations leave how much in memory, over the limit.
"""

from itertools import pairwise
from math import gcd
from typing import Any

from stretto.compiler.certificate.checker.instance import Instance, Op, demand, op
from stretto.compiler.certificate.checker.relaxation import (
    FAR,
    Net,
    Place,
    Relaxation,
    Strand,
    Times,
)

MOST_ROUNDS = 50


class Bound:
    """Evidence for a bound that holds for every order of the instance."""

    def __init__(self, instance: Instance, evidence: dict[str, Any]):
        self.instance, self.evidence = instance, evidence
        self.net = Relaxation(instance)
        self.shares = [self.net.shared(listed) for listed in evidence["shares"]] or [{}]
        self.work = dict(self.net.ticks)
        self.net.ticks = self.shares[0]

    def value(self) -> int:
        """The bound."""
        if not any(self.net.many.values()):
            return 0
        if self.instance.minimize == "makespan":
            demand(len(self.evidence["cases"]) == 1 and self.evidence["rank"] == 0, "one case")
            heads, tails = self.sharpened(self.evidence["rounds"])
            return self.case(self.evidence["cases"][0], heads, tails)
        rank, found = self.evidence["rank"], {}
        demand(rank in self.net.rank.values(), "a rank with something to do")
        for case in self.evidence["cases"]:
            first = place(op(case["first"])) if case["first"] else None
            found[first] = self.case(case, *self.bracket(rank, first))
        demand(set(found) == self.firsts(rank) or None in found, "a case for each first operation")
        return min(found.values())

    def bracket(self, rank: int, first: Place | None) -> tuple[Times, Times]:
        """For the span of a rank: heads from the start of its first operation, where that is
        given, and tails to the end of its last."""
        low = {(s, m): 0 if self.net.rank[s] == rank else FAR for s, m in self.net.places()}
        tails = self.net.times(False, low)
        if first is None:
            return low, tails
        heads = self.net.times(True, dict.fromkeys(low, FAR), first)
        return {one: max(heads[one], low[one]) for one in low}, tails

    def case(self, case: dict[str, Any], heads: Times, tails: Times) -> int:
        """What a theorem says."""
        theorems = {
            "chain": self.chain,
            "busy": self.busy,
            "merged": self.merged,
            "window": self.window,
            "little": self.little,
        }
        return theorems[case["by"]](case, heads, tails)

    def firsts(self, rank: int) -> set[Place | None]:
        """The operations of which one is the first of the rank, if micro-batches run in turn."""
        own = [s for s in self.net.many if self.net.rank[s] == rank and self.net.many[s]]
        first = [s for s in own if not self.net.lower[s].intersection(own) - {s}]
        return {(s, 0) for s in first} if self.net.turn else {None}

    # Ranks as one stage (B8)

    def sharpened(self, rounds: int) -> tuple[Times, Times]:
        """Heads and tails, raised so many times by what ranks say as one stage."""
        demand(type(rounds) is int and 0 <= rounds <= MOST_ROUNDS, "so many rounds")
        heads = self.net.times(True, dict.fromkeys(self.net.places(), 0))
        tails = self.net.times(False, dict.fromkeys(self.net.places(), 0))
        for _ in range(rounds):
            old = heads, tails
            heads, tails = dict(heads), dict(tails)
            for rank in sorted(set(self.net.rank.values())):
                for shares in self.shares:
                    one = self.one(rank, shares, heads, tails)
                    if one is not None:
                        self.raised(rank, one[0], heads, before=True)
                        self.raised(rank, one[1], tails, before=False)
            if (heads, tails) == old:
                break
            heads, tails = self.net.times(True, heads), self.net.times(False, tails)
        return heads, tails

    def roles(self, rank: int) -> dict[str, list[Strand]]:
        """The rank's strands that are trained, by kind."""
        own = [s for s in self.net.many if self.net.rank[s] == rank and not self.net.passing(s)]
        return {k: [s for s in own if s[0] == k] for k in "FBIW" if any(s[0] == k for s in own)}

    def one(
        self, rank: int, shares: dict[Strand, int], heads: Times, tails: Times
    ) -> tuple[Times, Times, Net] | None:
        """Heads and tails of the n-th operation of each kind on the rank. The n-th forward starts
        no earlier than the n-th least head of a forward; n forwards have ended before the n-th
        backward, n backwards before the n-th weight gradient; and before a forward so many, that
        memory holds what is left."""
        roles, limit = self.roles(rank), self.instance.limits[rank]
        total = sum(self.net.many[s] for s in roles.get("F", ()))
        if limit is None or not total:
            return None
        net, names = Net(turn=True), [(kind, -1, rank, -1) for kind in roles]
        for name, strands in zip(names, roles.values(), strict=True):
            net.many[name], net.rank[name] = total, rank
            net.path[name] = min(self.net.path[s] for s in strands)
            net.ticks[name] = min(shares[s] for s in strands)
        net.edges = [(name, name, 0, 1) for name in names]
        net.edges += [(a, b, 0, 0) for a, b in pairwise(names)]
        stages = [self.instance.stage(s) for s in roles["F"]]
        least = min(stage["activation"] for stage in stages)
        kept = min(stage["kept"] for stage in stages) if self.instance.split else 0
        if least and limit >= least:
            net.edges.append((names[1], names[0], 0, limit // least))
            if kept:
                net.edges.append((names[2], names[0], 0, (limit - least) // kept + 1))
        net.prepare()
        low: list[Times] = [{}, {}]
        for name, strands in zip(names, roles.values(), strict=True):
            listed = [(s, m) for s in strands for m in range(self.net.many[s])]
            for n, ticks in enumerate(sorted(heads[one] for one in listed)):
                low[0][name, n] = ticks
            for n, ticks in enumerate(sorted((tails[one] for one in listed), reverse=True)):
                low[1][name, n] = ticks
        found = net.times(True, low[0])
        while len(names) == 3 and least and self.released(net, found, limit, least, kept):
            found = net.times(True, found)
        return found, net.times(False, low[1]), net

    def released(self, net: Net, heads: Times, limit: int, least: int, kept: int) -> bool:
        """Raise the heads of forwards to what memory leaves: when n + 1 have started, j backwards
        have ended, and so many weight gradients that the rest fits. Whether any was raised."""
        f, i, w = net.many
        changed = False

        def ended(strand: Strand, n: int) -> int:
            return heads[strand, n - 1] + net.path[strand] if n > 0 else 0

        for n in range(net.many[f]):
            ways = []
            for j in range(max(0, n + 1 - limit // least), n + 1):
                fits = (limit - (n + 1 - j) * least) // kept if kept else j
                ways.append(max(ended(i, j), ended(w, j - fits)))
            if ways and min(ways) > heads[f, n]:
                heads[f, n], changed = min(ways), True
        return changed

    def raised(self, rank: int, found: Times, times: Times, before: bool) -> None:
        """An operation with n others of its kind before (or after) it on the rank is at least the
        n-th."""
        for kind, strands in self.roles(rank).items():
            total = sum(self.net.many[s] for s in strands)
            for s in strands:
                for m in range(self.net.many[s]):
                    n = sum(self.apart(s, m, other, before) for other in strands)
                    at = found[(kind, -1, rank, -1), n if before else total - 1 - n]
                    times[s, m] = max(times[s, m], at)

    def apart(self, s: Strand, m: int, other: Strand, before: bool) -> int:
        """How many operations of the other strand must come before (or after) this one."""
        if other == s:
            many = m if before else self.net.many[s] - 1 - m
            return many if self.net.turn else 0
        shift = self.net.shifts.get((other, s) if before else (s, other))
        if shift is None:
            return 0
        many = m - shift + 1 if before else self.net.many[other] - m - shift
        return max(0, min(many, self.net.many[other]) if self.net.turn else many > 0)

    # Theorems

    def chain(self, case: dict[str, Any], heads: Times, tails: Times) -> int:
        demand(self.instance.minimize == "makespan", "a chain is from end to end")
        return max(heads[one] + self.net.path[one[0]] + tails[one] for one in heads)

    def busy(self, case: dict[str, Any], heads: Times, tails: Times) -> int:
        shares, on = self.shares[case["share"]], case["on"]
        own = (one for one in heads if self.net.rank[one[0]] == on)
        return packed(case, {one: shares[one[0]] for one in own}, heads, tails)

    def merged(self, case: dict[str, Any], heads: Times, tails: Times) -> int:
        on = case["on"]
        demand(self.instance.minimize == "makespan" or on == self.evidence["rank"], "its own rank")
        one = self.one(on, self.shares[case["share"]], heads, tails)
        demand(one is not None, "a rank without a limit")
        assert one is not None
        head, tail, net = one
        return packed(case, {place: net.ticks[place[0]] for place in head}, head, tail)

    def window(self, case: dict[str, Any], heads: Times, tails: Times) -> int:
        rank, many = case["on"], self.net.many
        demand(
            self.instance.minimize == "makespan" or rank == self.evidence["rank"], "its own rank"
        )
        own = [s for s in many if self.net.rank[s] == rank and many[s]]
        stages = [s for s in own if s[0] == "F" and not self.net.passing(s)]
        back = {f: self.net.back(f) for f in stages}
        demand(not self.instance.exceptions, "windows are of operations that are alike")
        demand(bool(stages), "a window needs something that is trained")
        h, q = self.ends(own, heads), self.ends(own, tails)
        t1, t2 = self.ends([*back.values()], heads), self.ends(stages, tails)
        total = {s: self.work[s] * many[s] for s in own}
        free = sum(ticks for s, ticks in total.items() if self.net.passing(s))
        starts, rests = [], []
        for f in stages:
            stage, n, weight = self.instance.stage(f), many[f], ("W", *f[1:])
            starts.append((stage["activation"], self.work[f], n))
            rest = self.work[weight] if self.instance.split else 0
            rests.append((stage["activation"], self.work[back[f]] + rest, n))
            if self.instance.split:
                rests.append((stage["kept"], rest, n))
        limit = self.instance.limits[rank]
        before = min(t1 - h, free + most(starts, limit), free + sum(total[f] for f in stages))
        after = min(t2 - q, free + most(rests, limit))
        demand(before >= 0 <= after, "a window of less than nothing")
        # with x forwards and y backwards in the windows no more than the others may overlap
        work, saved, wholly = sum(total.values()), 0, True
        for f, b, whole, ticks in {u for s in own for u in self.net.units(s)}:
            alone = self.work[f] + self.work[b]
            alone += self.work[("W", *b[1:])] if whole and self.instance.split else 0
            saved = max(saved, alone - ticks)
            wholly = wholly and whole
        forwards = sum(many[s] for s in own if s[0] == "F")
        backwards = sum(many[f] for f in stages)
        xs = most([(a, 1, n) for a, _, n in starts], limit) + forwards - backwards
        ys = most([(a, 1, n) for a, _, n in rests], limit) if wholly else 0
        slowest = max(self.work[s] for s in own if s[0] == "F"), max(t for _, t, _ in rests)

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

    def little(self, case: dict[str, Any], heads: Times, tails: Times) -> int:
        rank, many = case["on"], self.net.many
        demand(
            self.instance.minimize == "makespan" or rank == self.evidence["rank"], "its own rank"
        )
        tokens = self.net.tokens(rank)
        total = sum(grains * self.stay(a, b) * many[a] for a, b, grains in tokens)
        demand(bool(tokens), "nothing stays in memory")
        own = [s for s in many if self.net.rank[s] == rank and many[s]]
        limit = self.instance.limits[rank] or 0
        limit -= limit % gcd(*(grains for _, _, grains in tokens))  # of no use
        demand(limit > 0, "no limit, no bound")
        return self.ends(own, heads) + self.ends(own, tails) - (-total // limit)

    def stay(self, take: Strand, give: Strand) -> int:
        """The longest chain from the start of one to the end of the other in a micro-batch."""
        longest = {take: self.net.path[take]}
        for strand in (s for s, m in self.net.order if not m):
            ways = [
                longest[a] + lag + self.net.path[strand]
                for a, lag, shift in self.net.into[strand]
                if not shift and a in longest
            ]
            if strand != take and ways:
                longest[strand] = max(ways)
        return longest[give]

    def ends(self, strands: list[Strand], times: Times) -> int:
        """The least time of any operation of these strands."""
        return min(times[s, m] for s in strands for m in range(self.net.many[s]))


def packed(case: dict[str, Any], ticks: dict[Place, int], heads: Times, tails: Times) -> int:
    """Operations of one rank, those with a head and a tail of at least so much, one by one."""
    head, tail = case["head"], case["tail"]
    chosen = [t for one, t in ticks.items() if heads[one] >= head and tails[one] >= tail]
    demand(bool(chosen) and type(head) is type(tail) is int, "some operations, whole ticks")
    demand(min(head, tail) >= 0, "nothing lies outside of the step")
    return int(head + sum(chosen) + tail)


def place(o: Op) -> Place:
    return (*o[:3], o[4]), o[3]


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
