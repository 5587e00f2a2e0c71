"""Round times for an axis."""

from collections.abc import Sequence
from fractions import Fraction

FEW = 3  # whole units: an axis of fewer has decimals
FINE = 1000  # ticks: as many, and one of them more or less is not seen


def marks(makespan: int, unit: int, most: int) -> Sequence[int]:
    """Ticks from 0 to the makespan, at a distance of 1, 2 or 5 times a power of ten units, such
    that there are at most `most` of them. Less than a unit apart, they are told from each other
    only where a unit is so many ticks."""
    distance = next(
        ticks
        for ticks in _distances(unit, -12 if makespan < FEW * unit else 0)
        if makespan // ticks < most and (ticks.denominator == 1 or ticks >= FINE)
    )
    return [round(k * distance) for k in range(int(makespan // distance) + 1)]


def _distances(unit: int, first: int) -> list[Fraction]:
    """Ticks, from the least power of ten on."""
    return [Fraction(10) ** power * n * unit for power in range(first, 20) for n in (1, 2, 5)]
