"""What orders of parts come to, by code of the tests alone: a clock of a few lines, and the best of
all orders of a few operations."""

from collections.abc import Sequence
from itertools import pairwise

from stretto.compiler.order import Order
from stretto.compiler.problem.problem import Problem


def planned(problem: Problem, lanes: Sequence[Sequence[int]]) -> list[int] | None:
    """When every operation starts: as soon as the one before it on its lane has ended, and what it
    needs. None where some never can. (Edges of written orders count as needs.)"""
    needs: list[list[tuple[int, int]]] = [[] for _ in problem.operations]
    for a, b, lag in zip(problem.tail, problem.head, problem.lag, strict=True):
        needs[b].append((a, lag))
    for row in lanes:
        for a, b in pairwise(row):
            needs[b].append((a, 0))
    start: dict[int, int] = {}
    while len(start) < len(needs):
        ready = [
            i for i, row in enumerate(needs) if i not in start and all(j in start for j, _ in row)
        ]
        if not ready:
            return None
        for i in ready:
            start[i] = max((start[j] + problem.duration[j] + lag for j, lag in needs[i]), default=0)
    return [start[i] for i in range(len(needs))]


def lanes_of(order: Order) -> list[list[int]]:
    """The operations of every lane."""
    return [[i for (i,) in lane.units] for lane in order.lanes]


def makespan(problem: Problem, lanes: Sequence[Sequence[int]]) -> int:
    """The end of the last operation. Raises `ValueError` where the lanes can never finish."""
    start = planned(problem, lanes)
    if start is None:
        raise ValueError("never finishes")
    return max(s + t for s, t in zip(start, problem.duration, strict=True))


def most_held(problem: Problem, start: Sequence[int], rank: int) -> int:
    """The most that the rank holds at any moment, where no operation that frees takes no time."""
    own = [h for h in problem.holdings if problem.rank[h.taken_by] == rank]
    ends = [max(start[i] + problem.duration[i] for i in h.freed_by) for h in own]
    return max(
        (
            sum(h.grains for h, e in zip(own, ends, strict=True) if start[h.taken_by] <= t < e)
            for t in {start[h.taken_by] for h in own}
        ),
        default=0,
    )


STEPS = 20_000
"""So many beginnings of orders are looked at, of an instance whose best order is asked for."""


class TooManyOrders(Exception):
    """The instance has more beginnings of orders than are looked at."""


def least_makespan(problem: Problem) -> int | None:
    """The least makespan of any order that keeps to the limits at its planned times, micro-batches
    in any sequence: depth first over all ways to let some lane run next what it can, by start. None
    where there is no order. Raises `TooManyOrders`."""
    spec, n = problem.spec, len(problem.operations)
    before: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    after: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for a, b, lag in zip(problem.tail, problem.head, problem.lag, strict=True):
        before[b].append((a, lag))
        after[a].append((b, lag))
    tail = [0] * n
    for i in reversed(problem.topological()):
        rest = max((lag + tail[j] for j, lag in after[i]), default=0)
        tail[i] = problem.duration[i] + rest
    lane = list(zip(problem.rank, problem.stream, strict=True))
    best = [1 << 60]
    seen: set[tuple[int, tuple[int, ...]]] = set()

    def fits(start: list[int]) -> bool:
        return not spec.limits or all(
            limit is None or most_held(problem, start, rank) <= limit.grains
            for rank, limit in enumerate(spec.limits)
        )

    own = [
        [h for h in problem.holdings if problem.rank[h.taken_by] == r] for r in range(spec.ranks)
    ]

    def stuck(i: int, done: int, start: list[int], at: int) -> bool:
        """Whether i takes more than there is room for, whatever comes: what runs later frees
        nothing before `at`, or at it, if it takes any time."""
        limit = spec.limits[problem.rank[i]] if spec.limits else None
        held = sum(
            h.grains
            for h in own[problem.rank[i]]
            if h.taken_by == i
            or (
                done >> h.taken_by & 1
                and any(
                    problem.duration[j]
                    and (not done >> j & 1 or start[j] + problem.duration[j] > at)
                    for j in h.freed_by
                )
            )
        )
        return limit is not None and held > limit.grains

    def go(done: int, start: list[int], free: dict[tuple[int, int], int], now: int) -> None:
        if done == (1 << n) - 1:
            ends = [s + t for s, t in zip(start, problem.duration, strict=True)]
            if max(ends) < best[0] and fits(start):
                best[0] = max(ends)
            return
        key = done, tuple(start)
        if key in seen:
            return
        seen.add(key)
        if len(seen) > STEPS:
            raise TooManyOrders
        for i in range(n):
            if done >> i & 1 or not all(done >> j & 1 for j, _ in before[i]):
                continue
            ready = [start[j] + problem.duration[j] + lag for j, lag in before[i]]
            at = max([free.get(lane[i], 0), *ready])
            if at < now or at + tail[i] >= best[0] or stuck(i, done, start, at):
                continue
            begun = start.copy()
            begun[i] = at
            go(done | 1 << i, begun, {**free, lane[i]: at + problem.duration[i]}, at)

    go(0, [0] * n, {}, 0)
    return None if best[0] == 1 << 60 else best[0]
