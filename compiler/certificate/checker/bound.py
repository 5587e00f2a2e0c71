"""The third part of the checker: a lower bound from its evidence. The theorems with their proofs
are B1 and B4 to B8 of `docs/bounds.md`; here is only what has to be compared and added up.

`evidence`: `rank`, `rounds`, `shares` and `cases`. Every list of `shares` says for how long
operations that may overlap keep others off their rank ([[[kind, pipeline, stage, slice], ticks]]);
where nothing overlaps there is one empty list. `cases` has one case; for the span of `rank` one for
each operation that may be its `first`, and the bound is the least of theirs. A case has `by`, a
theorem of those below, `on`, the rank whose operations are counted, and for some `head`, `tail`,
and `share`, an index in `shares`. Heads and tails of all operations are worked out here; `rounds`
times they are raised by what ranks say as if they had one stage (B8).

`chain`: the longest of head + ticks + tail.
`busy` (B1): all operations on `on` with at least this head and this tail run one after another.
`merged` (B8): the same of the n-th forwards, n-th backwards, n-th weight gradients that run there.
`window` (B4): what a rank can do before its first backward and after its last forward.
`little` (B5): for how long operations leave how much in memory, over the limit.
"""

from math import gcd
from typing import Any

from stretto.compiler.certificate.checker.graph import UNREACHED, TickMap, TypedOp
from stretto.compiler.certificate.checker.instance import Instance, Op, OpType, demand, op
from stretto.compiler.certificate.checker.rank_as_stage import OneStage, one_stage, sharpened
from stretto.compiler.certificate.checker.relaxation import RelaxedInstance
from stretto.compiler.certificate.checker.window import window

MOST_ROUNDS = 50


