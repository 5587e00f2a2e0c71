"""Order → when each of its units starts at the earliest, were messages under way the moment their
results are made; and all units in one sequence."""

from dataclasses import dataclass

from stretto.compiler.order import Order
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import NONE, Costs
from stretto.compiler.problem.topological import topological


@dataclass(frozen=True, slots=True)
class Earliest:
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
    problem = order.problem
    operations, costs = problem.operations, Costs(problem.spec)
    units = [(lane, unit) for lane, row in enumerate(order.lanes) for unit in row.units]
    unit_of = [NONE] * len(operations)
    ticks = []
    for number, (_, unit) in enumerate(units):
        for i in unit:
            unit_of[i] = number
        ticks.append(
            problem.duration[unit[0]]
            if len(unit) == 1
            else costs.unit(tuple(operations[i] for i in unit))
        )
    heads: list[list[int]] = [[] for _ in units]
    lags: list[list[int]] = [[] for _ in units]
    waits = [0] * len(units)
    for number in range(1, len(units)):
        if units[number - 1][0] == units[number][0]:
            heads[number - 1].append(number)
            lags[number - 1].append(0)
            waits[number] = 1
    ordered = EdgeKind.ORDER
    for a, b, lag, why in zip(problem.tail, problem.head, problem.lag, problem.why, strict=True):
        if why >= ordered:
            continue  # the lanes have them
        u, v = unit_of[a], unit_of[b]
        if u >= 0 and v >= 0:
            heads[u].append(v)
            lags[u].append(lag)
            waits[v] += 1
    start = [0] * len(units)
    sequence = topological(heads, waits)
    for u in sequence:
        end = start[u] + ticks[u]
        for v, lag in zip(heads[u], lags[u], strict=True):
            if end + lag > start[v]:
                start[v] = end + lag
    if len(sequence) < len(units):
        raise ValueError("this order can never finish; whoever made it had to see to that")
    sequence.sort(key=start.__getitem__)  # keeps the sequence of those that start together
    place = [0] * len(units)
    for k, u in enumerate(sequence):
        place[u] = k
    return _by_lane(order, start, ticks, place)


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
