"""`UnitScale`: from exact numbers in the file's own units to whole ticks or grains."""

from collections.abc import Iterable
from math import lcm

from stretto.compiler.evaluation.costs.table import MOST, Exact


class UnitScale:
    """How many ticks (or grains) there are to one unit of the file: the smallest number with which
    all `values` become whole. Called with one of the values it gives its ticks (or grains)."""

    def __init__(self, values: Iterable[Exact]):
        self.unit = 1
        self.largest = 0
        for value in values:
            self.unit = lcm(self.unit, value.denominator)
            self.largest = max(self.largest, abs(value.numerator // value.denominator))
            if self.unit > MOST:
                break

    @property
    def fits(self) -> bool:
        """Whether every value is 2^53 at most in the new unit."""
        return self.unit <= MOST and self.largest * self.unit <= MOST

    @property
    def trouble(self) -> str:
        """Why it does not fit: the end of a sentence about the values."""
        if self.unit > MOST:
            return "are fractions whose common denominator is above 2^53"
        return f"lie too far apart: in units of 1/{self.unit}, which they need, one is above 2^53"

    def __call__(self, value: Exact) -> int:
        """The value in ticks (or grains)."""
        scaled = value * self.unit
        return scaled if isinstance(scaled, int) else scaled.numerator
