"""Order and its planned times → in which sequence the units of each rank are issued: one list for
all streams of a rank, by start; what starts at once in the sequence of the order's list. Promised:
along the lists of all ranks together nothing stands before what it needs, so that one thread for
each rank could run them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise, repeat

from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import Earliest
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import NONE
from stretto.compiler.problem.topological import topological


class Issue(Struct, frozen=True):
    """`times` with places in one sequence of all units of the step, which the lists of all ranks
    follow; for every rank its units in this sequence, each as (lane, place on the lane). A rank
    that has one lane has that lane's sequence, and `ranks` is empty."""

    times: Earliest
    ranks: list[list[tuple[int, int]]]

    def units(self, rank: int) -> Iterable[tuple[int, int]]:
        """The rank's units, as in `ranks`."""
        if self.ranks:
            return self.ranks[rank]
        return zip(repeat(rank), range(len(self.times.start[rank])))


def issue(order: Order, times: Earliest) -> Issue:
    """Where the order has no lists, a rank has one lane and one sequence."""
    if not order.lists:
        return Issue(times, [])
    sequence = _sequence(order, times)
    place = [[0] * len(row) for row in times.start]
    ranks: list[list[tuple[int, int]]] = [[] for _ in order.lists]
    for number, i in enumerate(sequence):
        lane, k = times.lane[i], times.index[i]
        place[lane][k] = number
        ranks[order.problem.rank[i]].append((lane, k))
    return Issue(replace(times, place=place), ranks)


def _sequence(order: Order, times: Earliest) -> list[int]:
    """All operations by start. Those that start at once stand in the sequence of their rank's list,
    or, where that and what they need make a circle (all of length 0), by what they need alone."""
    problem = order.problem
    start = [0] * len(problem.operations)
    after: list[list[int]] = [[] for _ in problem.operations]
    there = [number != NONE for number in times.index]
    for i, is_there in enumerate(there):
        if is_there:
            start[i] = times.start[times.lane[i]][times.index[i]]
    for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
        if there[a] and there[b] and why < EdgeKind.ORDER and start[a] == start[b]:
            after[a].append(b)
    for lane in order.lanes:
        _chain(after, start, [i for unit in lane.units for i in unit])
    listed = [list(row) for row in after]
    for whole in order.lists:
        _chain(listed, start, sorted(whole, key=start.__getitem__))  # keeps the list's sequence
    for edges in (listed, after):
        waits = [0] * len(edges)
        for row in edges:
            for b in row:
                waits[b] += 1
        sequence = topological(edges, waits)
        if len(sequence) == len(edges):
            break
    return sorted([i for i in sequence if there[i]], key=start.__getitem__)


def _chain(after: list[list[int]], start: list[int], row: Sequence[int]) -> None:
    """An edge between neighbours that start at once."""
    for a, b in pairwise(row):
        if start[a] == start[b]:
            after[a].append(b)
