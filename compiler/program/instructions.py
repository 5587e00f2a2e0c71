"""The instructions, each a value: what a rank runs, top to bottom.

The table with the effect of each is `docs/instructions.md`; where a new one is entered,
CONTRIBUTING says. Slots and channels are those of `program`, and -1 stands for "none".
"""

from msgspec import Struct

from stretto.compiler.problem.spec import NONE, Operation


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
