"""TimedProgram → the critical path: from the start of the step to the operation that ends last,
each link held up by the one before it. Between two links lies no time but a message's on its way,
so that the path is as long as what it explains.
"""

from msgspec import Struct

from stretto.compiler.analysis.dependencies import name
from stretto.compiler.analysis.idle import beside, last_awaited, last_message
from stretto.compiler.analysis.timed_program import TimedProgram
from stretto.compiler.analysis.units import UnitIndex, unit_line, unit_name
from stretto.compiler.problem.figures import time_figure


class Link(Struct, frozen=True):
    """One unit of the critical path, from `start` to `end` (ticks), the line that asks for it, and
    why it did not start earlier."""

    operation: str
    rank: int
    start: int
    end: int
    line: int | None
    why: str
    stream: int = 0


def critical_path(timed: TimedProgram, rank: int, end: int | None = None) -> tuple[Link, ...]:
    """The path that ends with the last operation of `rank`, or with its last one that has ended by
    tick `end`; first link first."""
    spec = timed.spec
    lasts = [
        (lane, sum(end is None or unit.end <= end for unit in timed.units[lane]) - 1)
        for lane in timed.lanes(rank)
    ]
    here: UnitIndex | None = max(
        [(lane, at) for lane, at in lasts if at >= 0],
        key=lambda index: timed.units[index[0]][index[1]].end,
        default=None,
    )
    found: list[Link] = []
    while here is not None:
        (r, stream), unit = timed.place(here[0]), timed.units[here[0]][here[1]]
        here, why = held_up_by(timed, *here)
        line = unit_line(spec, unit)
        found.append(Link(unit_name(spec, unit), r, unit.start, unit.end, line, why, stream))
    return tuple(found[::-1])


def held_up_by(timed: TimedProgram, lane: int, at: int) -> tuple[UnitIndex | None, str]:
    """What a unit came right after, and in words."""
    unit, known = timed.units[lane][at], timed.dependencies
    rank, _ = timed.place(lane)
    for operation in unit.names:
        for other, lag in known.needs(operation):
            if known.end[other] + lag == unit.start and timed.unit_of[other] != (lane, at):
                source, what = known.topology.rank(other), name(timed.spec, other)
                if source == rank:
                    return timed.unit_of[other], f"needs {what}{beside(timed, lane, other)}"
                why = f"needs {what} from rank {source}{_travel(timed, lag)}"
                return timed.unit_of[other], why
    if at and timed.units[lane][at - 1].end == unit.start:
        before = unit_name(timed.spec, timed.units[lane][at - 1])
        return (lane, at - 1), f"comes after {before}"
    if unit.start == 0:
        return None, "starts the step"
    awaited = last_awaited(timed, lane, at)
    if awaited is not None:
        what = name(timed.spec, awaited)
        return timed.unit_of[awaited], f"waits until {what}{beside(timed, lane, awaited)} has ended"
    return _message(timed, lane, at)


def _message(timed: TimedProgram, lane: int, at: int) -> tuple[UnitIndex | None, str]:
    """The unit after which the message was sent or its receive posted, whichever was later."""
    if timed.waits_for_weights(lane, at):
        return None, "waits for its weights"
    message = last_message(timed, lane, at)
    if message is None:
        return None, "waits for a channel"
    what = name(timed.spec, message.result)
    lag = timed.dependencies.topology.transfer(message.source, message.target)
    for after, words in (
        (message.posted, f"waits until rank {message.target} has taken {what}, after"),
        (message.sent, f"waits until rank {message.source} has sent {what}, after"),
    ):
        if after is not None:
            unit = timed.units[after[0]][after[1]]
            if unit.end + lag == message.arrived:
                return after, f"{words} {unit_name(timed.spec, unit)}{_travel(timed, lag)}"
    return None, f"waits for {what}{_travel(timed, lag)}"


def _travel(timed: TimedProgram, lag: int) -> str:
    """How long a message was on its way, in the units of the file; "" where it took no time."""
    return f", {time_figure(timed.spec, lag)} on the way" if lag else ""
