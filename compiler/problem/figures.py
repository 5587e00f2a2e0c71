"""Times and sizes as people read them: decimals of at most six figures, sizes in the unit in which
the schedule writes them. JSON has exact numbers (`spec.number`) instead."""

from fractions import Fraction

from stretto.compiler.problem.spec import Spec

BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SMALLEST = Fraction(1, 100)  # of a unit: less is told in the next smaller one
MILLION = 1_000_000


def figure(value: Fraction | int | str) -> str:
    """The number, which may be the text of one: a whole one as it is, another as a decimal of at
    most six figures, or where it has more before its point, of none behind."""
    exact = Fraction(value)
    if exact.denominator == 1:
        return str(exact.numerator)
    return str(round(exact)) if abs(exact) >= MILLION else f"{float(exact):.6g}"


def time_figure(spec: Spec, ticks: int) -> str:
    """Ticks, as the schedule counts time."""
    return figure(Fraction(ticks, spec.time_unit))


def size_figure(spec: Spec, grains: int) -> str:
    """Grains, as the schedule counts memory: `10 GiB` where it says so."""
    return size_in(spec.sizes_in, Fraction(grains, spec.size_unit))


def size_in(unit: str, amount: Fraction | int | str) -> str:
    """An amount of memory in this unit, of which a very small one is told in a smaller one; where
    there is no unit, as a number."""
    exact = Fraction(amount)
    if not unit or not exact:
        return figure(exact)
    units = [*BYTES][: [*BYTES].index(unit) + 1]
    known = [one for one in units if exact >= BYTES[one] * SMALLEST]
    word = known[-1] if known else units[0]
    return f"{figure(exact / BYTES[word])} {word}"
