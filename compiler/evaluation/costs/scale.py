"""`UnitScale`: from numbers in the file's own units to whole ticks or grains. What fits is exact;
what does not (the numbers that other programs print have 17 figures each) is rounded."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil, floor, lcm

from stretto.compiler.evaluation.costs.table import MOST, Exact

PRECISION = 40
"""Where values are rounded, the largest has so many binary digits in ticks (or grains)."""
FINEST = 62
"""A unit that is rounded to has 2 to the power of this many ticks at most: 64 bits hold it."""


def nearest(value: Exact) -> int:
    """The next whole number; of two that are as near the even one."""
    return round(value)


def up(value: Exact) -> int:
    """The next whole number above, or the value."""
    return ceil(value)


def down(value: Exact) -> int:
    """The next whole number below, or the value."""
    return floor(value)


class UnitScale:
    """How many ticks (or grains) there are to one unit of the file: the smallest number with which
    all `values` become whole, if the unit and every value in it are 2^53 at most. Else the values
    are `rounded`, and the unit is the smallest power of two in which the largest of them is at
    least 2^40: no value is off by more than that one divided by 2^40. Called with one of the values
    it gives its ticks (or grains). The `sums` of some of them are to be 2^53 at most too; what is
    `unused` is exact where all is, and no other value is rounded for its sake."""

    def __init__(
        self, values: Iterable[Exact], sums: Iterable[Exact] = (), unused: Iterable[Exact] = ()
    ):
        values, unused = tuple(values), tuple(unused)
        unit, largest = 1, Fraction(max(values, default=0))
        for value in (*values, *unused):
            if unit <= MOST:
                unit = lcm(unit, value.denominator)
        self.largest = max([largest, *map(Fraction, sums)])
        self.rounded = unit > MOST or max([self.largest, *unused]) * unit > MOST
        self.unit = _power_of_two(largest) if self.rounded else unit

    @property
    def trouble(self) -> tuple[str, str] | None:
        """Why the values cannot be had even rounded, as the end of a sentence about them, and what
        to do; None where they can."""
        if self.unit > 1 << FINEST:
            return "are fractions of too little: the largest is below 2^-22", "in a smaller unit"
        if self.largest * self.unit > MOST:
            return "add up to more than 2^53", "in a larger unit"
        return None

    def __call__(self, value: Exact, to: Callable[[Exact], int] = nearest) -> int:
        """The value in ticks (or grains). `to` says in which direction one is rounded that does
        not come out even."""
        return to(value * self.unit)

    def near(self, value: Exact, to: Callable[[Exact], int] = nearest) -> Exact:
        """The value as this scale has it, in the units of the file."""
        return Fraction(self(value, to), self.unit) if self.rounded else value


def _power_of_two(largest: Fraction) -> int:
    """The smallest, from 1 on, that makes so much at least 2^40."""
    power = 1
    while largest * power < 1 << PRECISION:
        power *= 2
    return power
