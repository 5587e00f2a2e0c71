"""B8. A rank counts, whatever the strands. Let the trained stages of a rank have N forwards in all,
and call F₍ₘ₎ the m-th of them that starts, of whichever strand, I₍ₘ₎ and W₍ₘ₎ likewise; let each
kind count with the least ticks that one of it takes on the rank. Then

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

So the rank is bounded as if it had one stage (B1, B2, B3), with memory counted over all strands,
for any placement and without B0. And a forward that follows p − 1 others of its rank is at least
F₍ₚ₎: its head is no less, which may raise heads and tails elsewhere.
"""

from typing import NamedTuple

from stretto.compiler.bounds.longest_paths import (
    PrecedenceGraph,
    TickTable,
    heads,
    precedence_graph,
    tails,
)
from stretto.compiler.bounds.one_machine import JacksonJob
from stretto.compiler.bounds.relaxation import ClassEdge, OpClass, Relaxation, StageOps


class RankAsStage(NamedTuple):
    """The rank as one stage: `roles` are its strands by kind (forwards, backwards, weight
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


def as_one_stage(
    graph: PrecedenceGraph, rank: int, head: TickTable, tail: TickTable, ticks: TickTable
) -> RankAsStage | None:
    """The rank as one stage; None where it has no limit, or where one stage without partial release
    is all there is."""
    relaxed = graph.relaxed
    stages = [
        stage
        for stage in relaxed.stages
        if relaxed.classes[stage.forward].rank == rank and relaxed.classes[stage.forward].size
    ]
    roles = [[c for stage in stages if (c := stage[k]) is not None] for k in range(3)]
    roles = [role for role in roles if role]
    limit = relaxed.limits[rank]
    releases = any(stage.kept < stage.activation for stage in stages)
    if not stages or (len(stages) < 2 and not releases) or limit is None:
        return None
    one = _one(graph, rank, stages, limit, roles, ticks)
    if one is None:
        return None
    first = [sorted(h for c in role for h in head[c]) for role in roles]
    last = [sorted((t for c in role for t in tail[c]), reverse=True) for role in roles]
    head = heads(one, least=first)
    if releases and len(roles) == 3:
        a, kept = min(t.activation for t in stages), min(t.kept for t in stages)
        for _ in range(20_000 // max(1, len(head[0]) * (limit // max(a, 1)))):
            if not _released(head, one.path, limit, a, kept):
                break
            head = heads(one, least=head)
    return RankAsStage(roles, head, tails(one, least=last), [row[0] for row in one.ticks])


def _released(head: TickTable, path: TickTable, limit: int, a: int, kept: int) -> bool:
    """Raise the heads of forwards, in place, to what partial release leaves: when F₍ₘ₎ starts, j
    backwards have ended for some j, and with so many as many weight gradients as make room."""
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


def _one(
    graph: PrecedenceGraph,
    rank: int,
    stages: list[StageOps],
    limit: int,
    roles: list[list[int]],
    ticks: TickTable,
) -> PrecedenceGraph | None:
    """The net of the rank as one stage with its memory."""
    relaxed = graph.relaxed
    many = sum(relaxed.classes[stage.forward].size for stage in stages)
    a, kept = min(t.activation for t in stages), min(t.kept for t in stages)
    classes = [OpClass(relaxed.classes[role[0]].kind, 0, 0, -1, rank, many) for role in roles]
    edges = [ClassEdge(c, c, 0, 1) for c in range(len(roles))]
    edges += [ClassEdge(c, c + 1) for c in range(len(roles) - 1)]
    if a and limit >= a:
        edges.append(ClassEdge(1, 0, 0, limit // a))
        if len(roles) == 3 and kept:
            edges.append(ClassEdge(2, 0, 0, (limit - a) // kept + 1))
    small = Relaxation(
        relaxed.spec,
        classes,
        [[_least(relaxed.work, role)] * many for role in roles],
        edges,
        [],
        [],
        [],
        relaxed.limits,
    )
    path = [[_least(graph.path, role)] * many for role in roles]
    return precedence_graph(small, path, [[_least(ticks, role)] * many for role in roles], [])


def _least(ticks: TickTable, role: list[int]) -> int:
    return min(t for c in role for t in ticks[c])


def sharpen(
    graph: PrecedenceGraph, shares: list[TickTable], rounds: int
) -> tuple[TickTable, TickTable]:
    """Heads and tails of the net, raised by what every rank says as one stage, so many times or
    until nothing changes. `shares`: choices of ticks (see `pairs`)."""
    head, tail = heads(graph), tails(graph)
    for _ in range(rounds):
        changed = False
        for rank in range(graph.relaxed.spec.ranks):
            for ticks in shares:
                found = as_one_stage(graph, rank, head, tail, ticks)
                if found is not None and _raise(graph, found, head, tail):
                    changed = True
        if not changed:
            break
        head, tail = heads(graph, least=head), tails(graph, least=tail)
    return head, tail


def _raise(graph: PrecedenceGraph, found: RankAsStage, head: TickTable, tail: TickTable) -> bool:
    """Raise heads and tails of the rank's operations, in place, to what their place among the
    others of their kind gives. Whether any was raised."""
    changed = False
    in_turn = [
        any(tail == c and shift == 1 for tail, shift, _ in into)
        for c, into in enumerate(graph.into)
    ]
    for role, row, back in zip(found.roles, found.head, found.tail, strict=True):
        for c in role:
            before = [(shift, in_turn[a]) for a, shift in graph.near_before[c] if a in role]
            after = [(shift, in_turn[a]) for a, shift in graph.near_after[c] if a in role]
            if in_turn[c]:
                before, after = before or [(1, True)], after or [(1, True)]
            many = graph.relaxed.classes[c].size
            for i in range(many):
                place = _others(before, i)
                if row[place] > head[c][i]:
                    head[c][i], changed = row[place], True
                place = _others(after, many - 1 - i)
                if back[-1 - place] > tail[c][i]:
                    tail[c][i], changed = back[-1 - place], True
    return changed


def _others(near: list[tuple[int, bool]], i: int) -> int:
    """How many operations come before the i-th of a strand (or, counted from the end, after it):
    of strands that it follows at a shift, all up to there if they run in turn, else that one."""
    return sum((i - shift + 1 if in_turn else 1) for shift, in_turn in near if i >= shift)
