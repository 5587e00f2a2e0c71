"""The kinds of operations, one frozen value each, in one table: `KINDS`, by letter.

Whoever wants to know what follows from an operation's kind asks here: what it needs, what it does
to memory, what becomes of its result, whether an evaluation runs it, where it stands. (The proof
has a table of its own, `proof/obligations.py`, since it must not trust this one; the search counts
with integers.) How long an operation takes stands in the Spec: `Stage.ticks`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec import Struct

from stretto.compiler.problem.spec import Operation, Spec, Stage

Traffic = Literal["activation", "gradient"]
"""What passes from a stage to another: outputs downstream, their gradients upstream."""


class MemoryEffect(NamedTuple):
    """Grains that an operation takes from a pool of its rank when it starts, and gives back when
    it has ended."""

    alloc: int
    free: int
    pool: Literal["device"] = "device"


class OperationKind(Struct, frozen=True):
    """What is true of all operations of one kind. Each happens at most once for a stage, a
    micro-batch and a slice.

    `letter` and `name`: as in `F main[0, 3]`, and in words. `memory`: what one does to the memory
    of its rank, on a stage whose backward runs in the same program, or does not. `follows`: the
    kind whose result of the same stage, micro-batch and slice it needs; "" where there is none.
    `uses`: what it needs of other stages; `leaves`: what it leaves for other stages. `slices`: how
    it goes through the slices of a micro-batch: 1 upwards, -1 downwards, 0 in any order.
    `trains`: only pipelines that are trained have it. `evaluates`: an evaluation runs it too.
    `halves`: the two kinds that may replace it, the first with what it uses and leaves.
    `behind`: no order names it and no search places it: `communicate` puts one right behind the
    unit of every operation of this kind; "" for the kinds that orders name.
    """

    letter: str
    name: str
    memory: Callable[[Stage, bool], MemoryEffect]
    follows: str = ""
    uses: Traffic | None = None
    leaves: Traffic | None = None
    slices: Literal[-1, 0, 1] = 0
    trains: bool = True
    evaluates: bool = False
    halves: tuple[str, ...] = ()
    behind: str = ""


def _forward(stage: Stage, trained: bool) -> MemoryEffect:
    return MemoryEffect(stage.activation, 0 if trained else stage.activation)


KINDS: dict[str, OperationKind] = {
    kind.letter: kind
    for kind in (
        OperationKind(
            "F",
            "forward",
            _forward,
            uses="activation",
            leaves="activation",
            slices=1,
            trains=False,
            evaluates=True,
        ),
        OperationKind(
            "B",
            "backward",
            lambda stage, _: MemoryEffect(0, stage.activation),
            follows="F",
            uses="gradient",
            leaves="gradient",
            slices=-1,
            halves=("I", "W"),
        ),
        OperationKind(
            "I",
            "input gradient",
            lambda stage, _: MemoryEffect(0, stage.activation - stage.kept),
            follows="F",
            uses="gradient",
            leaves="gradient",
            slices=-1,
        ),
        OperationKind(
            "W",
            "weight gradient",
            lambda stage, _: MemoryEffect(0, stage.kept),
            follows="I",
        ),
    )
}
"""By letter; the order is that of lists and legends."""


def memory_effect(spec: Spec, operation: Operation, program: str = "train") -> MemoryEffect:
    """What the operation does to the memory of its rank when the Program of this name (`train`,
    `eval`) runs it: grains, from its start and from its end on."""
    pipeline = spec.pipelines[operation.pipeline]
    trained = program == "train" and not pipeline.forward_only
    return KINDS[operation.kind].memory(pipeline.stages[operation.stage], trained)


def half(operation: Operation, which: Literal["first", "last"]) -> Operation:
    """What stands for the operation where it was split: the half that starts it or ends it. An
    operation that is never split stands for itself."""
    halves = KINDS[operation.kind].halves
    return operation._replace(kind=halves[0 if which == "first" else -1]) if halves else operation
