"""A text of comma-separated values → its cells, each with its line and columns. Blanks around a
cell and quotes that enclose it do not count. Linear, also in a line of a hundred million commas:
what stands between two commas is looked at only if it is not empty.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation.declarations import MOST_RANKS

FILLED = re.compile(r"[^,]+")
QUOTED = re.compile(r'"[^"]*"[^,]*|"[^\n]*|[^,]+')  # a comma within quotes is part of the cell
IDLE = re.compile(r"(?:^|,)([ \t]*)(?=,|$)")
LONGEST = 200  # characters of a cell that anything is made of


class TableCell(NamedTuple):
    """What stands between two commas: without blanks and quotes, "" where the cell is idle."""

    text: str
    line: int
    column: int
    end: int


def lines(source: Source) -> list[str]:
    """The rows of the text. The line break at its end begins none. Raises `Rejected`
    (`table-size`) where they are more than there may be ranks."""
    if (many := source.text.count("\n")) > MOST_RANKS:
        what = f"the table has {many:,} rows or more, and {MOST_RANKS:,} ranks are the most"
        raise Rejected([Diagnostic("table-size", what, help="a row for each rank")])
    rows = source.text.split("\n")
    if rows[-1] == "":
        rows.pop()
    return [row.removesuffix("\r") for row in rows]


def cells(row: str, line: int) -> Iterator[TableCell]:
    """The cells of a row that are not empty, from left to right."""
    pattern = QUOTED if '"' in row else FILLED
    for found in pattern.finditer(row):
        text = found[0]
        bare = text.strip()
        if not bare:
            continue
        column = found.start() + 1 + len(text) - len(text.lstrip())
        end = column + len(bare)
        if len(bare) > 1 and bare[0] == bare[-1] == '"':
            bare, column, end = bare[1:-1], column + 1, end - 1
        yield TableCell(bare.strip(), line, column, end)


def idle(row: str) -> int | None:
    """The column, from 1, of the first cell of a row that is empty; None where none is."""
    found = IDLE.search(row)
    return None if found is None else found.start(1) + 1
