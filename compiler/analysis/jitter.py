"""Program → what it takes on average where its Spec says `under jitter`: the clock run again with
every duration drawn anew, from its own less to its own plus that fraction, all alike likely.

The search compares orders over a few samples of its own, and takes the order that is best there;
these are others, so that the choice does not flatter what it chose. They depend on the operations
alone: of two orders of the same operations the same draws are compared.
"""

from math import sqrt
from random import Random
from statistics import fmean, stdev
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from stretto.compiler.problem.spec import (
    CostOverride,
    Costs,
    Operation,
    PairCostOverride,
    Spec,
    StageTicks,
    Transfer,
)
from stretto.compiler.program.program import Program
from stretto.compiler.program.timeline import time

WORK = 200_000  # operations that are timed in all, about a second
FEWEST, MOST = 12, 200  # samples
LARGEST = 100_000
"""Operations, beyond which nothing is worked out."""
FINE = 10_000
"""Ticks that the longest duration has at least, so that short ones can vary at all."""


Fixed = TypeVar("Fixed", Transfer, StageTicks)


class JitteredMean(Struct, frozen=True):
    """The mean of what is minimized, over so many `samples`, and its standard error: both in the
    units of the file."""

    value: float
    error: float
    samples: int


def mean_under_jitter(program: Program) -> JitteredMean | None:
    """None where the Spec says nothing of jitter, and of a step that is too large."""
    spec = program.spec
    if not spec.jitter[0]:
        return None
    units = [unit for rank in range(spec.ranks) for unit in program.operations(rank)]
    if not units or len(units) > LARGEST:
        return None
    many = max(FEWEST, min(MOST, WORK // len(units)))
    scale = -(-FINE // max(1, *(Costs(spec).unit(unit) for unit in units)))
    found = []
    for sample in range(many):
        timeline = time(replace(program, spec=_varied(spec, units, scale, sample)))
        ticks = timeline.span if spec.minimize == "span" else timeline.makespan
        found.append(ticks / (scale * spec.time_unit))
    return JitteredMean(fmean(found), stdev(found) / sqrt(many), many)


def _varied(spec: Spec, units: list[tuple[Operation, ...]], scale: int, sample: int) -> Spec:
    """The Spec with durations drawn anew, `scale` times as many ticks to everything."""
    costs, draw = Costs(spec), Random(sample).random
    fraction = spec.jitter[0] / spec.jitter[1]

    def drawn(ticks: int) -> int:
        return round(scale * ticks * (1 + fraction * (2 * draw() - 1)))

    alone = sorted(operation for unit in units for operation in unit)
    pairs = sorted(unit for unit in units if len(unit) == 2)
    return replace(
        spec,
        exceptions=tuple(CostOverride(one, drawn(costs.of(one))) for one in alone),
        exceptional_pairs=tuple(PairCostOverride(*pair, drawn(costs.unit(pair))) for pair in pairs),
        transfers=_scaled(spec.transfers, scale),
        reduce_gradients=_scaled(spec.reduce_gradients, scale),
        unshard_weights=_scaled(spec.unshard_weights, scale),
    )


def _scaled(fixed: tuple[Fixed, ...], scale: int) -> tuple[Fixed, ...]:
    """What does not vary."""
    return tuple(one._replace(ticks=scale * one.ticks) for one in fixed)
