"""Waits → the critical chain: from the start of the step to the operation that ends last, each link
held up by the one before it. Between two links lies no time but a message's on its way, so that
the chain is as long as what it explains.
"""

from fractions import Fraction

from msgspec import Struct

from stretto.compiler.analysis.dependencies import Place, Waits, name
from stretto.compiler.analysis.idle import late


class Link(Struct, frozen=True):
    """One operation of the critical chain, and why it did not start earlier."""

    operation: str
    rank: int
    start: int
    end: int
    line: int | None
    why: str


def chain(known: Waits, rank: int) -> tuple[Link, ...]:
    """The chain that ends with the last operation of `rank`, first link first."""
    here: Place | None = (rank, len(known.units[rank]) - 1) if known.units[rank] else None
    found: list[Link] = []
    while here is not None:
        r, at = here
        unit = known.units[r][at]
        here, why = _held_up(known, r, at)
        found.append(Link(known.named(unit), r, unit.start, unit.end, known.line(unit), why))
    return tuple(found[::-1])


def _held_up(known: Waits, rank: int, at: int) -> tuple[Place | None, str]:
    """What a unit came right after, and in words."""
    unit = known.units[rank][at]
    for timed in unit.operations:
        for other, lag in known.needs(timed.operation):
            if known.end[other] + lag == unit.start and known.place[other] != (rank, at):
                source, what = known.rank(other), name(known.spec, other)
                if source == rank:
                    return known.place[other], f"needs {what}"
                return known.place[other], f"needs {what} from rank {source}{_way(known, lag)}"
    if at and known.units[rank][at - 1].end == unit.start:
        return (rank, at - 1), f"comes after {known.named(known.units[rank][at - 1])}"
    if unit.start == 0:
        return None, "starts the step"
    return _passage(known, rank, at)


def _passage(known: Waits, rank: int, at: int) -> tuple[Place | None, str]:
    """The unit after which the message was sent or its receive posted, whichever was later."""
    passage = late(known, rank, at)
    if passage is None:
        return None, "waits for a channel"
    what, lag = name(known.spec, passage.result), known.lag.get(passage[1:3], 0)
    for after, words in (
        (passage.posted, f"waits until rank {passage.target} has taken {what}, after"),
        (passage.sent, f"waits until rank {passage.source} has sent {what}, after"),
    ):
        if after is not None:
            unit = known.units[after[0]][after[1]]
            if unit.end + lag == passage.arrived:
                return after, f"{words} {known.named(unit)}{_way(known, lag)}"
    return None, f"waits for {what}{_way(known, lag)}"


def _way(known: Waits, lag: int) -> str:
    return f", {Fraction(lag, known.spec.time_unit)} on the way" if lag else ""
