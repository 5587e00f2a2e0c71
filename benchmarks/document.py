"""Measured parts of documents. Such a part stands between `<!-- NAME -->` and
`<!-- end of NAME -->`, and only the command that measured it writes it."""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from time import process_time


def write(path: Path, name: str, lines: Iterable[str]) -> None:
    """Put the lines between the marks, or make the file of them where there is none. Raises
    `ValueError` for a document without these marks."""
    if path.exists():
        path.write_text(put(path.read_text("utf-8"), name, lines), "utf-8")
    else:
        path.write_text("\n".join(lines) + "\n", "utf-8")


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """The text with the lines between its marks. Raises `ValueError` where it has none."""
    before, begin, rest = text.partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not end:
        raise ValueError(f"the document has no place for {name!r}: it needs the marks of one")
    part = "\n".join(lines).strip("\n")
    return f"{before}{begin}\n\n{part}\n\n{end}{after}"


def at_most(part: Fraction, digits: int = 1) -> str:
    """A part of 1 in percent, rounded up: what is said not to be exceeded."""
    return f"{ceil(part * 10 ** (digits + 2)) / 10**digits:.{digits}f}%"


def at_least(part: Fraction, digits: int = 1) -> str:
    """A part of 1 in percent, rounded down: what is said to be gained, or not to be undercut."""
    return f"{floor(part * 10 ** (digits + 2)) / 10**digits:.{digits}f}%"


def speed() -> str:
    """How fast the machine is now, for figures in microseconds: a sum that anybody can repeat."""
    took = []
    for _ in range(3):
        begun, total = process_time(), 0
        for number in range(10**7):
            total += number
        took.append(process_time() - begun)
    return f"there, Python adds up ten million numbers one by one in {min(took):.2f} s"


def row(cells: Iterable[object]) -> str:
    """One line of a table."""
    return f"| {' | '.join(map(str, cells))} |"
