"""Tables whose cells are words of another system, such as `3BW0` → `ImportedTable`. Every such
system's reader is a pattern for a word and a function that says what it means; the rest is here: a
row for each rank, cells separated by commas, `+` between what runs as one overlapped unit.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.imports.cells import LONGEST, TableCell, cells, lines
from stretto.compiler.imports.table import ImportedTable, TableAction, too_large

MOST_FAULTS = 100  # that are told; the others are counted


class Meaning(NamedTuple):
    """What a word means: computations of a stage and a micro-batch (`BW` may be two), each as our
    letter; none, where it is no computation (a message, say)."""

    words: tuple[str, ...]
    stage: int = 0
    microbatch: int = 0
    pipeline: int = 0


Understand = Callable[[re.Match[str], int, int], Meaning | None]
"""From the match of a word, the rank of its row and the number of rows to what it means; None where
it means nothing."""


class Dialect(NamedTuple):
    """How the words of a system are read, and an example for who is to correct one."""

    pattern: re.Pattern[str]
    understand: Understand
    example: str
    pipelines: tuple[str, ...] = ("main",)


def read_words(source: Source, most: int, dialect: Dialect) -> ImportedTable:
    """The table of the text. Raises `Rejected` (`too-large`) where it has more than so many filled
    cells."""
    text = source.text.removeprefix("\ufeff")
    if text != source.text:
        text = " " + text
    rows = lines(Source(source.name, text))
    reader = _Words(source, most, dialect, len(rows))
    actions = tuple(tuple(reader.row(row, rank)) for rank, row in enumerate(rows))
    return ImportedTable(
        source,
        actions,
        tuple(range(1, len(rows) + 1)),
        tuple(reader.faults),
        pipelines=dialect.pipelines,
        passed_over=tuple(reader.passed_over),
        more_faults=reader.more,
    )


class _Words:
    """Goes through the rows; collects faults."""

    def __init__(self, source: Source, most: int, dialect: Dialect, ranks: int):
        self.source, self.most, self.dialect, self.ranks = source, most, dialect, ranks
        self.room, self.more = most, 0
        self.faults: list[Diagnostic] = []
        self.passed_over: list[Span] = []

    def row(self, row: str, rank: int) -> Iterator[TableAction]:
        """The actions of a row."""
        for number, cell in enumerate(cells(row, rank + 1)):
            self.room -= 1
            if self.room < 0:
                raise too_large(f"more than {self.most:,}", self.most)
            for word in self.split(cell):
                yield from self.word(word, rank, number)

    def split(self, cell: TableCell) -> Iterable[TableCell]:
        """The words of a cell."""
        if "+" not in cell.text or len(cell.text) > LONGEST:
            return (cell,)
        found, at = [], cell.column
        for part in cell.text.split("+"):
            column = at + len(part) - len(part.lstrip())
            bare = part.strip()
            found.append(TableCell(bare, cell.line, column, column + len(bare)))
            at += len(part) + 1
        return found

    def word(self, cell: TableCell, rank: int, number: int) -> Iterator[TableAction]:
        """What one word says."""
        match = self.dialect.pattern.fullmatch(cell.text) if len(cell.text) <= LONGEST else None
        meaning = match and self.dialect.understand(match, rank, self.ranks)
        if meaning is None:
            self.refuse(cell)
            return
        if not meaning.words:
            self.passed_over.append(self.place(cell))
        _, stage, microbatch, pipeline = meaning
        for word in meaning.words:
            yield TableAction(
                word, stage, microbatch, cell.line, cell.column, cell.end, number, pipeline
            )

    def refuse(self, cell: TableCell) -> None:
        if len(self.faults) >= MOST_FAULTS:
            self.more += 1
            return
        short = cell.text if len(cell.text) <= LONGEST else f"{cell.text[: LONGEST // 2]}…"
        what = f"`{short}` says nothing that is known"
        help = f"a cell is such as {self.dialect.example}"
        self.faults.append(Diagnostic("unknown-cell", what, (Label(self.place(cell)),), help=help))

    def place(self, cell: TableCell) -> Span:
        """Where the cell stands."""
        return Span(self.source.name, cell.line, cell.column, cell.line, cell.end)
