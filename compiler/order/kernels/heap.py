"""A binary heap of events (time, rank) in two arrays, the earliest first, of equals the lower rank:
what `heapq` does, without a tuple per event.
"""

from stretto.compiler.order.kernels.bundle import Ints
from stretto.compiler.order.kernels.jit import compiled


@compiled
def push(times: Ints, ranks: Ints, size: int, time: int, rank: int) -> None:
    """Add an event to a heap of `size` events; the arrays must have room for one more."""
    at = size
    while at > 0:
        above = (at - 1) // 2
        if times[above] < time or (times[above] == time and ranks[above] <= rank):
            break
        times[at], ranks[at] = times[above], ranks[above]
        at = above
    times[at], ranks[at] = time, rank


@compiled
def drop_first(times: Ints, ranks: Ints, size: int) -> None:
    """Take the first event out of a heap of `size` events, 1 or more."""
    last = size - 1
    time, rank, at = times[last], ranks[last], 0
    while 2 * at + 1 < last:
        below = 2 * at + 1
        other = below + 1
        if other < last and (
            times[other] < times[below]
            or (times[other] == times[below] and ranks[other] < ranks[below])
        ):
            below = other
        if time < times[below] or (time == times[below] and rank <= ranks[below]):
            break
        times[at], ranks[at] = times[below], ranks[below]
        at = below
    times[at], ranks[at] = time, rank
