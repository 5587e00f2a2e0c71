"""`Program`: for every rank the list of instructions that it runs, top to bottom.

The table of instructions with the effect of each is `docs/instructions.md`; where a new one is
entered, CONTRIBUTING says.

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


class Compute(Struct, frozen=True, array_like=True, tag="compute", gc=False):
    """Run `operation`. It uses what is in the slots `reads` (a forward its input, a B or I its
    output's gradient; none at the ends of a pipeline), and leaves its result in slot `writes`
    where somebody needs it. Two operations of one overlapped unit carry the same `unit`; the
    forward comes first. `at` is the index in `Spec.spans` of the text that asks for it."""

    operation: Operation
    reads: tuple[int, ...] = ()
    writes: int = NONE
    unit: int = NONE
    stream: int = 0
    at: int = NONE


class Receive(Struct, frozen=True, array_like=True, tag="receive", gc=False):
    """Post the receive of `result`, the result of an operation on another rank, into `slot`.
    Does not wait."""

    slot: int
    channel: int
    result: Operation


class Send(Struct, frozen=True, array_like=True, tag="send", gc=False):
    """Begin to send what is in `slot`. Does not wait."""

    slot: int
    channel: int


class Wait(Struct, frozen=True, array_like=True, tag="wait", gc=False):
    """Wait until every message begun on `slot` is over: the receive has arrived, each send has
    been taken."""

    slot: int


class Free(Struct, frozen=True, array_like=True, tag="free", gc=False):
    """`slot` is no longer needed; it may be used again."""

    slot: int


class Reduce(Struct, frozen=True, array_like=True, tag="reduce", gc=False):
    """Sum the gradients of the copies of a stage, or of the holders of a tie: all ranks of the
    reduction meet here, and each has the sum afterwards."""

    reduction: int


class BeginReduction(Struct, frozen=True, array_like=True, tag="reduce-gradients", gc=False):
    """Begin to average the gradients of a stage with those of its replicas in other pipelines.
    Does not wait: the end of the list does."""

    pipeline: int
    stage: int


class BeginUnshard(Struct, frozen=True, array_like=True, tag="unshard-weights", gc=False):
    """Begin to gather the weights of a stage from its replicas. Does not wait: the stage's first
    forward does."""

    pipeline: int
    stage: int


class Await(Struct, frozen=True, array_like=True, tag="await", gc=False):
    """The stream of this instruction goes on when `operation`, a computation of another stream of
    this rank, has ended."""

    operation: Operation


Instruction = (
    Compute | Receive | Send | Wait | Free | Reduce | BeginReduction | BeginUnshard | Await
)

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