class BoundCheck:
    """Evidence for a bound that holds for every order of the instance."""

    def __init__(self, instance: Instance, evidence: dict[str, Any]):
        self.instance, self.evidence = instance, evidence
        self.relaxed = RelaxedInstance(instance)
        durations = self.relaxed.durations
        self.shares = [durations.shared(listed) for listed in evidence["shares"]] or [{}]
        self.graph = self.relaxed.graph(self.shares[0])

    def value(self) -> int:
        """The bound in ticks. Raises `Refuted` where the evidence proves none."""
        if not any(self.graph.count.values()):
            return 0
        rank, cases = self.evidence["rank"], self.evidence["cases"]
        if self.instance.minimize == "makespan":
            alone = len(cases) == 1 and rank == 0
            demand(alone, f"a makespan's evidence has 1 case, `rank` 0; here {len(cases)}, {rank}")
            return self.case(cases[0], *self.sharpened(self.evidence["rounds"]))
        has_work = rank in self.graph.rank.values()
        demand(has_work, f"the evidence is of the span of rank {rank}, which has nothing to do")
        found: dict[TypedOp | None, int] = {}
        for case in cases:
            first = _member(op(case["first"])) if case["first"] else None
            found[first] = self.case(case, *self.bracket(rank, first))
        missing = self.firsts(rank) - set(found)
        more = set(found) - self.firsts(rank)
        demand(
            None in found or not missing | more,
            f"the evidence's cases are not of the operations that may be first on rank {rank}: "
            f"{_names(missing)} missing, {_names(more)} too many",
        )
        return min(found.values())

    def sharpened(self, rounds: int) -> tuple[TickMap, TickMap]:
        """Heads and tails for the makespan, so many times raised by B8."""
        demand(
            type(rounds) is int and 0 <= rounds <= MOST_ROUNDS,
            f"the evidence's `rounds` is {rounds!r}, not a whole number from 0 to {MOST_ROUNDS}",
        )
        return sharpened(self.relaxed, self.graph, self.shares, rounds)

    def bracket(self, rank: int, first: TypedOp | None) -> tuple[TickMap, TickMap]:
        """For the span of a rank: heads from the start of its first operation, where that is
        given, and tails to the end of its last."""
        on = self.graph.rank
        low = {(s, m): 0 if on[s] == rank else UNREACHED for s, m in self.graph.members()}
        tails = self.graph.times(False, low)
        if first is None:
            return low, tails
        heads = self.graph.times(True, dict.fromkeys(low, UNREACHED), first)
        return {one: max(heads[one], low[one]) for one in low}, tails

    def firsts(self, rank: int) -> set[TypedOp | None]:
        """The operations of which one is the first of the rank, if micro-batches run in turn."""
        own = self.relaxed.on(rank)
        first = [s for s in own if not self.relaxed.lower[s].intersection(own) - {s}]
        return {(s, 0) for s in first} if self.graph.in_turn else {None}

    def case(self, case: dict[str, Any], heads: TickMap, tails: TickMap) -> int:
        """What a theorem says, in ticks."""
        theorems = {
            "chain": self._chain,
            "busy": self._busy,
            "merged": self._merged,
            "window": self._window,
            "little": self._little,
        }
        return theorems[case["by"]](case, heads, tails)

    def one_stage(
        self, rank: int, shares: dict[OpType, int], heads: TickMap, tails: TickMap
    ) -> OneStage | None:
        """The rank as one stage (B8); None where it has no limit or trains nothing."""
        return one_stage(self.relaxed, rank, shares, heads, tails)

    def _chain(self, case: dict[str, Any], heads: TickMap, tails: TickMap) -> int:
        whole = self.instance.minimize == "makespan"
        demand(whole, "a case of the evidence is by `chain`, which bounds makespans, not a span")
        return max(heads[one] + self.graph.path[one[0]] + tails[one] for one in heads)

    def _busy(self, case: dict[str, Any], heads: TickMap, tails: TickMap) -> int:
        shares, on = self.shares[case["share"]], case["on"]
        own = (one for one in heads if self.graph.rank[one[0]] == on)
        return _packed(case, {one: shares[one[0]] for one in own}, heads, tails)

    def _merged(self, case: dict[str, Any], heads: TickMap, tails: TickMap) -> int:
        rank = self._own_rank(case)
        one = self.one_stage(rank, self.shares[case["share"]], heads, tails)
        demand(one is not None, f"{_by(case)}, which has no limit or trains nothing")
        assert one is not None
        ticks = {member: one.graph.ticks[member[0]] for member in one.heads}
        return _packed(case, ticks, one.heads, one.tails)

    def _window(self, case: dict[str, Any], heads: TickMap, tails: TickMap) -> int:
        return window(self.relaxed, self._own_rank(case), heads, tails)

    def _little(self, case: dict[str, Any], heads: TickMap, tails: TickMap) -> int:
        rank = self._own_rank(case)
        residencies = self.relaxed.residencies(rank)
        demand(bool(residencies), f"{_by(case)}, where nothing stays in memory")
        total = sum(
            grains * self._residence(a, b) * self.graph.count[a] for a, b, grains in residencies
        )
        limit = self.instance.limits[rank] or 0
        limit -= limit % gcd(*(grains for _, _, grains in residencies))  # of no use
        demand(limit > 0, f"{_by(case)}, whose memory has no limit that one activation fits")
        own, graph = self.relaxed.on(rank), self.graph
        return graph.least(own, heads) + graph.least(own, tails) - (-total // limit)

    def _own_rank(self, case: dict[str, Any]) -> int:
        """The rank of a theorem that bounds the span of no other."""
        rank: int = case["on"]
        own = self.instance.minimize == "makespan" or rank == self.evidence["rank"]
        demand(own, f"{_by(case)}, and the span is of rank {self.evidence['rank']}")
        return rank

    def _residence(self, take: OpType, give: OpType) -> int:
        """The longest chain from the start of one to the end of the other in a micro-batch."""
        path, longest = self.graph.path, {take: self.graph.path[take]}
        for kind in (s for s, m in self.graph.order if not m):
            ways = [
                longest[a] + lag + path[kind]
                for a, lag, shift in self.graph.into[kind]
                if not shift and a in longest
            ]
            if kind != take and ways:
                longest[kind] = max(ways)
        return longest[give]


def _packed(case: dict[str, Any], ticks: dict[TypedOp, int], heads: TickMap, tails: TickMap) -> int:
    """Operations of one rank, those with a head and a tail of at least so much, one by one."""
    head, tail = case["head"], case["tail"]
    chosen = [t for one, t in ticks.items() if heads[one] >= head and tails[one] >= tail]
    least = f"a head of {head!r} and a tail of {tail!r}"
    demand(type(head) is type(tail) is int, f"{_by(case)} with {least}, not whole ticks")
    demand(bool(chosen), f"{_by(case)} with {least}, which no operation there has")
    demand(min(head, tail) >= 0, f"{_by(case)} with {least}; neither may be below 0")
    return int(head + sum(chosen) + tail)


def _by(case: dict[str, Any]) -> str:
    return f"a case of the evidence is by `{case['by']}` of rank {case['on']}"


def _names(members: set[TypedOp | None]) -> str:
    listed = sorted(str([*one[0][:3], one[1], one[0][3]]) for one in members if one)
    return " and ".join(listed) or "none"


def _member(o: Op) -> TypedOp:
    return (*o[:3], o[4]), o[3]
