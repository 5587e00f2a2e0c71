"""What following one rank's list leaves for the rest of the proof: a `RankTrace` of its own, and
entries in the `Ledger`, which all ranks share.
"""

from array import array
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.problem.spec import Operation
from stretto.compiler.program.program import Program

# An event is `value << SHIFT | tag`: a computation of so many ticks; one side of a message begun,
# by the sender or the receiver; a wait for a message; a meeting of the ranks of a reduction; beside
# the computations: averaging gradients for so many ticks, gathering weights for so many, and the
# need of the weights that were gathered n-th; of parts the computation of the operation of this
# number, and an await of it on another stream.
RUN, SENT, POSTED, WAIT, MEET, REDUCE, GATHER, NEED, PART, AWAIT = range(10)
SHIFT = 4
TAG = (1 << SHIFT) - 1


ListPlaces: TypeAlias = "array[int]"
"""Places in a rank's list: of a large step there are millions, in eight bytes each."""


class Events:
    """The events of one process, and for each the place of the instruction that it stems from."""

    __slots__ = ("places", "values")

    def __init__(self) -> None:
        self.values: list[int] = []
        self.places: ListPlaces = array("q")

    def add(self, i: int, tag: int, value: int) -> None:
        """The instruction at place i brings this event."""
        self.values.append(value << SHIFT | tag)
        self.places.append(i)


Marks = dict[int, list[Operation]]
"""For rules across ranks, what is computed at which event."""


class ProcessTrace(NamedTuple):
    """What one process does: a rank, or where the schedule has streams one stream of it."""

    rank: int
    stream: int
    events: list[int]
    places: ListPlaces
    marks: Marks


class PartTable:
    """What was found of operations that are parts, by their number: `placed`, the place in the
    rank's list, -1 until it was done; `lasting`, the ticks that it takes; `heard`, where
    the rank's memory is limited, per stream of the rank the last instruction that has ended before
    it begins."""

    __slots__ = ("heard", "lasting", "placed")

    def __init__(self, entries: int):
        self.placed = [-1] * entries
        self.lasting = [0] * entries
        self.heard: dict[int, tuple[int, ...]] = {}


class Ledger(Struct):
    """What all ranks write into: by channel the results sent and the results that receives claim,
    with the places in the rank's list; by operation what was done (see `obligations`); the same
    of `parts`."""

    channels: int
    done: bytearray
    sent: list[list[Operation]]
    sent_at: list[ListPlaces]
    posted: list[list[Operation]]
    posted_at: list[ListPlaces]
    parts: PartTable
    findings: list[Diagnostic] = []

    @staticmethod
    def of(program: Program, entries: int, parts: int = 0) -> "Ledger":
        """One for this Program in which nothing is written yet, with room for so many operations,
        or so many that are parts."""
        many = len(program.channels)
        return Ledger(
            many,
            bytearray(entries),
            sent=[[] for _ in range(many)],
            sent_at=[array("q") for _ in range(many)],
            posted=[[] for _ in range(many)],
            posted_at=[array("q") for _ in range(many)],
            parts=PartTable(parts),
        )


class RankTrace(NamedTuple):
    """One rank's list: its processes, the units in sequence (of streams, stream by stream), and the
    peaks. `over_at` is the
    instruction that first takes more activations than the limit allows, -1 where none does, and
    `over` what the rank holds then. `together`: the whole list as one thread runs it, where the
    rank has several processes."""

    processes: tuple[ProcessTrace, ...]
    units: list[tuple[Operation, ...]]
    activations: int
    over: int
    over_at: int
    receives: int
    outputs: int
    together: ProcessTrace | None = None
