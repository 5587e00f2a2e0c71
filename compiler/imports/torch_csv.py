"""PyTorch's CSV → `ImportedTable`, in both of its dialects: `compute_only`, computations alone, and
`compute_comms`, where messages, gathered weights and summed gradients stand too. As
`torch.distributed.pipelining.schedules` of torch 2.13 reads them, with one difference: torch looks
at the beginning of a cell only, so that `0F0;1F0` loads as `0F0` and `0FOO` as a forward of no
micro-batch; a cell that is not wholly understood is a fault here.
"""

import re
from collections.abc import Iterator

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.imports.cells import LONGEST, TableCell, cells, idle, lines
from stretto.compiler.imports.table import (
    COMPUTATIONS,
    ONCE,
    ImportedTable,
    PlacementWord,
    TableAction,
    too_large,
)
from stretto.compiler.problem.spec import NONE

WORDS = "F|I|B|W|UNSHARD|RESHARD|REDUCE_GRAD|SEND_F|RECV_F|SEND_B|RECV_B"
ACTION = re.compile(rf"([0-9]{{1,9}})({WORDS})([0-9]{{1,9}})?")
PAIR = re.compile(r"\(([^()]*)\)OVERLAP_F_B")
MOST = 100  # faults that are told; the others are counted
HELP = (
    "a cell is a stage, what is done and a micro-batch, such as `2F0`, or two of them as "
    "`(2F3;1B0)OVERLAP_F_B`"
)


def read(source: Source, most: int, placement: PlacementWord | None = None) -> ImportedTable:
    """The table of the text. What cannot be read is among its `faults`. Raises `Rejected`
    (`too-large`) where it has more than so many filled cells."""
    text, faults = source.text, []
    if text.startswith("\ufeff"):
        text = " " + text[1:]
        why = "the file begins with a byte order mark, which PyTorch takes for a part of its cell"
        faults.append(_fault(source, TableCell("", 1, 1, 2), why, "save the file without one"))
    reader = _Reader(Source(source.name, text), faults, most)
    rows = tuple(reader.row(row, n) for n, row in enumerate(lines(reader.source), start=1))
    if reader.communicates:
        for n, row in enumerate(lines(reader.source), start=1):
            column = idle(row)
            if column is not None and row.strip():
                why = "a cell is empty, which PyTorch's `compute_comms` does not allow"
                faults.append(_fault(source, TableCell("", n, column, column), why))
    return ImportedTable(
        source,
        rows,
        tuple(range(1, len(rows) + 1)),
        tuple(faults),
        communicates=reader.communicates,
        mixes=True,
        more_faults=reader.more,
    )


class _Reader:
    """Goes through the rows; collects faults."""

    def __init__(self, source: Source, faults: list[Diagnostic], most: int):
        self.most = self.room = most  # cells
        self.source, self.faults, self.communicates = source, faults, False
        self.more = 0  # faults that are not told

    def row(self, row: str, line: int) -> tuple[TableAction, ...]:
        found: list[TableAction] = []
        for number, cell in enumerate(cells(row, line)):
            found += self.cell(cell, number)
            self.room -= 1
            if self.room < 0:
                raise too_large(f"more than {self.most:,}", self.most)
        return tuple(found)

    def cell(self, cell: TableCell, number: int) -> Iterator[TableAction]:
        """What a cell says: one action, or the several of an overlapped unit."""
        if (one := ACTION.fullmatch(cell.text)) is not None:
            yield from self.action(one, cell, number)
        elif len(cell.text) <= LONGEST and (pair := PAIR.fullmatch(cell.text)) is not None:
            yield from self.pair(pair, cell, number)
        elif cell.text:
            self.refuse(cell, *_reason(cell.text))

    def action(self, one: re.Match[str], cell: TableCell, number: int) -> Iterator[TableAction]:
        stage, word, microbatch = one.groups()
        if (word in ONCE) != (microbatch is None):
            why = "has no micro-batch" if microbatch is None else "is of a stage, not a micro-batch"
            self.refuse(cell, f"`{cell.text}` {why}", HELP)
            return
        if word not in COMPUTATIONS:
            self.communicates = True
        batch = NONE if microbatch is None else int(microbatch)
        yield TableAction(word, int(stage), batch, cell.line, cell.column, cell.end, number)

    def pair(self, pair: re.Match[str], cell: TableCell, number: int) -> Iterator[TableAction]:
        at = pair.start(1)
        parts = pair[1].split(";")
        if len(parts) != 2:
            self.refuse(cell, f"`{cell.text}` is not two operations that overlap", HELP)
            return
        for part in parts:
            bare = part.strip()
            column = cell.column + at + len(part) - len(part.lstrip())
            inner = TableCell(bare, cell.line, column, column + len(bare))
            one = ACTION.fullmatch(bare)
            if one is None or one[2] not in COMPUTATIONS or one[3] is None:
                self.refuse(inner, f"`{bare}` is no computation, and a pair is of two", HELP)
            else:
                yield from self.action(one, inner, number)
            at += len(part) + 1

    def refuse(self, cell: TableCell, why: str, help: str | None = None) -> None:
        if len(self.faults) < MOST:
            self.faults.append(_fault(self.source, cell, why, help))
        else:
            self.more += 1


def _reason(text: str) -> tuple[str, str]:
    """Why a cell cannot be read, and what to write."""
    if text.startswith('"') or text.endswith('"'):
        why = "a quote is not closed in its cell: PyTorch reads on in the next rows"
        return why, "cells need no quotes"
    begun = ACTION.match(text[:LONGEST])
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if separator in text and begun is not None:
            return f"cells are separated by {name}, and PyTorch takes commas", "separate by commas"
    if "\r" in text:
        return "a carriage return stands in a cell: PyTorch begins a row there", HELP
    if begun is not None and begun.end():
        word = _short(text)
        return f"`{word}` is no action, and PyTorch reads it as `{begun[0]}`", HELP
    return f"`{_short(text)}` is no action", HELP


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…"


def _fault(source: Source, cell: TableCell, why: str, help: str | None = None) -> Diagnostic:
    span = Span(source.name, cell.line, cell.column, cell.line, cell.end)
    return Diagnostic("unknown-cell", why, (Label(span),), help=help)
