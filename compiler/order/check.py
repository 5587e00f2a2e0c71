"""Order → what it comes to, by operations and edges alone: nothing here knows of op classes or
sequences, so that whatever an engine made is checked by something that it does not share."""

from stretto.compiler.order import Order
from stretto.compiler.order.check_parts import check_parts
from stretto.compiler.order.earliest_start import earliest
from stretto.compiler.order.kernels.instance import NO_LIMIT
from stretto.compiler.order.outcome import Outcome


def check(order: Order) -> Outcome:
    """Raises `ValueError` if an operation is not there exactly once on its own rank, if the order
    can never finish, does not keep to what was written, or breaks a memory limit."""
    problem = order.problem
    spec = problem.spec
    if spec.streams:
        return check_parts(order)
    seen = [0] * len(problem.operations)
    peaks = [0] * spec.ranks
    for lane in order.lanes:
        held = 0
        for unit in lane.units:
            for i in unit:
                seen[i] += 1
                if problem.rank[i] != lane.rank:
                    raise ValueError(f"operation {i} is not on its own rank")
                held += problem.alloc[i]
                peaks[lane.rank] = max(peaks[lane.rank], held)
            for i in unit:
                held -= problem.free[i]
    if any(many != 1 for many in seen):
        raise ValueError("some operation is not there exactly once")
    limits = [one.grains if one else NO_LIMIT for one in spec.limits] or [NO_LIMIT] * spec.ranks
    if any(peak > limit for peak, limit in zip(peaks, limits, strict=True)):
        raise ValueError("a memory limit is broken")
    times = earliest(order)
    _written(order)
    rows = [(s, e) for s, e in zip(times.start, times.end, strict=True) if s]
    return Outcome(
        makespan=max((e[-1] for _, e in rows), default=0),
        span=max((e[-1] - s[0] for s, e in rows), default=0),
        peaks=tuple(peaks),
    )


def _written(order: Order) -> None:
    """What the author wrote must still stand in his sequence, unit by unit: what he wrote alone has
    no partner."""
    index = {operation: i for i, operation in enumerate(order.problem.operations)}
    for lane in order.lanes:
        if lane.rank < len(order.problem.spec.written):
            place = {i: k for k, unit in enumerate(lane.units) for i in unit}
            last = -1
            for units in order.problem.spec.written[lane.rank]:
                at = {place[index[operation]] for operation in units.operations}
                if (
                    len(at) != 1
                    or min(at) <= last
                    or (len(lane.units[min(at)]) != len(units.operations))
                ):
                    raise ValueError(f"rank {lane.rank} does not keep to what was written")
                last = min(at)
