"""Times and sizes as people read them: decimals of at most six figures, sizes in the unit in which
the schedule writes them. JSON has exact numbers (`spec.number`) instead. What is claimed as a
bound is rounded to the side on which the claim stays true.
"""

from collections.abc import Callable
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_CEILING,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
)
from fractions import Fraction
from math import ceil, floor
from typing import Literal

from stretto.compiler.problem.spec import Spec
from stretto.compiler.units import UNITS

SMALLEST = Fraction(1, 100)  # of a unit: less is told in the next smaller one
MILLION = 1_000_000
FIGURES = 6

Toward = Literal["nearest", "up", "down"]
"""To which side a number is rounded: up where it is claimed that something is at most so much, down
where at least."""

WHOLE: dict[Toward, Callable[[Fraction], int]] = {"nearest": round, "up": ceil, "down": floor}
ROUNDING = {"nearest": ROUND_HALF_EVEN, "up": ROUND_CEILING, "down": ROUND_FLOOR}


def figure(value: Fraction | int | str, toward: Toward = "nearest") -> str:
    """The number, which may be the text of one: a whole one as it is, another as a decimal of at
    most six figures, or where it has more before its point, of none behind."""
    exact = Fraction(value)
    if exact.denominator == 1:
        return str(exact.numerator)
    if abs(exact) >= MILLION:
        return str(WHOLE[toward](exact))
    six = Context(FIGURES, ROUNDING[toward], MIN_EMIN, MAX_EMAX)
    return f"{float(six.divide(Decimal(exact.numerator), Decimal(exact.denominator))):.6g}"


def at_most(part: Fraction) -> str:
    """A part of 1 that is not exceeded, in tenths of a percent: `4.8 %` of 1/21."""
    tenths = ceil(1000 * part)
    return f"{tenths // 10}.{tenths % 10} %"


def time_figure(spec: Spec, ticks: int) -> str:
    """Ticks, as the schedule counts time."""
    return figure(Fraction(ticks, spec.time_unit))


def size_figure(spec: Spec, grains: int, toward: Toward = "nearest") -> str:
    """Grains, as the schedule counts memory: `10 GiB` where it says so."""
    return size_in(spec.sizes_in, Fraction(grains, spec.size_unit), toward)


def size_in(unit: str, amount: Fraction | int | str, toward: Toward = "nearest") -> str:
    """An amount of memory in this unit, of which a very small one is told in a smaller one; where
    there is no unit, as a number."""
    exact = Fraction(amount)
    if not unit or not exact:
        return figure(exact, toward)
    units = [*UNITS][: [*UNITS].index(unit) + 1]
    known = [one for one in units if exact >= UNITS[one] * SMALLEST]
    if not known:
        return f"{figure(exact, toward)} {'byte' if exact == 1 else 'bytes'}"
    word = known[-1]
    return f"{figure(exact / UNITS[word], toward)} {word}"
