"""What following one rank's list leaves for the rest of the proof: a `RankTrace` of its own, and
entries in the `Ledger`, which all ranks share.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.problem.spec import Operation
from stretto.compiler.program.program import Program
from stretto.compiler.proof.obligations import Obligations

# An event is `value << SHIFT | tag`: a computation of so many ticks; one side of a message begun,
# by the sender or the receiver; a wait for a message; a meeting of the ranks of a reduction; and
# beside the computations: averaging gradients for so many ticks, gathering weights for so many, and
# the need of the weights that were gathered n-th.
RUN, SENT, POSTED, WAIT, MEET, REDUCE, GATHER, NEED = range(8)
SHIFT = 3
TAG = (1 << SHIFT) - 1


class Events(NamedTuple):
    """One rank's events, and for each the place of the instruction that it stems from."""

    values: list[int]
    places: list[int]

    def add(self, i: int, tag: int, value: int) -> None:
        """The instruction at place i brings this event."""
        self.values.append(value << SHIFT | tag)
        self.places.append(i)


@dataclass(slots=True)
class Ledger:
    """What all ranks write into: by channel the results sent and the results that receives claim,
    with the places in the rank's list; by operation what was done (see `obligations`)."""

    channels: int
    done: bytearray
    sent: list[list[Operation]]
    sent_at: list[list[int]]
    posted: list[list[Operation]]
    posted_at: list[list[int]]
    findings: list[Diagnostic] = field(default_factory=list)

    @staticmethod
    def of(program: Program, obligations: Obligations) -> "Ledger":
        """One for this Program in which nothing is written yet."""
        many = len(program.channels)
        return Ledger(
            many,
            bytearray(obligations.entries),
            sent=[[] for _ in range(many)],
            sent_at=[[] for _ in range(many)],
            posted=[[] for _ in range(many)],
            posted_at=[[] for _ in range(many)],
        )


class RankTrace(NamedTuple):
    """One rank's list: its events with the instruction each stems from, the units in sequence,
    and the peaks. `over_at` is the instruction that first takes more activations than the limit
    allows, -1 where none does, and `over` what the rank holds then. `marks`: for rules across
    ranks, what is computed at which event."""

    events: list[int]
    places: list[int]
    units: list[tuple[Operation, ...]]
    activations: int
    over: int
    over_at: int
    receives: int
    outputs: int
    marks: dict[int, list[Operation]]
