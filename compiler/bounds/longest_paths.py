"""Longest chains. `Net` is a Model with edges added to it: for every operation its head, the least
time before its start, and its tail, the least time after its end, are longest paths. The longest
path of all is a bound by itself (the critical path), and heads and tails carry the others.

Sharpened where j follows several operations of its own rank: they run one after another, so for
any of them the head of j is at least their least head + the sum of their ticks (B1 for what is
before j), and likewise for tails. The latest of each strand are taken.

Strands are walked micro-batch by micro-batch, as edges never lead to an earlier one; where an
author's order or rule does, by a topological order of the operations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from stretto.compiler.bounds.memory import ancestors, topological_order
from stretto.compiler.bounds.relaxation import ClassEdge, OpKey, Relaxation

UNREACHED = -(1 << 62)
"""Of an operation that no chain connects: less than any time."""

TickTable = list[list[int]]


@dataclass(frozen=True, slots=True)
class PrecedenceGraph:
    """`path`: ticks from the start of an operation to its result. `ticks`: how long it keeps others
    off its rank (`work`, or shares of it, see `pairs`). `into[c]`: (strand, shift, lag) of every
    edge that ends at strand c; `out[c]` of those that start there. `extra_into`, `extra_out`: the
    single edges, by operation. `near_before[c]`, `near_after[c]`: the strands of its rank with the
    shift at which operations of c follow theirs, or they those of c, if they are several. `order`:
    all operations, each after what it follows."""

    relaxed: Relaxation
    path: TickTable
    ticks: TickTable
    into: list[list[tuple[int, int, int]]]
    out: list[list[tuple[int, int, int]]]
    extra_into: dict[OpKey, list[OpKey]]
    extra_out: dict[OpKey, list[OpKey]]
    near_before: list[list[tuple[int, int]]]
    near_after: list[list[tuple[int, int]]]
    order: Sequence[OpKey]


def precedence_graph(
    relaxed: Relaxation, path: TickTable, ticks: TickTable, edges: Iterable[ClassEdge]
) -> PrecedenceGraph | None:
    """The net of the Model with `edges` added; None where they make a circle (then no order
    meets what they follow from)."""
    many = len(relaxed.classes)
    into: list[list[tuple[int, int, int]]] = [[] for _ in range(many)]
    out: list[list[tuple[int, int, int]]] = [[] for _ in range(many)]
    for tail, head, lag, shift in [*relaxed.edges, *edges]:
        into[head].append((tail, shift, lag))
        out[tail].append((head, shift, lag))
    extra_into: dict[OpKey, list[OpKey]] = {}
    extra_out: dict[OpKey, list[OpKey]] = {}
    for single in relaxed.op_edges():
        extra_into.setdefault(single.head, []).append(single.tail)
        extra_out.setdefault(single.tail, []).append(single.head)
    counts = [op_class.size for op_class in relaxed.classes]
    classes = topological_order(relaxed)
    if len(classes) < many:
        return None
    rows = [(c, i) for i in range(max(counts, default=0)) for c in classes if i < counts[c]]
    before, after = _near(relaxed, into)
    found = PrecedenceGraph(
        relaxed, path, ticks, into, out, extra_into, extra_out, before, after, rows
    )
    if not extra_out:
        return found
    order = _sorted(found)
    return replace(found, order=order) if order else None


def _sorted(graph: PrecedenceGraph) -> list[OpKey]:
    """All operations in a topological order; none where there is a circle."""
    counts = [op_class.size for op_class in graph.relaxed.classes]
    missing = {
        (c, i): sum(0 <= i - shift < counts[tail] for tail, shift, _ in graph.into[c])
        + len(graph.extra_into.get((c, i), ()))
        for c, i in graph.order
    }
    order = [place for place, many in missing.items() if not many]
    for c, i in order:
        heads = [(head, i + shift) for head, shift, _ in graph.out[c] if i + shift < counts[head]]
        for place in heads + graph.extra_out.get((c, i), []):
            missing[place] -= 1
            if not missing[place]:
                order.append(place)
    return order if len(order) == len(graph.order) else []


def heads(
    graph: PrecedenceGraph, source: OpKey | None = None, least: TickTable | None = None
) -> TickTable:
    """For every operation the longest chain before its start; from the start of `source` where
    that is given, and FAR where none leads from it. No less than `least`, if that is given."""
    path, into, extra = graph.path, graph.into, graph.extra_into
    near = graph.near_before
    head = [[0] * op_class.size for op_class in graph.relaxed.classes]
    end = [[0] * op_class.size for op_class in graph.relaxed.classes]
    lowest = 0 if source is None else UNREACHED
    for place in graph.order:
        c, i = place
        latest = 0 if place == source else lowest
        if least is not None:
            latest = max(latest, least[c][i])
        for tail, shift, lag in into[c]:
            if i >= shift:
                time = end[tail][i - shift] + lag
                if time > latest:
                    latest = time
        if extra and place in extra:
            for tail, j in extra[place]:
                latest = max(latest, end[tail][j])
        if near[c]:
            before = [
                (head[tail][i - s], graph.ticks[tail][i - s]) for tail, s in near[c] if i >= s
            ]
            latest = max(latest, _together(before))
        head[c][i] = latest
        end[c][i] = latest + path[c][i]
    return head


def tails(
    graph: PrecedenceGraph, rank: int | None = None, least: TickTable | None = None
) -> TickTable:
    """For every operation the longest chain after its end; to the end of the last operation of
    `rank` where that is given, and FAR where no chain leads there. No less than `least`."""
    path, out, extra = graph.path, graph.out, graph.extra_out
    counts = [op_class.size for op_class in graph.relaxed.classes]
    goal = [rank is None or op_class.rank == rank for op_class in graph.relaxed.classes]
    near = graph.near_after
    tail = [[0] * count for count in counts]
    whole = [[0] * count for count in counts]
    for place in reversed(graph.order):
        c, i = place
        longest = 0 if goal[c] else UNREACHED
        if least is not None:
            longest = max(longest, least[c][i])
        for head, shift, lag in out[c]:
            if i + shift < counts[head]:
                time = whole[head][i + shift] + lag
                if time > longest:
                    longest = time
        if extra and place in extra:
            for head, j in extra[place]:
                longest = max(longest, whole[head][j])
        if near[c]:
            after = [
                (tail[head][i + s], graph.ticks[head][i + s])
                for head, s in near[c]
                if i + s < counts[head]
            ]
            longest = max(longest, _together(after))
        tail[c][i] = longest
        whole[c][i] = longest + path[c][i]
    return tail


RankNeighbours = list[list[tuple[int, int]]]


def _near(
    relaxed: Relaxation, into: list[list[tuple[int, int, int]]]
) -> tuple[RankNeighbours, RankNeighbours]:
    """For every strand c those of its rank, with the least shift at which operations of c follow
    theirs along edges of the rank or within a micro-batch; and likewise those that follow c."""
    lower = ancestors(relaxed)
    before: RankNeighbours = [[] for _ in relaxed.classes]
    after: RankNeighbours = [[] for _ in relaxed.classes]
    for rank in range(relaxed.spec.ranks):
        own = relaxed.on(rank)
        least = {(a, b): 0 for a in own for b in own if a != b and lower[b] >> a & 1}
        for b in own:
            for a, shift, _ in into[b]:
                if relaxed.classes[a].rank == rank:
                    least[a, b] = min(shift, least.get((a, b), shift))
        for via in own:
            for a in own:
                for b in own:
                    if (a, via) in least and (via, b) in least:
                        shift = least[a, via] + least[via, b]
                        least[a, b] = min(shift, least.get((a, b), shift))
        for (a, b), shift in least.items():
            before[b].append((a, shift))
            after[a].append((b, shift))
    return [near if len(near) > 1 else [] for near in before], [
        near if len(near) > 1 else [] for near in after
    ]


def _together(jobs: list[tuple[int, int]]) -> int:
    """The least time by which all of these (head, ticks) of one rank can have ended, of those that
    are connected; FAR where none is."""
    jobs.sort(reverse=True)
    found, total = UNREACHED, 0
    for head, ticks in jobs:
        if head < 0:
            break
        total += ticks
        if head + total > found:
            found = head + total
    return found


def longest(graph: PrecedenceGraph) -> tuple[OpKey, OpKey]:
    """The first and the last operation of a longest chain."""
    head, tail, path = heads(graph), tails(graph), graph.path
    whole = {(c, i): head[c][i] + path[c][i] + tail[c][i] for c, i in graph.order}
    value = max(whole.values())
    on = [place for place, ticks in whole.items() if ticks == value]
    first = min(on, key=lambda place: head[place[0]][place[1]])
    last = min(on, key=lambda place: tail[place[0]][place[1]])
    return first, last
