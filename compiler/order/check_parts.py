"""Order → what it comes to where stages are cut into parts: by operations, edges and holdings
alone, at the planned times, which are the earliest that its lanes allow."""

from collections.abc import Sequence

from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import earliest
from stretto.compiler.order.outcome import Outcome
from stretto.compiler.problem.problem import EdgeKind


def check_parts(order: Order) -> Outcome:
    """Raises `ValueError` if an operation is not there exactly once on its own stream of its own
    rank, if the order can never finish, if a rank's list is not its lanes merged with each part
    behind what it needs of the rank, if what was written does not keep its sequence, or if a memory
    limit is broken."""
    problem, spec = order.problem, order.problem.spec
    seen = [0] * len(problem.operations)
    for rank, stream, units in order.lanes:
        for unit in units:
            for i in unit:
                seen[i] += 1
            if len(unit) != 1 or (problem.rank[unit[0]], problem.stream[unit[0]]) != (rank, stream):
                raise ValueError(f"operation {unit} is not alone on its own stream")
    if any(many != 1 for many in seen):
        raise ValueError("some operation is not there exactly once")
    _lists(order)
    times = earliest(order)
    _written(order)
    start = [times.start[times.lane[i]][times.index[i]] for i in range(len(seen))]
    end = [times.end[times.lane[i]][times.index[i]] for i in range(len(seen))]
    peaks = _peaks(order, start, end)
    limits = spec.limits or (None,) * spec.ranks
    if any(limit and peak > limit.grains for peak, limit in zip(peaks, limits, strict=True)):
        raise ValueError("a memory limit is broken")
    spans = [max(end[i] for i in own) - min(start[i] for i in own) for own in order.lists if own]
    return Outcome(max(end, default=0), max(spans, default=0), peaks)


def _lists(order: Order) -> None:
    """Each rank's list is its lanes in one sequence, behind what each part needs of the rank."""
    problem = order.problem
    place = {i: k for own in order.lists for k, i in enumerate(own)}
    if len(place) != len(problem.operations) or len(order.lists) != problem.spec.ranks:
        raise ValueError("some operation is not in a list exactly once")
    for rank, stream, units in order.lanes:
        row = [i for (i,) in units]
        if [i for i in order.lists[rank] if problem.stream[i] == stream] != row:
            raise ValueError(f"the list of rank {rank} is not its lanes in one sequence")
    for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
        if why < EdgeKind.ORDER and problem.rank[a] == problem.rank[b] and place[a] > place[b]:
            raise ValueError(f"operation {b} stands before {a}, which it needs")


def _written(order: Order) -> None:
    """What the author wrote keeps its sequence on each stream."""
    problem = order.problem
    place = {i: k for own in order.lists for k, i in enumerate(own)}
    for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
        if why == EdgeKind.ORDER and place[a] > place[b]:
            raise ValueError("what was written does not keep its sequence")


def _peaks(order: Order, start: Sequence[int], end: Sequence[int]) -> tuple[int, ...]:
    """The most grains that each rank holds. At one instant what is freed goes before what is taken,
    by operations of length 0 in the list's sequence."""
    problem = order.problem
    place = {i: k for own in order.lists for k, i in enumerate(own)}
    moments: list[list[tuple[int, int, int]]] = [[] for _ in range(problem.spec.ranks)]
    for grains, taken_by, freed_by in problem.holdings:
        row = moments[problem.rank[taken_by]]
        row.append((start[taken_by], 2 * place[taken_by], grains))
        ends = [(end[i], 2 * place[i] + 1 if start[i] == end[i] else -1) for i in freed_by]
        row.append((*max(ends), -grains))
    found = []
    for row in moments:
        held = peak = 0
        for _, _, grains in sorted(row):
            held += grains
            peak = max(peak, held)
        found.append(peak)
    return tuple(found)
