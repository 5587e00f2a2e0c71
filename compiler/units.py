"""The units in which sizes are written and told."""

from fractions import Fraction

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
"""How many bytes each is, from the smallest."""


class SizedValue(Fraction):
    """A value that was written with a unit, already multiplied out: `20GiB`."""

    unit = ""

    @classmethod
    def of(cls, value: Fraction, unit: str) -> "SizedValue":
        """The value with its unit."""
        made = cls(value)
        made.unit = unit
        return made
