"""`ImportedTable`: what another system's table says, before anybody asks whether it is right.

A row is a rank, what it does stands in the row in the order it is done. `FORWARD`, … are our
letters of computations; the other words are those of PyTorch's `compute_comms` dialect.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label, Rejected
from stretto.compiler.diagnostics.source import Source, Span
from stretto.compiler.problem.spec import NONE

COMPUTATIONS = ("F", "B", "I", "W")
MESSAGES = ("SEND_F", "RECV_F", "SEND_B", "RECV_B")
ONCE = ("UNSHARD", "RESHARD", "REDUCE_GRAD")  # of a stage: they have no micro-batch

PlacementWord = Literal["loop", "v"]
"""Where stages are: `loop`, stage s on rank s % ranks; `v`, back and forth."""


class TableAction(NamedTuple):
    """One thing that a rank does: a word, a stage, a micro-batch (-1 where the word has none), and
    where in the table it stands: its line, and columns from 1 (`end` is one past the last).
    `cell` counts the cells of its row; what stands in one cell is meant to overlap. `pipeline` is
    an index into `ImportedTable.pipelines`."""

    word: str
    stage: int
    microbatch: int
    line: int
    column: int
    end: int
    cell: int
    pipeline: int = 0


@dataclass(frozen=True, slots=True)
class ImportedTable:
    """The rows of a text, and what no reader could make sense of in it (`faults`). `lines` has the
    line of every row; `communicates`: whether the table says what is sent and received. `mixes`:
    whether the system takes losses in the order in which the last stage runs its forwards, as
    PyTorch does. `pipelines` has more than one name where micro-batches enter at several ends;
    `backwards`: of those that run from the last rank to the first, the indices. `passed_over`: the
    cells that are known and no computation, of systems whose messages are not read. `more_faults`:
    how many cells mean nothing beside those with a fault of their own."""

    source: Source
    rows: tuple[tuple[TableAction, ...], ...]
    lines: tuple[int, ...]
    faults: tuple[Diagnostic, ...] = ()
    communicates: bool = False
    mixes: bool = False
    pipelines: tuple[str, ...] = ("main",)
    passed_over: tuple[Span, ...] = ()
    more_faults: int = 0

    def label(self, one: TableAction, text: str = "") -> Label:
        """The place of the action, with a text beside it."""
        return Label(self.span(one), text)

    def span(self, one: TableAction) -> Span:
        """The place of the action."""
        return Span(self.source.name, one.line, one.column, one.line, one.end)

    def row_end(self, rank: int, text: str = "") -> Label:
        """The place behind the last action of a row."""
        row = self.rows[rank]
        at = row[-1].end if row else 1
        return Label(Span(self.source.name, self.lines[rank], at, self.lines[rank], at), text)

    def name(self, one: TableAction) -> str:
        """`F main[0, 3]` of a computation, `SEND_F main[0, 3]` of a message, `REDUCE_GRAD of stage
        2` of what is done for a stage."""
        if one.microbatch == NONE:
            return f"{one.word} of stage {one.stage}"
        return f"{one.word} {self.pipelines[one.pipeline]}[{one.stage}, {one.microbatch}]"


MOST_FOUND = 2000  # findings after which a table is not looked at any further


def some(findings: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
    """The first `MOST_FOUND` of them: to find more in a table of a million wrong cells helps
    nobody."""
    for n, one in enumerate(findings):
        if n == MOST_FOUND:
            words = f"there are more than {MOST_FOUND} findings: mend these first"
            yield Diagnostic(one.code, words)
            return
        yield one


def too_large(many: str, most: int) -> Rejected:
    """The error that a table has so many operations, and what would allow it."""
    what = f"this table has {many} operations, and {most:,} are the most"
    return Rejected([Diagnostic("too-large", what, help="`--max-ops` allows more")])


@dataclass(frozen=True, slots=True)
class TableSizes:
    """What is known beside the table; None where the table is to show it."""

    ranks: int | None = None
    microbatches: int | None = None
    placement: PlacementWord | None = None
