"""The pairs of written orders, as the Spec says them."""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from stretto.compiler.evaluation.costs.ticks import TickCosts
from stretto.compiler.evaluation.orders.run import WrittenOrder
from stretto.compiler.problem.spec import JoinedPair

if TYPE_CHECKING:  # most schedules have no parts
    from stretto.compiler.evaluation.orders.part_resolver import WrittenPair


def joined(
    written: Sequence[WrittenOrder], unit: int, ticks: TickCosts, streams: int
) -> tuple[JoinedPair, ...]:
    """Every pair of stages, and of lengths, once for each rank, in the order in which they are
    written first. `unit` is the scale of their lengths."""

    def scaled(amount: int) -> int:
        return ticks.time(Fraction(amount, unit))

    return tuple(
        JoinedPair(
            pair.rank,
            *pair.names,
            scaled(pair.interleaving.span),
            scaled(pair.interleaving.turns),
            tuple(scaled(load) for load in _loads(pair, streams)),
            tuple((o, *pair.parts[o][i]) for o, i in pair.interleaving.sequence),
        )
        for order in written
        for pair in order.pairs
    )


def _loads(pair: "WrittenPair", streams: int) -> list[int]:
    loads = [0] * streams
    for strand in pair.strands:
        for stream, ticks, _ in strand:
            loads[stream] += ticks
    return loads
