"""Order → when each of its units starts at the earliest, were messages under way the moment their
results are made; and all units in one sequence."""

from msgspec import Struct

from stretto.compiler.order import Order
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import NONE, Costs


class Earliest(Struct, frozen=True):
    """`start[l][k]` and `end[l][k]`: ticks of the k-th unit of lane l. `place[l][k]`: its place in
    one sequence of all units, by start, in which each comes after whatever it waits for; so along
    a lane places grow. `lane[i]` and `index[i]`: where operation i stands, -1 where it does not."""

    start: list[list[int]]
    end: list[list[int]]
    place: list[list[int]]
    lane: list[int]
    index: list[int]


def earliest(order: Order) -> Earliest:
    """Longest paths over the order's units. Edges from operations that the Order leaves out, as
    that of an `eval` Program does, count for nothing."""
    unit_of, ticks, first = _units(order)
    heads, out, waits = _edges(order.problem, unit_of, first)
    lag = order.problem.lag
    start = [0] * len(ticks)
    # As `topological` would list them; those behind a unit are looked at once, for both.
    sequence = [u for u, many in enumerate(waits) if not many]
    for u in sequence:  # grows while it is read
        end = start[u] + ticks[u]
        v = u + 1
        if not first[v]:  # the next one on its lane
            if end > start[v]:
                start[v] = end
            waits[v] -= 1
            if not waits[v]:
                sequence.append(v)
        for edge in out[u]:
            v = heads[edge]
            usable = end + lag[edge]
            if usable > start[v]:
                start[v] = usable
            waits[v] -= 1
            if not waits[v]:
                sequence.append(v)
    if len(sequence) < len(ticks):
        raise ValueError("this order can never finish; whoever made it had to see to that")
    sequence.sort(key=start.__getitem__)  # keeps the sequence of those that start together
    place = [0] * len(ticks)
    for k, u in enumerate(sequence):
        place[u] = k
    return _by_lane(order, start, ticks, place)


def _units(order: Order) -> tuple[list[int], list[int], bytearray]:
    """All units are numbered, lane by lane: that of each operation, -1 where it is in none; the
    ticks of each; and which are the first of their lane, as is whatever would follow the last."""
    operations, duration = order.problem.operations, order.problem.duration
    costs = Costs(order.problem.spec)
    unit_of = [NONE] * len(operations)
    ticks: list[int] = []
    first = bytearray(sum([len(lane.units) for lane in order.lanes]) + 1)
    for lane in order.lanes:
        first[len(ticks)] = 1
        for number, unit in enumerate(lane.units, len(ticks)):
            for i in unit:
                unit_of[i] = number
            if len(unit) == 1:
                ticks.append(duration[unit[0]])
            else:
                ticks.append(costs.unit(tuple([operations[i] for i in unit])))
    first[-1] = 1
    return unit_of, ticks, first


def _edges(
    problem: Problem, unit_of: list[int], first: bytearray
) -> tuple[list[int], list[tuple[int, ...]], list[int]]:
    """Of each edge of the Problem the unit that it leads to; of each unit the edges that leave it,
    and how many lead to it with that of its lane. The lanes have what was ordered."""
    heads = [unit_of[i] for i in problem.head]
    out: list[tuple[int, ...]] = [()] * (len(first) - 1)
    waits = [1 - is_first for is_first in first]
    del waits[-1]
    ordered = EdgeKind.ORDER
    for edge, (a, v, why) in enumerate(zip(problem.tail, heads, problem.why, strict=True)):
        if v >= 0 and why < ordered:
            u = unit_of[a]
            if u >= 0:
                out[u] += (edge,)
                waits[v] += 1
    return heads, out, waits


def _by_lane(order: Order, start: list[int], ticks: list[int], place: list[int]) -> Earliest:
    many = len(order.problem.operations)
    found = Earliest([], [], [], [NONE] * many, [NONE] * many)
    first = 0
    for lane, row in enumerate(order.lanes):
        own = slice(first, first + len(row.units))
        first += len(row.units)
        found.start.append(start[own])
        found.end.append([s + t for s, t in zip(start[own], ticks[own], strict=True)])
        found.place.append(place[own])
        for k, unit in enumerate(row.units):
            for i in unit:
                found.lane[i], found.index[i] = lane, k
    return found
