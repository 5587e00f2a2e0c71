"""Order → `RetimedOrder`: the same order, ready to be timed many times with other durations of its
units. As `order.earliest_start` times it, messages under way the moment their results are made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stretto.compiler.order import Order
from stretto.compiler.order.earliest_start import earliest
from stretto.compiler.order.outcome import Outcome
from stretto.compiler.problem.problem import EdgeKind
from stretto.compiler.problem.spec import NONE


@dataclass(frozen=True, slots=True)
class RetimedOrder:
    """`units` in the order of its lanes, one lane after another; `sequence`: each of them after
    all that it waits for; `waits[u]`: (unit, ticks after its end) that unit u waits for.
    `lanes`: the first and the last unit of every lane that has any."""

    sequence: list[int]
    waits: list[list[tuple[int, int]]]
    lanes: list[tuple[int, int]]

    @property
    def size(self) -> int:
        """Units and edges that one timing goes over."""
        return len(self.waits) + sum(map(len, self.waits))

    def times(self, ticks: Sequence[int], scale: int = 1) -> Outcome:
        """Makespan and span where the units take these ticks, `scale` of them to one of the
        Problem's."""
        start, end = [0] * len(ticks), [0] * len(ticks)
        for u in self.sequence:
            at = 0
            for v, lag in self.waits[u]:
                there = end[v] + lag * scale
                if there > at:
                    at = there
            start[u], end[u] = at, at + ticks[u]
        return Outcome(
            makespan=max((end[last] for _, last in self.lanes), default=0),
            span=max((end[last] - start[first] for first, last in self.lanes), default=0),
            peaks=(),
        )


def retimed_order(order: Order) -> RetimedOrder:
    """Raises `ValueError` where the order can never finish."""
    known = earliest(order)
    problem = order.problem
    unit_of = [NONE] * len(problem.operations)
    place = [at for row in known.place for at in row]
    waits: list[list[tuple[int, int]]] = []
    lanes = []
    for lane in order.lanes:
        first = len(waits)
        for unit in lane.units:
            for i in unit:
                unit_of[i] = len(waits)
            waits.append([(len(waits) - 1, 0)] if len(waits) > first else [])
        if len(waits) > first:
            lanes.append((first, len(waits) - 1))
    for a, b, lag, why in zip(problem.tail, problem.head, problem.lag, problem.why, strict=True):
        u, v = unit_of[a], unit_of[b]
        if why < EdgeKind.ORDER and u != v and NONE not in (u, v):
            waits[v].append((u, lag))
    sequence = sorted(range(len(waits)), key=place.__getitem__)
    return RetimedOrder(sequence, waits, lanes)
