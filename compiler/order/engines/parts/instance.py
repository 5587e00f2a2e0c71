"""Problem → `PartsInstance`: operations, streams, edges and memory, as the search of parts reads
them. A *lane* is one stream of one rank: lane = rank · streams + stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from stretto.compiler.bounds.parts.graph import alike_microbatches
from stretto.compiler.order import Order, RankOrder
from stretto.compiler.problem.problem import Holding, Problem
from stretto.compiler.problem.spec import NONE
from stretto.compiler.problem.topological import topological

Lanes = list[list[int]]
"""For every lane its operations in the order they run."""

UNLIMITED = 1 << 60
"""Grains: the limit of a rank that has none."""


@dataclass(frozen=True)
class PartsInstance:
    """By operation its `lane`, its `ticks`, `before` (the operations that it waits for, and so many
    ticks after the end of each), and its `kin`: parts that differ in nothing but their micro-batch
    have one number, and run by index, which loses nothing; -1 for a part that may pass its like.
    `holdings`: memory of ranks with a `limit` (grains, by rank)."""

    streams: int
    ranks: int
    lane: list[int]
    ticks: list[int]
    before: list[list[tuple[int, int]]]
    kin: list[int]
    holdings: list[Holding]
    limit: list[int]

    @property
    def size(self) -> int:
        """How many operations there are."""
        return len(self.lane)

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return self.ranks * self.streams

    def rank(self, i: int) -> int:
        """The rank that runs the operation."""
        return self.lane[i] // self.streams

    @cached_property
    def after(self) -> list[list[tuple[int, int]]]:
        """By operation those that wait for it, and the lag."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.lane]
        for i, row in enumerate(self.before):
            for j, lag in row:
                found[j].append((i, lag))
        return found

    @cached_property
    def one_lane(self) -> list[bool]:
        """By rank whether all that takes and frees its memory stands on one lane, so that the
        sequence of that lane alone says what is held."""
        seen: list[set[int]] = [set() for _ in range(self.ranks)]
        for _, taken_by, freed_by in self.holdings:
            seen[self.rank(taken_by)].update(self.lane[i] for i in (taken_by, *freed_by))
        return [len(lanes) <= 1 for lanes in seen]

    @cached_property
    def takers(self) -> frozenset[int]:
        """The operations that take memory of a rank with a limit."""
        return frozenset(holding.taken_by for holding in self.holdings)


def parts_instance(problem: Problem) -> PartsInstance:
    """What is searched of a Problem whose stages are cut into parts."""
    spec = problem.spec
    before: list[list[tuple[int, int]]] = [[] for _ in problem.operations]
    for a, b, lag in zip(problem.tail, problem.head, problem.lag, strict=True):
        before[b].append((a, lag))
    limit = [one.grains if one else UNLIMITED for one in spec.limits] or [UNLIMITED] * spec.ranks
    streams = len(spec.streams)
    return PartsInstance(
        streams=streams,
        ranks=spec.ranks,
        lane=[r * streams + c for r, c in zip(problem.rank, problem.stream, strict=True)],
        ticks=list(problem.duration),
        before=before,
        kin=_kin(problem),
        holdings=[h for h in problem.holdings if limit[problem.rank[h.taken_by]] < UNLIMITED],
        limit=limit,
    )


def _kin(problem: Problem) -> list[int]:
    alike = alike_microbatches(problem.spec)
    known: dict[tuple[str, int, int, int], int] = {}
    return [
        known.setdefault((o.kind, o.pipeline, o.stage, o.part), len(known))
        if alike[o.pipeline]
        else NONE
        for o in problem.operations
    ]


@dataclass(frozen=True, slots=True)
class PartsClock:
    """When each operation starts (ticks), were all lanes as early as they can; all operations by
    start, each behind what it waits for; the makespan, and the span of the rank occupied longest;
    and whether memory keeps to its limits then."""

    start: list[int]
    sequence: list[int]
    makespan: int
    span: int
    fits: bool


def clock(instance: PartsInstance, lanes: Sequence[Sequence[int]]) -> PartsClock | None:
    """Replay the lanes; None where they can never finish."""
    heads = [[i for i, _ in row] for row in instance.after]
    waits = [len(row) for row in instance.before]
    last: list[int] = [NONE] * instance.size
    for row in lanes:
        for a, b in pairwise(row):
            heads[a].append(b)
            waits[b] += 1
            last[b] = a
    sequence = topological(heads, waits)
    if len(sequence) < instance.size or sum(map(len, lanes)) != instance.size:
        return None
    start = [0] * instance.size
    for i in sequence:
        ready = [start[j] + instance.ticks[j] + lag for j, lag in instance.before[i]]
        if last[i] != NONE:
            ready.append(start[last[i]] + instance.ticks[last[i]])
        start[i] = max(ready, default=0)
    sequence.sort(key=start.__getitem__)
    end = [s + t for s, t in zip(start, instance.ticks, strict=True)]
    spans = [0]
    for rank in range(instance.ranks):
        own = [i for c in range(instance.streams) for i in lanes[rank * instance.streams + c]]
        if own:
            spans.append(max(end[i] for i in own) - min(start[i] for i in own))
    fits = _fits(instance, sequence, start, end)
    return PartsClock(start, sequence, max(end, default=0), max(spans), fits)


def _fits(
    instance: PartsInstance, sequence: Sequence[int], start: Sequence[int], end: Sequence[int]
) -> bool:
    """Whether no rank ever holds more than its limit. At one instant what is freed goes before
    what is taken, by operations of length 0 where these stand before it in the sequence."""
    place = [0] * instance.size
    for k, i in enumerate(sequence):
        place[i] = k
    moments: list[list[tuple[int, int, int]]] = [[] for _ in range(instance.ranks)]
    for grains, taken_by, freed_by in instance.holdings:
        last = max(freed_by, key=lambda i: (end[i], place[i] if not instance.ticks[i] else NONE))
        turn = NONE if instance.ticks[last] else 2 * place[last] + 1
        own = moments[instance.rank(taken_by)]
        own.append((end[last], turn, -grains))
        own.append((start[taken_by], 2 * place[taken_by], grains))
    for rank, row in enumerate(moments):
        held = 0
        for _, _, grains in sorted(row):
            held += grains
            if held > instance.limit[rank]:
                return False
    return True


def order_of_lanes(problem: Problem, instance: PartsInstance, lanes: Lanes, engine: str) -> Order:
    """The Order of these lanes: the list of every rank is by planned start."""
    timed = clock(instance, lanes)
    assert timed is not None, "only lanes that can finish are submitted"
    lists: list[list[int]] = [[] for _ in range(instance.ranks)]
    for i in timed.sequence:
        lists[instance.rank(i)].append(i)
    return Order(
        problem,
        tuple(
            RankOrder(*divmod(lane, instance.streams), tuple((i,) for i in row))
            for lane, row in enumerate(lanes)
        ),
        engine,
        lists=tuple(map(tuple, lists)),
    )
