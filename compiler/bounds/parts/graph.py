"""B0, B2 and B3 for parts: what may be added to the edges of a Problem without making its best
order worse, and the longest paths then.

B0 for parts. If the micro-batches of a pipeline are alike, some best order runs each part of each
stage in the order of the index. Proof. Call the i-th that starts of each part "micro-batch i".
Where every micro-batch has an edge from part a to part b, the i-th of b starts when i + 1 of b have
started, so i + 1 of a have ended, so the i-th of a has. Two of the same part run on one stream, so
the i-th to start is the i-th to end; durations are the same. What a micro-batch takes at the start
of one part and frees when several others have ended is held from the i-th start of the one to the
latest i-th end of the others: at any moment the number of those held is the number of starts less
the number of micro-batches all of whose ends have come, and the least of the numbers of ends, which
the new names give, is no less than the number of micro-batches that are in all of them. ∎
Hence each part of micro-batch i ends before that of i + 1 starts (B2).

B3 for parts. Let X be a part that takes memory and Y one that helps to free some, of one pipeline
on one rank with limit L, and let x ≼ y mean that edges within a micro-batch lead from x to y, or
x = y. Then X of i + K starts only after Y of i has ended, for the least K with (K + 1) · held > L
or K · held + own > L, where `held` is taken by some x ≼ X and freed only after some y ≽ Y has
ended, and `own` is taken by some x ≼ X and freed only after some y ≽ X has ended. Proof. Say Y of i
has not ended when X of i + K starts. Then, by B2, Y of none of i … i + K has ended, and X of all of
them has started: each holds `held`, and the last one `own`. ∎
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import Spec
from stretto.compiler.problem.topological import topological

PartEdge = tuple[int, int, int]
"""Operations of which the second starts so many ticks after the first has ended."""


class PartsFinding(NamedTuple):
    """A proven bound in ticks, and why, in the units of the file."""

    ticks: int
    reason: str


@dataclass(frozen=True)
class PartsGraph:
    """The operations of a Problem, by number, with `edges` that a best order has; `alike` says for
    which pipelines B0 holds, `kept` whether a part of an order was written (a complete one does not
    count)."""

    problem: Problem
    alike: list[bool]
    edges: list[PartEdge]

    @property
    def ticks(self) -> list[int]:
        """Ticks of each operation."""
        return self.problem.duration

    @cached_property
    def before(self) -> list[list[tuple[int, int]]]:
        """By operation those that it waits for, with the lag."""
        rows: list[list[tuple[int, int]]] = [[] for _ in self.ticks]
        for a, b, lag in self.edges:
            rows[b].append((a, lag))
        return rows

    @cached_property
    def after(self) -> list[list[tuple[int, int]]]:
        """By operation those that wait for it, with the lag."""
        rows: list[list[tuple[int, int]]] = [[] for _ in self.ticks]
        for a, b, lag in self.edges:
            rows[a].append((b, lag))
        return rows

    @cached_property
    def sequence(self) -> list[int]:
        """All operations, each behind those that it waits for; fewer where there is a circle."""
        heads = [[b for b, _ in row] for row in self.after]
        return topological(heads, [len(row) for row in self.before])

    def heads(self, least: Sequence[int] | None = None) -> list[int]:
        """Ticks before each operation can start, from what is known `least`."""
        head = list(least or [0] * len(self.ticks))
        for i in self.sequence:
            for j, lag in self.before[i]:
                head[i] = max(head[i], head[j] + self.ticks[j] + lag)
        return head

    def tails(self, least: Sequence[int] | None = None) -> list[int]:
        """Ticks after the end of each operation to the end of the step, from what is known
        `least`."""
        tail = list(least or [0] * len(self.ticks))
        for i in reversed(self.sequence):
            for j, lag in self.after[i]:
                tail[i] = max(tail[i], lag + self.ticks[j] + tail[j])
        return tail

    @cached_property
    def lanes(self) -> dict[tuple[int, int], list[int]]:
        """The operations of each rank and stream."""
        found: dict[tuple[int, int], list[int]] = {}
        for i, lane in enumerate(zip(self.problem.rank, self.problem.stream, strict=True)):
            found.setdefault(lane, []).append(i)
        return found


def parts_graph(problem: Problem) -> PartsGraph:
    """The graph with all edges that may be added; where these make a circle no order meets the
    limits, and they are left out."""
    fixed = not _complete(problem)
    alike = alike_microbatches(problem.spec, fixed)
    own = [
        (a, b, lag)
        for a, b, lag, why in zip(problem.tail, problem.head, problem.lag, problem.why, strict=True)
        if fixed or why != EdgeKind.ORDER
    ]
    graph = PartsGraph(problem, alike, own + _in_turn(problem, alike))
    graph = PartsGraph(problem, alike, graph.edges + memory_edges(graph))
    if len(graph.sequence) == len(problem.operations):
        return graph
    return PartsGraph(problem, [False] * len(alike), own)


def _complete(problem: Problem) -> bool:
    """Whether every rank's order was written: then the bound is over all orders."""
    many = sum(len(unit.operations) for row in problem.spec.written for unit in row)
    return many == len(problem.operations)


