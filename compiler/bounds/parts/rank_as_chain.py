"""B12: a rank counts as if it had one stage, whichever of its stages a part is of.

Let all trained stages of a rank have the same chain of parts, with N micro-batches of all of them
together. For each kind and part (a *link*: F.att, I.mlp, W.mlp) call the m-th that starts on the
rank, of whichever stage, link₍ₘ₎, and let it count with the least ticks that one of it takes. Then

- link₍ₘ₎ starts no earlier than the m-th smallest head of the link, and after it has ended the end
  of the step is no nearer than the m-th largest of their tails;
- where every operation of link b has an edge from its own of link a, b₍ₘ₎ starts after a₍ₘ₎ has
  ended, and the lag with it; and link₍ₘ₎ after link₍ₘ₋₁₎ has ended;
- the first part of F₍ₘ₎ starts after Y₍ₘ₋ₖ₎ has ended, for every Y that helps to free memory and
  the least K with (K + 1) · held > L or K · held + own > L, where `held` is the least that a
  micro-batch of a stage holds from the first part of its F to the end of Y, and `own` the least
  that it takes with the first part of its F.

Proof. When b₍ₘ₎ starts, m of b have started, each after its own of a has ended: m of a have, the
last of which is no earlier than a₍ₘ₎. Two of one link run on one stream. When the m-th F starts, m
have started; were fewer than m − K of Y over, more than K micro-batches of stages would hold `held`
or more, and the new one `own`. The first is B8's. ∎

A link that follows p − 1 others of its rank is at least its m-th for m = p: so heads and tails of
single operations are raised in return, and others with them, round by round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.compiler.bounds.one_machine import JacksonJob
from stretto.compiler.bounds.parts.graph import PartsGraph
from stretto.compiler.problem.spec import Kind

RankLink = tuple[Kind, int]
"""A kind and a part."""


@dataclass(frozen=True, slots=True)
class RankChain:
    """One rank as one stage. `links` in the order in which a micro-batch runs them; by link its
    operations `own`, its `stream` and least `ticks`, and `needs`: links before it, with lags.
    `rooms`: links whose (m − K)-th must have ended before the m-th first part of F starts, with
    K."""

    links: list[RankLink]
    own: list[list[int]]
    stream: list[int]
    ticks: list[int]
    needs: list[list[tuple[int, int]]]
    rooms: list[tuple[int, int]]

    @property
    def many(self) -> int:
        """How many of each link."""
        return len(self.own[0])

    def heads(self, head: Sequence[int]) -> list[list[int]]:
        """By link and m the least start, from the heads of the operations."""
        rows = [sorted(head[i] for i in own) for own in self.own]
        for m in range(self.many):
            for k, ticks in enumerate(self.ticks):
                row = rows[k]
                if m:
                    row[m] = max(row[m], row[m - 1] + ticks)
                for j, lag in self.needs[k]:
                    row[m] = max(row[m], rows[j][m] + self.ticks[j] + lag)
                if not k:
                    for j, room in self.rooms:
                        if m >= room:
                            row[m] = max(row[m], rows[j][m - room] + self.ticks[j])
        return rows

    def tails(self, tail: Sequence[int]) -> list[list[int]]:
        """By link and m the least time after its end, from the tails of the operations."""
        rows = [sorted((tail[i] for i in own), reverse=True) for own in self.own]
        for m in reversed(range(self.many)):
            for k in reversed(range(len(self.links))):
                ticks, row = self.ticks[k], rows[k]
                if m + 1 < self.many:
                    row[m] = max(row[m], row[m + 1] + ticks)
                for j, room in self.rooms:
                    if j == k and m + room < self.many:
                        row[m] = max(row[m], rows[0][m + room] + self.ticks[0])
                for j, lag in self.needs[k]:
                    rows[j][m] = max(rows[j][m], lag + ticks + row[m])
        return rows


def rank_chains(graph: PartsGraph) -> list[RankChain]:
    """The ranks that can be counted so."""
    found = []
    for rank in range(graph.problem.spec.ranks):
        chain = _chain(graph, rank)
        if chain is not None:
            found.append(chain)
    return found


def _chain(graph: PartsGraph, rank: int) -> RankChain | None:
    problem = graph.problem
    spec, operations = problem.spec, problem.operations
    stages = [
        (p, s)
        for p, line in enumerate(spec.pipelines)
        for s, stage in enumerate(line.stages)
        if stage.rank == rank and not line.forward_only
    ]
    if len(stages) < 2 or len({spec.parts[p][s] for p, s in stages}) > 1:
        return None
    own: dict[RankLink, list[int]] = {}
    there = set(stages)
    for (r, _), row in graph.lanes.items():
        for i in row:
            o = operations[i]
            if r == rank and (o.pipeline, o.stage) in there:
                own.setdefault((o.kind, o.part), []).append(i)
    links = sorted(own, key=lambda link: _place(link, len(spec.parts[stages[0][0]][stages[0][1]])))
    number = {i: k for k, link in enumerate(links) for i in own[link]}
    rows = [own[link] for link in links]
    return RankChain(
        links,
        rows,
        [problem.stream[row[0]] for row in rows],
        [min(problem.duration[i] for i in row) for row in rows],
        [_needs(graph, row, number) for row in rows],
        _rooms(graph, rank, rows, number),
    )


def _place(link: RankLink, many: int) -> tuple[int, int]:
    kind, part = link
    return ("F", "I", "B", "W").index(kind), part if kind == "F" else many - part


def _needs(graph: PartsGraph, row: Sequence[int], number: dict[int, int]) -> list[tuple[int, int]]:
    """The links from which each of these operations has an edge from its own micro-batch and
    stage, with the least lag."""
    operations = graph.problem.operations
    least: dict[int, int] = {}
    seen: dict[int, int] = {}
    for i in row:
        mine: dict[int, int] = {}
        for j, lag in graph.before[i]:
            same = operations[j][1:4] == operations[i][1:4]
            if same and j in number and operations[j] != operations[i]:
                mine[number[j]] = max(lag, mine.get(number[j], 0))
        for k, lag in mine.items():
            seen[k] = seen.get(k, 0) + 1
            least[k] = min(lag, least.get(k, lag))
    return [(k, lag) for k, lag in least.items() if seen[k] == len(row)]


def _rooms(
    graph: PartsGraph, rank: int, rows: Sequence[Sequence[int]], number: dict[int, int]
) -> list[tuple[int, int]]:
    problem = graph.problem
    limit = problem.spec.limits[rank] if problem.spec.limits else None
    if limit is None:
        return []
    first = set(rows[0])
    own = dict.fromkeys(rows[0], 0)
    held: dict[tuple[int, int], int] = {}  # first part of F, link that helps to free
    for grains, taken_by, freed_by in problem.holdings:
        if taken_by not in first:
            continue
        own[taken_by] += grains
        for y in {number[i] for i in freed_by if i in number}:
            held[taken_by, y] = held.get((taken_by, y), 0) + grains
    found = []
    for y in {y for _, y in held}:
        least = min(held.get((i, y), 0) for i in first)
        if least:
            room = min(limit.grains // least, (limit.grains - min(own.values())) // least + 1)
            if room > 0:
                found.append((y, room))
    return found


def raise_heads(graph: PartsGraph, chain: RankChain, head: list[int], tail: list[int]) -> bool:
    """Raise, in place, what the chain says of its operations; whether anything changed."""
    changed = False
    for row, heads, tails in zip(chain.own, chain.heads(head), chain.tails(tail), strict=True):
        lines: dict[tuple[int, int], list[int]] = {}
        for i in row:
            o = graph.problem.operations[i]
            lines.setdefault((o.pipeline, o.stage), []).append(i)
        for own in lines.values():
            if not graph.alike[graph.problem.operations[own[0]].pipeline]:
                continue
            for k, i in enumerate(own):  # by micro-batch: k of its link come before it
                if heads[k] > head[i]:
                    head[i], changed = heads[k], True
                behind = len(own) - 1 - k
                if tails[len(row) - 1 - behind] > tail[i]:
                    tail[i], changed = tails[len(row) - 1 - behind], True
    return changed


def chain_jobs(
    chain: RankChain, head: Sequence[int], tail: Sequence[int], stream: int
) -> list[JacksonJob]:
    """The jobs of one stream, counted so: head, ticks, tail."""
    heads, tails = chain.heads(head), chain.tails(tail)
    return [
        (heads[k][m], chain.ticks[k], tails[k][m])
        for k in range(len(chain.links))
        if chain.stream[k] == stream
        for m in range(chain.many)
    ]
