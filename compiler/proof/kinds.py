"""What the proof asks of each kind of operation: `KINDS`, by letter.

The proof's own table. `problem/kinds.py` says much of the same for those who make Programs, and is
not trusted here: a mistake there must not be forgiven by the same mistake here.
"""

from collections.abc import Callable

from msgspec import Struct

from stretto.compiler.problem.spec import Operation, Stage
from stretto.compiler.program.program import Traffic

FORWARD, BACKWARD, INPUT, WEIGHT = 1, 2, 4, 8
"""What was done of one stage for one micro-batch (and slice): a bit each."""


class KindObligation(Struct, frozen=True):
    """What the proof asks of all operations of one kind.

    `bit` marks one that was done; `bars`: what must not have been done before it (itself, so that
    it comes once, and what it is a part of); `after`: what must have been. `required`: each must
    be done, where the others of its stage are (of F, B, I and W: `COMPLETE` says which).
    `trains`: it happens where the pipeline is trained, only; `evaluates`: in an evaluation too.
    `alloc`, `free`: grains at its start and end, on a stage that is trained or not. `reads`,
    `leaves`: what of other stages it needs, and what for others its result is. `slices`: 1 where
    slices come upwards, -1 downwards, 0 in any order. `sums`: it completes a weight gradient.
    `starts`, `ends`: what may stand for it where a rule speaks of its start or its end; of the
    later operation of a rule the start counts, of the earlier the end. `ordered`: written orders
    name it.
    """

    name: str
    bit: int
    bars: int
    after: int = 0
    required: bool = False
    trains: bool = True
    evaluates: bool = False
    alloc: Callable[[Stage, bool], int] = lambda stage, trained: 0
    free: Callable[[Stage, bool], int] = lambda stage, trained: 0
    reads: Traffic | None = None
    leaves: Traffic | None = None
    slices: int = 0
    sums: bool = False
    starts: str = ""
    ends: str = ""
    ordered: bool = True


KINDS: dict[str, KindObligation] = {
    "F": KindObligation(
        "forward",
        bit=FORWARD,
        bars=FORWARD,
        trains=False,
        evaluates=True,
        alloc=lambda stage, trained: stage.activation,
        free=lambda stage, trained: 0 if trained else stage.activation,
        reads="activation",
        leaves="activation",
        slices=1,
    ),
    "B": KindObligation(
        "backward",
        bit=BACKWARD,
        bars=BACKWARD | INPUT | WEIGHT,
        after=FORWARD,
        free=lambda stage, trained: stage.activation,
        reads="gradient",
        leaves="gradient",
        slices=-1,
        sums=True,
        starts="BI",
        ends="BW",
    ),
    "I": KindObligation(
        "input gradient",
        bit=INPUT,
        bars=BACKWARD | INPUT,
        after=FORWARD,
        free=lambda stage, trained: stage.activation - stage.kept,
        reads="gradient",
        leaves="gradient",
        slices=-1,
        starts="IB",
        ends="IB",
    ),
    "W": KindObligation(
        "weight gradient",
        bit=WEIGHT,
        bars=BACKWARD | WEIGHT,
        after=FORWARD | INPUT,
        free=lambda stage, trained: stage.kept,
        sums=True,
        starts="WB",
        ends="WB",
    ),
}
"""By letter. A further kind takes a bit of its own."""

COMPLETE = {True: (FORWARD | BACKWARD, FORWARD | INPUT | WEIGHT), False: (FORWARD,)}
"""The ways to do a stage for one micro-batch, where it is trained and where not."""


def starts(operation: Operation) -> list[Operation]:
    """What may stand for the later operation of a rule."""
    kinds = KINDS[operation.kind].starts or operation.kind
    return [operation._replace(kind=kind) for kind in kinds]


def ends(operation: Operation) -> list[Operation]:
    """What may stand for the earlier operation of a rule."""
    kinds = KINDS[operation.kind].ends or operation.kind
    return [operation._replace(kind=kind) for kind in kinds]