def alike_microbatches(spec: Spec, fixed: bool = True) -> list[bool]:
    """By pipeline whether its micro-batches are alike: no cost of a single one, no rule and, where
    written orders are `fixed`, no operation in one. Pipelines that feed each other stand or fall
    together."""
    job = list(range(len(spec.pipelines)))
    for p, line in enumerate(spec.pipelines):
        for feed in line.feeds:
            old, new = job[feed.pipeline], job[p]
            job = [new if one == old else one for one in job]
    named = [o for o, _ in spec.exceptions]
    named += [o for rule in spec.rules for o in (rule.later, rule.earlier)]
    if fixed:
        named += [o for row in spec.written for unit in row for o in unit.operations]
    unlike = {job[o.pipeline] for o in named}
    return [one not in unlike for one in job]


def _in_turn(problem: Problem, alike: Sequence[bool]) -> list[PartEdge]:
    """B2."""
    index = {operation: i for i, operation in enumerate(problem.operations)}
    found = []
    for o, i in index.items():
        if alike[o.pipeline] and o.microbatch:
            found.append((index[o._replace(microbatch=o.microbatch - 1)], i, 0))
    return found


# ---------------------------------------------------------------------------- memory


@dataclass(frozen=True, slots=True)
class MemoryPiece:
    """What micro-batch 0 leaves on a rank: grains, what takes them, and what must end to free
    them."""

    grains: int
    taken_by: int
    freed_by: tuple[int, ...]


def memory_edges(graph: PartsGraph) -> list[PartEdge]:
    """B3."""
    problem = graph.problem
    if not problem.spec.limits:
        return []
    upto = upto_of(graph)
    index = {operation: i for i, operation in enumerate(problem.operations)}
    pieces: dict[tuple[int, int], list[MemoryPiece]] = {}
    for grains, taken_by, freed_by in problem.holdings:
        o = problem.operations[taken_by]
        if graph.alike[o.pipeline] and not o.microbatch:
            key = problem.rank[taken_by], o.pipeline
            pieces.setdefault(key, []).append(MemoryPiece(grains, taken_by, freed_by))
    found: list[PartEdge] = []
    for (rank, p), own in pieces.items():
        limit = problem.spec.limits[rank]
        if limit is None:
            continue
        many = problem.spec.pipelines[p].microbatches
        for x in dict.fromkeys(piece.taken_by for piece in own):
            for y, distance in _distances(own, x, limit.grains, upto):
                later, earlier = problem.operations[x], problem.operations[y]
                for m in range(distance, many):
                    a = index[earlier._replace(microbatch=m - distance)]
                    found.append((a, index[later._replace(microbatch=m)], 0))
    return found


def _distances(
    own: Sequence[MemoryPiece], x: int, limit: int, upto: dict[int, int]
) -> list[tuple[int, int]]:
    """The operations Y of micro-batch 0 that X waits for, with their K, less those that others
    imply."""
    found: list[tuple[int, int]] = []
    ends = {y for piece in own for y in piece.freed_by}
    for y in sorted(ends, key=lambda y: -upto[y].bit_count()):
        taken = [one for one in own if _before(upto, one.taken_by, x)]
        held = sum(one.grains for one in taken if _frees(upto, y, one))
        new = sum(one.grains for one in taken if _frees(upto, x, one))
        if not held:
            continue
        distance = min(limit // held, (limit - new) // held + 1)
        implied = any(_before(upto, y, z) and d <= distance for z, d in found)
        if distance > 0 and not implied:
            found.append((y, distance))
    return found


def _before(upto: dict[int, int], a: int, b: int) -> bool:
    return bool(upto[b] >> a & 1)


def _frees(upto: dict[int, int], y: int, piece: MemoryPiece) -> bool:
    """Whether the piece is held as long as y has not ended."""
    return any(_before(upto, y, z) for z in piece.freed_by)


def upto_of(graph: PartsGraph) -> dict[int, int]:
    """By operation of micro-batch 0 those of micro-batch 0 that lead to it, and itself, as bits."""
    operations = graph.problem.operations
    first = [i for i in graph.sequence if not operations[i].microbatch]
    number = {i: 1 << i for i in first}
    for i in first:
        for j, _ in graph.before[i]:
            if j in number:
                number[i] |= number[j]
    return number
