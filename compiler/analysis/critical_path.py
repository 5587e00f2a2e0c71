"""TimedProgram → the critical path: from the start of the step to the operation that ends last,
each link held up by the one before it. Between two links lies no time but a message's on its way,
so that the path is as long as what it explains.
"""

from fractions import Fraction

from msgspec import Struct

from stretto.compiler.analysis.dependencies import name
from stretto.compiler.analysis.idle import last_message
from stretto.compiler.analysis.timed_program import TimedProgram
from stretto.compiler.analysis.units import UnitIndex, unit_line, unit_name


class Link(Struct, frozen=True):
    """One unit of the critical path, from `start` to `end` (ticks), the line that asks for it, and
    why it did not start earlier."""

    operation: str
    rank: int
    start: int
    end: int
    line: int | None
    why: str


def critical_path(timed: TimedProgram, rank: int, end: int | None = None) -> tuple[Link, ...]:
    """The path that ends with the last operation of `rank`, or with its last one that has ended by
    tick `end`; first link first."""
    spec = timed.spec
    units = [unit for unit in timed.units[rank] if end is None or unit.end <= end]
    here: UnitIndex | None = (rank, len(units) - 1) if units else None
    found: list[Link] = []
    while here is not None:
        r, at = here
        unit = timed.units[r][at]
        here, why = held_up_by(timed, r, at)
        line = unit_line(spec, unit)
        found.append(Link(unit_name(spec, unit), r, unit.start, unit.end, line, why))
    return tuple(found[::-1])


def held_up_by(timed: TimedProgram, rank: int, at: int) -> tuple[UnitIndex | None, str]:
    """What a unit came right after, and in words."""
    unit, known = timed.units[rank][at], timed.dependencies
    for operation in unit.names:
        for other, lag in known.needs(operation):
            if known.end[other] + lag == unit.start and timed.unit_of[other] != (rank, at):
                source, what = known.topology.rank(other), name(timed.spec, other)
                if source == rank:
                    return timed.unit_of[other], f"needs {what}"
                why = f"needs {what} from rank {source}{_travel(timed, lag)}"
                return timed.unit_of[other], why
    if at and timed.units[rank][at - 1].end == unit.start:
        before = unit_name(timed.spec, timed.units[rank][at - 1])
        return (rank, at - 1), f"comes after {before}"
    if unit.start == 0:
        return None, "starts the step"
    return _message(timed, rank, at)


def _message(timed: TimedProgram, rank: int, at: int) -> tuple[UnitIndex | None, str]:
    """The unit after which the message was sent or its receive posted, whichever was later."""
    if timed.waits_for_weights(rank, at):
        return None, "waits for its weights"
    message = last_message(timed, rank, at)
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
    return f", {Fraction(lag, timed.spec.time_unit)} on the way" if lag else ""
