"""B8: a rank counts as if it had one stage, whatever its op classes.

Let the trained stages of a rank have N forwards in
all, and call F₍ₘ₎ the m-th of them that starts, of whichever class, I₍ₘ₎ and W₍ₘ₎ likewise; let
each kind count with the least ticks that one of it takes on the rank. Then

- F₍ₘ₎ starts no earlier than the m-th smallest head of the rank's forwards, and the end of the step
  is no nearer to its end than the m-th largest of their tails; I and W likewise;
- I₍ₘ₎ starts after F₍ₘ₎ has ended, W₍ₘ₎ after I₍ₘ₎;
- F₍ₘ₎ starts after the end of I₍ₘ₋ₖ₎, K = ⌊L / a⌋, and of W₍ₘ₋ₖ₎, K = ⌊(L − a) / a'⌋ + 1, with the
  least a and a' of the rank;
- F₍ₘ₎ starts, for some j, after the end of I₍ⱼ₎ and of so many W that a (m − j) + a' (j − w) <= L.

Proof. When F₍ₘ₎ starts m forwards have started, each after its head; after it N − m end later, each
before its tail. When I₍ₘ₎ starts, m backwards have started, each after its own forward, so m
forwards have ended, the last of which started no earlier than F₍ₘ₎. When F₍ₘ₎
starts, i backwards and w weight gradients have ended, and a (m − i) + a' (i − w) <= L with
w <= i; were i < m − ⌊L/a⌋, a (m − i) alone would be more than L; were w < m − K for the second K,
at least K activations besides the new one would hold a' or more. The last is that inequality. ∎

So the rank is bounded as if it had one stage (B1, B2, B3), with memory counted over all classes,
for any placement and without B0. And a forward that follows p − 1 others of its rank is at least
F₍ₚ₎: its head is no less, which may raise heads and tails elsewhere.
"""

from typing import NamedTuple

from msgspec import Struct

from stretto.compiler.bounds.context import EFFORT, Finding, Subject
from stretto.compiler.bounds.longest_paths import (
    Neighbours,
    PrecedenceGraph,
    heads,
    precedence_graph,
    tails,
)
from stretto.compiler.bounds.one_machine import JacksonJob, critical_set, fills, jackson
from stretto.compiler.bounds.relaxation import (
    ClassEdge,
    OpClass,
    Relaxation,
    StageOps,
    TickTable,
)

ROUNDS = 20
"""How often ranks as one stage may raise heads and tails."""


class RankAsStage(NamedTuple):
    """The rank as one stage: `roles` are its op classes by kind (forwards, backwards, weight
    gradients), `head` and `tail` of the m-th of each kind, `ticks` how long each keeps the rank
    busy."""

    roles: list[list[int]]
    head: TickTable
    tail: TickTable
    ticks: list[int]

    def jobs(self) -> list[JacksonJob]:
        """For Jackson's schedule."""
        return [
            (h, ticks, t)
            for ticks, row, back in zip(self.ticks, self.head, self.tail, strict=True)
            for h, t in zip(row, back, strict=True)
        ]


class TrainedRank(Struct, frozen=True):
    """The trained stages of a rank with a limit in grains."""

    rank: int
    stages: list[StageOps]
    limit: int

    @property
    def roles(self) -> list[list[int]]:
        """The op classes by kind: forwards, backwards, weight gradients if there are any."""
        roles = [[c for one in self.stages if (c := one[k]) is not None] for k in range(3)]
        return [role for role in roles if role]

    @property
    def activation(self) -> int:
        """a: the least grains that a forward leaves."""
        return min(one.activation for one in self.stages)

    @property
    def kept(self) -> int:
        """a': the least grains of these that stay after the backward."""
        return min(one.kept for one in self.stages)

    @property
    def releases(self) -> bool:
        """Whether a backward gives back a part before its weight gradient has run."""
        return any(one.kept < one.activation for one in self.stages)


def find(subject: Subject) -> Finding | None:
    """Jackson's value of the rank as one stage; None where it is no other than B1."""
    one = _of(subject) if subject.rank == subject.on else None
    return Finding(jackson(one.jobs())[0], subject, reason) if one is not None else None


def reason(subject: Subject) -> str:
    """Which operations of the rank as one stage fill it."""
    one = _of(subject)
    assert one is not None
    return fills(subject, critical_set(one.jobs()))


def _of(subject: Subject) -> RankAsStage | None:
    context = subject.context
    ticks = context.busy(subject.share)
    return as_one_stage(context.graph, subject.on, subject.head, subject.tail, ticks)


