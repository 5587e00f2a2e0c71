"""Longest chains: how early and how late operations can be.

A `PrecedenceGraph` is a Relaxation with edges added to it: for every operation
its head, the least time before its start, and its tail, the least time after its end, are longest
paths. The longest path of all is a bound by itself (the critical path), and heads and tails carry
the others.

Sharpened where j follows several operations of its own rank: they run one after another, so for
any of them the head of j is at least their least head + the sum of their ticks (B1 for what is
before j), and likewise for tails. The latest of each op class are taken.

Op classes are walked one after the other, all of a class at once, where none follows another that
follows it; where some do, as memory makes them, micro-batch by micro-batch, as edges never lead to
an earlier one; where an author's order or rule does, by a topological order of the operations.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import add

from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.bounds.microbatch_order import ClassOrder, rank_order, sorted_classes
from stretto.compiler.bounds.relaxation import ClassEdge, OpKey, Relaxation, TickTable
from stretto.compiler.problem.topological import topological

UNREACHED = -(1 << 62)
"""The head or tail of an operation that no chain connects: less than any time."""


class Neighbours(Struct, frozen=True):
    """What comes right before operations, or right after. `edges[c]`: (class, step, lag) where
    micro-batch i of class c has micro-batch i + step of that class for a neighbour, `lag` ticks
    away. `single`: neighbours of single operations. `same_rank[c]`: the classes of its rank that c
    follows at all (or that follow it) with the least step, if they are several."""

    edges: list[list[tuple[int, int, int]]]
    single: dict[OpKey, list[OpKey]]
    same_rank: list[list[tuple[int, int]]]


class PrecedenceGraph(Struct, frozen=True):
    """`path`: ticks from the start of an operation to its result. `ticks`: how long it keeps others
    off its rank (`work`, or a share of it, see `overlap`). `before` has steps <= 0, `after` steps
    >= 0. `order`: all operations, each after what it follows. `classes`: the op classes, each after
    all others that its operations follow; None where there is no such order."""

    relaxed: Relaxation
    path: TickTable
    ticks: TickTable
    before: Neighbours
    after: Neighbours
    order: Sequence[OpKey]
    classes: list[int] | None = None


def precedence_graph(
    relaxed: Relaxation, path: TickTable, ticks: TickTable, edges: Iterable[ClassEdge]
) -> PrecedenceGraph | None:
    """The graph of the Relaxation with `edges` added; None where they make a circle (then no order
    meets what they follow from)."""
    into: list[list[tuple[int, int, int]]] = [[] for _ in relaxed.classes]
    out: list[list[tuple[int, int, int]]] = [[] for _ in relaxed.classes]
    for tail, head, lag, shift in [*relaxed.edges, *edges]:
        into[head].append((tail, -shift, lag))
        out[tail].append((head, shift, lag))
    before: dict[OpKey, list[OpKey]] = {}
    after: dict[OpKey, list[OpKey]] = {}
    for edge in relaxed.op_edges():
        before.setdefault(edge.head, []).append(edge.tail)
        after.setdefault(edge.tail, []).append(edge.head)
    sizes = [op_class.size for op_class in relaxed.classes]
    classes = sorted_classes(relaxed)
    if len(classes) < len(sizes):
        return None
    rows = [(c, i) for i in range(max(sizes, default=0)) for c in classes if i < sizes[c]]
    earlier, later = _same_rank(relaxed, into)
    graph = PrecedenceGraph(
        relaxed, path, ticks, Neighbours(into, before, earlier), Neighbours(out, after, later), rows
    )
    if not before:
        return replace(graph, classes=_class_by_class(graph.after))
    order = _sorted(graph)
    return replace(graph, order=order) if order else None


def _class_by_class(after: Neighbours) -> list[int] | None:
    """The op classes in an order in which operations follow those of classes before theirs, and of
    their own; None where there is none."""
    heads = [
        [other for other, _, _ in edges if other != c] + [other for other, _ in near if other != c]
        for c, (edges, near) in enumerate(zip(after.edges, after.same_rank, strict=True))
    ]
    waits = [0] * len(heads)
    for row in heads:
        for c in row:
            waits[c] += 1
    order = topological(heads, waits)
    return order if len(order) == len(heads) else None


def _sorted(graph: PrecedenceGraph) -> list[OpKey]:
    """All operations in a topological order; none where there is a circle."""
    sizes = [op_class.size for op_class in graph.relaxed.classes]
    number = {place: n for n, place in enumerate(graph.order)}
    after: list[list[int]] = []
    waits = [0] * len(graph.order)
    for c, i in graph.order:
        next_ = [(h, i + step) for h, step, _ in graph.after.edges[c] if i + step < sizes[h]]
        after.append([number[one] for one in next_ + graph.after.single.get((c, i), [])])
        for n in after[-1]:
            waits[n] += 1
    order = topological(after, waits)
    return [graph.order[n] for n in order] if len(order) == len(graph.order) else []


def heads(graph: PrecedenceGraph, least: TickTable | None = None) -> TickTable:
    """For every operation the longest chain before its start, at least `least`."""
    return _longest(graph, graph.before, _at_least(graph, least))


def tails(graph: PrecedenceGraph, least: TickTable | None = None) -> TickTable:
    """For every operation the longest chain after its end, at least `least`."""
    return _longest(graph, graph.after, _at_least(graph, least))


def heads_from(graph: PrecedenceGraph, source: OpKey) -> TickTable:
    """For every operation the longest chain from the start of `source` to its own; `UNREACHED`
    where none leads there."""
    known = [[UNREACHED] * op_class.size for op_class in graph.relaxed.classes]
    known[source[0]][source[1]] = 0
    return _longest(graph, graph.before, known)


def tails_to(graph: PrecedenceGraph, rank: int) -> TickTable:
    """For every operation the longest chain from its end to the end of the last operation of
    `rank`; `UNREACHED` where no chain leads there."""
    known = [
        [0 if op_class.rank == rank else UNREACHED] * op_class.size
        for op_class in graph.relaxed.classes
    ]
    return _longest(graph, graph.after, known)


def _at_least(graph: PrecedenceGraph, least: TickTable | None) -> TickTable:
    if least is None:
        return [[0] * op_class.size for op_class in graph.relaxed.classes]
    return [[max(0, ticks) for ticks in row] for row in least]


def _longest(graph: PrecedenceGraph, side: Neighbours, known: TickTable) -> TickTable:
    """Raises what is `known`, in place, to the longest chain over the neighbours on one side."""
    backwards = side is graph.after
    if graph.classes is not None:
        classes = graph.classes[::-1] if backwards else graph.classes
        whole: TickTable = [[] for _ in known]  # with the operation itself
        for c in classes:
            _longest_of_class(graph, side, c, known, whole)
    else:
        _by_operation(graph, side, reversed(graph.order) if backwards else graph.order, known)
    return known


def _longest_of_class(
    graph: PrecedenceGraph, side: Neighbours, c: int, known: TickTable, whole: TickTable
) -> None:
    """The same of one op class, where all that its operations have neighbours in is done: `known`,
    and with the operations themselves `whole`."""
    row, path, size = known[c], graph.path[c], len(known[c])
    own = [(step, lag) for other, step, lag in side.edges[c] if other == c]
    for other, step, lag in side.edges[c]:
        first, last = max(0, -step), min(size, len(whole[other]) - step)
        if other != c and first < last:
            ends = whole[other][first + step : last + step]
            if lag:
                ends = [end + lag for end in ends]
            row[first:last] = map(max, row[first:last], ends)
    beside = side.same_rank[c]
    if not own and not beside:
        whole[c] = list(map(add, row, path))
        return
    others = [_shifted(known[o], graph.ticks[o], step, size) for o, step in beside if o != c]
    near_others: Sequence[tuple[tuple[int, int], ...]] = [*zip(*others, strict=True)] or [()] * size
    near_own = [step for o, step in beside if o == c]
    ends, ticks = [0] * size, graph.ticks[c]
    whole[c] = ends
    for i in range(size - 1, -1, -1) if side is graph.after else range(size):
        longest = row[i]
        for step, lag in own:
            j = i + step
            if 0 <= j < size and ends[j] + lag > longest:
                longest = ends[j] + lag
        if beside:
            near = [*near_others[i]]
            for step in near_own:
                j = i + step
                if 0 <= j < size:
                    near.append((row[j], ticks[j]))
            ended = _one_by_one(near)
            if ended > longest:
                longest = ended
        row[i] = longest
        ends[i] = longest + path[i]


def _shifted(
    heads: Sequence[int], ticks: Sequence[int], step: int, size: int
) -> list[tuple[int, int]]:
    """Of a class the (head, ticks) of micro-batch i + step, for i from 0 to `size`; where there is
    none, one that nothing connects."""
    first, last = max(0, step), min(len(heads), size + step)
    if first >= last:
        return [_NONE] * size
    found = zip(heads[first:last], ticks[first:last], strict=True)
    return [*[_NONE] * (first - step), *found, *[_NONE] * (size + step - last)]


_NONE = (UNREACHED, 0)


def _by_operation(
    graph: PrecedenceGraph, side: Neighbours, order: Iterable[OpKey], known: TickTable
) -> None:
    """The same operation by operation. `order`: all of them, each after those on that side."""
    path, ticks, single = graph.path, graph.ticks, side.single
    sizes = [len(row) for row in known]
    whole = [[0] * size for size in sizes]  # with the operation itself
    ends = [[(whole[o], step, sizes[o], lag) for o, step, lag in row] for row in side.edges]
    beside = [[(known[o], ticks[o], step, sizes[o]) for o, step in row] for row in side.same_rank]
    for place in order:
        c, i = place
        row = known[c]
        longest = row[i]
        for end, step, size, lag in ends[c]:
            j = i + step
            if 0 <= j < size:
                time = end[j] + lag
                if time > longest:
                    longest = time
        if single and place in single:
            for other, j in single[place]:
                longest = max(longest, whole[other][j])
        if beside[c]:
            near = [
                (head[j], own[j])
                for head, own, step, size in beside[c]
                if 0 <= (j := i + step) < size
            ]
            longest = max(longest, _one_by_one(near))
        row[i] = longest
        whole[c][i] = longest + path[c][i]


def _one_by_one(jobs: list[tuple[int, int]]) -> int:
    """The least time by which all of these (head, ticks) of one rank can have ended, of those that
    are connected; `UNREACHED` where none is."""
    jobs.sort(reverse=True)
    found, total = UNREACHED, 0
    for head, ticks in jobs:
        if head < 0:
            break
        total += ticks
        end = head + total
        if end > found:
            found = end
    return found


SameRank = list[list[tuple[int, int]]]

CLOSURE, LOOKS = 8_000_000, 40_000_000
"""How many steps it may take to find what follows what on ranks, and how many operations may be
looked at that come before or after others of their rank. Beyond, single edges have to do."""


def _same_rank(
    relaxed: Relaxation, into: list[list[tuple[int, int, int]]]
) -> tuple[SameRank, SameRank]:
    """For every op class c those of its rank, with the least step, whose operations those of c
    follow along edges of the rank or within a micro-batch; and those whose operations follow. None
    where many share a rank: what they say of each other sharpens heads and tails, no more."""
    before: SameRank = [[] for _ in relaxed.classes]
    after: SameRank = [[] for _ in relaxed.classes]
    order = rank_order(relaxed) if _few(relaxed) else None
    if order is None:
        return before, after
    for rank in relaxed.ranks:
        for b, steps in _least_steps(relaxed, rank, into, order).items():
            for a, shift in steps.items():
                before[b].append((a, -shift))
                after[a].append((b, shift))
    return (
        [near if len(near) > 1 else [] for near in before],
        [near if len(near) > 1 else [] for near in after],
    )


def _few(relaxed: Relaxation) -> bool:
    """Whether so few op classes share ranks that all may be looked at for each."""
    many = [relaxed.on(rank) for rank in relaxed.ranks]
    looks = sum(len(own) * sum(relaxed.classes[c].size for c in own) for own in many)
    return looks <= LOOKS and sum(len(own) ** 3 for own in many) <= CLOSURE


def _least_steps(
    relaxed: Relaxation, rank: int, into: list[list[tuple[int, int, int]]], order: ClassOrder
) -> dict[int, dict[int, int]]:
    """For every op class b of the rank those of it that b follows at all, with the least step
    between the two: shortest paths by Floyd and Warshall over the pairs that are there, which are
    few where many pipelines share a rank and no order was written."""
    own = relaxed.on(rank)
    follows: dict[int, dict[int, int]] = {b: {} for b in own}
    followed: dict[int, dict[int, int]] = {a: {} for a in own}

    def shorten(a: int, b: int, shift: int) -> None:
        if shift < follows[b].get(a, shift + 1):
            follows[b][a] = followed[a][b] = shift

    for b in own:
        for place in _bits(order.before[b] & ~(1 << order.at[b])):
            shorten(own[place], b, 0)
        for a, step, _ in into[b]:
            if relaxed.classes[a].rank == rank:
                shorten(a, b, -step)
    for via in own:
        for a, first in list(follows[via].items()):
            for b, second in list(followed[via].items()):
                shorten(a, b, first + second)
    return follows


def _bits(number: int) -> Iterator[int]:
    """The places of the ones in a number, from the lowest."""
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low
