"""`Program`: for every rank the list of instructions that it runs, top to bottom.

A *slot* is a numbered place on a rank for one result in transit: a received activation or
gradient, or an output until it was sent or handed on. A *channel* is one directed pair of ranks
and one kind of traffic; the n-th message sent on it meets the n-th receive posted on it, so
messages carry no number. -1 stands for "none".
"""

from typing import Literal, NamedTuple

from msgspec import Struct

from stretto.compiler.problem.kinds import Traffic as Traffic
from stretto.compiler.problem.spec import NONE as NONE  # `as`: for those who read Programs, too
from stretto.compiler.problem.spec import Operation as Operation
from stretto.compiler.problem.spec import Pipeline as Pipeline
from stretto.compiler.problem.spec import Spec as Spec
from stretto.compiler.problem.spec import StageTicks as StageTicks
from stretto.compiler.problem.spec import Tie as Tie
from stretto.compiler.problem.spec import TiedPlace as TiedPlace
from stretto.compiler.problem.spec import show as show

# isort: off
from stretto.compiler.program.instructions import (  # for those who read Programs, too
    Await as Await,
    BeginReduction as BeginReduction,
    BeginUnshard as BeginUnshard,
    Compute as Compute,
    Free as Free,
    Instruction as Instruction,
    Receive as Receive,
    Reduce as Reduce,
    Send as Send,
    Wait as Wait,
)
# isort: on


class Channel(NamedTuple):
    """One directed pair of streams and one kind of traffic between them: from the stream
    `source_stream` of the rank `source` to `target_stream` of `target`."""

    source: int
    target: int
    traffic: Traffic
    source_stream: int = 0
    target_stream: int = 0


class Copy(NamedTuple):
    """One copy of a replicated stage, and the rank that holds it."""

    pipeline: int
    stage: int
    rank: int


class Reduction(Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """Gradients that are summed. Without `tie` those of the copies of one stage, in this order: by
    rank, then pipeline; what a tie names is not among them. Else those of the tie of this name: of
    its holders, in its order; `copies` are then the stages that these stand in."""

    copies: tuple[Copy, ...]
    tie: str = ""


ProgramName = Literal["train", "eval"]
"""`train`: every operation of the step. `eval`: its forwards alone, in the same order."""


class Program(Struct, frozen=True, weakref=True):
    """The Spec, what is to be run of it (`name`), the tables that instructions refer to, and the
    list of every rank. `streams[rank][k]` is the stream of the rank's k-th instruction (an index
    into `Spec.streams`; of a `Compute` the same as its `stream`): each stream runs its own
    instructions in the sequence of the list. Where the Spec has no streams it is empty."""

    spec: Spec
    name: ProgramName
    channels: tuple[Channel, ...]
    reductions: tuple[Reduction, ...]
    ranks: tuple[tuple[Instruction, ...], ...]
    streams: tuple[tuple[int, ...], ...] = ()

    def units(self, rank: int) -> list[tuple[Compute, ...]]:
        """What the rank computes, in the order it does: each unit is one computation, or the two
        that overlap."""
        units: list[tuple[Compute, ...]] = []
        for one in self.ranks[rank]:
            if type(one) is Compute:
                if one.unit != NONE and units and units[-1][-1].unit == one.unit:
                    units[-1] += (one,)
                else:
                    units.append((one,))
        return units

    def operations(self, rank: int) -> list[tuple[Operation, ...]]:
        """The operations of `units`."""
        return [tuple(one.operation for one in unit) for unit in self.units(rank)]


class Claims(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan says of one of its Programs; the proof recomputes all of it.

    In ticks: `makespan`, the end of the last operation; `span`, the longest time one rank is
    occupied, from its first start to its last end; `busy`, the time that compute streams are
    occupied, summed over ranks, a pair counted once. Per rank, at their peaks: `activations` in
    grains, `receives`, the slots that hold a received result or wait for one, and `outputs`, the
    slots that hold a result of the rank's own until it was sent or handed on.
    """

    makespan: int
    span: int
    busy: int
    activations: tuple[int, ...]
    receives: tuple[int, ...]
    outputs: tuple[int, ...]