def as_one_stage(
    graph: PrecedenceGraph, rank: int, head: TickTable, tail: TickTable, ticks: TickTable
) -> RankAsStage | None:
    """The rank as one stage; None where it has no limit, or where one stage without partial release
    is all there is. `ticks`: how long operations keep the rank busy, by a choice of shares."""
    trained = _trained(graph.relaxed, rank)
    if trained is None:
        return None
    one = _graph(graph, trained, ticks)
    if one is None:
        return None
    roles, limit, a = trained.roles, trained.limit, trained.activation
    first = [sorted(h for c in role for h in head[c]) for role in roles]
    last = [sorted((t for c in role for t in tail[c]), reverse=True) for role in roles]
    found = heads(one, first)
    if trained.releases and len(roles) == 3:
        for _ in range(20_000 // max(1, len(found[0]) * (limit // max(a, 1)))):
            if not _released(trained, found, one.path):
                break
            found = heads(one, found)
    return RankAsStage(roles, found, tails(one, last), [row[0] for row in one.ticks])


def _trained(relaxed: Relaxation, rank: int) -> TrainedRank | None:
    """The trained stages of the rank; None where they say no more than B1 to B3."""
    stages = [stage for stage in relaxed.trained(rank) if relaxed.classes[stage.forward].size]
    limit = relaxed.limits[rank]
    if not stages or limit is None:
        return None
    found = TrainedRank(rank, stages, limit)
    return found if len(stages) > 1 or found.releases else None


def _released(trained: TrainedRank, head: TickTable, path: TickTable) -> bool:
    """Raise the heads of forwards, in place, to what partial release leaves: when F₍ₘ₎ starts, j
    backwards have ended for some j, and with so many as many weight gradients as make room.
    Whether any was raised."""
    limit, a, kept = trained.limit, trained.activation, trained.kept
    changed = False
    ends = [[h + p for h, p in zip(head[k], path[k], strict=True)] for k in (1, 2)]
    for m in range(len(head[0])):
        least = None
        for j in range(max(0, m + 1 - limit // a), m + 1):
            fits = (limit - (m + 1 - j) * a) // kept if kept else j
            w = max(0, j - fits)
            at = max(ends[0][j - 1] if j else 0, ends[1][w - 1] if w else 0)
            least = at if least is None else min(least, at)
        if least is not None and least > head[0][m]:
            head[0][m], changed = least, True
    return changed


def _graph(
    graph: PrecedenceGraph, trained: TrainedRank, ticks: TickTable
) -> PrecedenceGraph | None:
    """The graph of the rank as one stage with its memory: class 0 are its forwards, then its
    backwards, then its weight gradients."""
    relaxed, roles, rank = graph.relaxed, trained.roles, trained.rank
    limit, a, kept = trained.limit, trained.activation, trained.kept
    size = sum(relaxed.classes[stage.forward].size for stage in trained.stages)
    classes = [OpClass(relaxed.classes[role[0]].kind, 0, 0, -1, rank, size) for role in roles]
    edges = [ClassEdge(c, c, 0, 1) for c in range(len(roles))]
    edges += [ClassEdge(c, c + 1) for c in range(len(roles) - 1)]
    if a and limit >= a:
        edges.append(ClassEdge(1, 0, 0, limit // a))
        if len(roles) == 3 and kept:
            edges.append(ClassEdge(2, 0, 0, (limit - a) // kept + 1))

    def least(table: TickTable) -> TickTable:
        return [[min(t for c in role for t in table[c])] * size for role in roles]

    small = Relaxation(
        relaxed.spec, classes, {}, least(relaxed.work), edges, [], [], [], relaxed.limits
    )
    return precedence_graph(small, least(graph.path), least(ticks), [])


def rounds(relaxed: Relaxation) -> int:
    """How often `sharpen` goes round over the operations of the ranks."""
    return min(ROUNDS, EFFORT // (32 * max(relaxed.size, 1) + 1000 * len(relaxed.ranks)))


def sharpen(
    graph: PrecedenceGraph, shares: list[TickTable], rounds: int
) -> tuple[TickTable, TickTable]:
    """Heads and tails of the graph, raised by what every rank says as one stage, so many times or
    until nothing changes. `shares`: choices of ticks (see `overlap`)."""
    head, tail = heads(graph), tails(graph)
    in_turn = [
        any(other == c and step == -1 for other, step, _ in edges)
        for c, edges in enumerate(graph.before.edges)
    ]
    for _ in range(rounds):
        changed = False
        for rank in graph.relaxed.ranks:
            for ticks in shares:
                found = as_one_stage(graph, rank, head, tail, ticks)
                if found is not None and _raise(graph, in_turn, found, head, tail):
                    changed = True
        if not changed:
            break
        head, tail = heads(graph, head), tails(graph, tail)
    return head, tail


def _raise(
    graph: PrecedenceGraph,
    in_turn: list[bool],
    found: RankAsStage,
    head: TickTable,
    tail: TickTable,
) -> bool:
    """Raise heads and tails of the rank's operations, in place, to what their number among the
    others of their kind gives. `in_turn`: by op class whether its operations run one after
    another. Whether any was raised."""
    changed = False

    def others(side: Neighbours, c: int, role: list[int]) -> list[tuple[int, bool]]:
        found = [(abs(step), in_turn[a]) for a, step in side.same_rank[c] if a in role]
        return found or ([(1, True)] if in_turn[c] else [])

    for role, row, back in zip(found.roles, found.head, found.tail, strict=True):
        for c in role:
            before = others(graph.before, c, role)
            after = others(graph.after, c, role)
            size = graph.relaxed.classes[c].size
            for i in range(size):
                number = _count(before, i)
                if row[number] > head[c][i]:
                    head[c][i], changed = row[number], True
                number = _count(after, size - 1 - i)
                if back[-1 - number] > tail[c][i]:
                    tail[c][i], changed = back[-1 - number], True
    return changed


def _count(near: list[tuple[int, bool]], i: int) -> int:
    """How many operations come before the i-th of a class (or, counted from the end, after it): of
    classes that it follows at a shift, all up to there if they run in turn, else that one."""
    return sum((i - shift + 1 if in_turn else 1) for shift, in_turn in near if i >= shift)
