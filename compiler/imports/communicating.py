"""Spec and its ImportedTable → Program: the table's messages as they stand, for the proof.

A send begins where it stands and is waited for at the end of the list, as in PyTorch; a receive is
posted where it stands and waited for right before the computation that uses it. `UNSHARD` becomes
the gathering of a stage's weights where it stands first; what follows, and `RESHARD`, only moves
memory, which a plan does not count.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from stretto.compiler.imports.communication import WAYS, TableMessage, ends, result
from stretto.compiler.imports.table import COMPUTATIONS, MESSAGES, ImportedTable, TableAction
from stretto.compiler.imports.understand import operation
from stretto.compiler.problem.kinds import Traffic
from stretto.compiler.problem.spec import NONE, Operation, Spec, StageTicks, Unit
from stretto.compiler.program.program import (
    BeginReduction,
    BeginUnshard,
    Channel,
    Compute,
    Free,
    Instruction,
    Program,
    Receive,
    Send,
    Wait,
)

TRAFFIC: dict[str, Traffic] = {"F": "activation", "B": "gradient"}


def communicating(table: ImportedTable, spec: Spec) -> Program:
    """The `train` Program of a table in which `understood` finds nothing wrong. Its Spec says of
    which stages gradients are averaged and weights gathered, which takes no time."""
    stages = range(len(spec.pipelines[0].stages))
    every = tuple(StageTicks(0, s, 0) for s in stages)
    gathered = {one.stage for row in table.rows for one in row if one.word == "UNSHARD"}
    spec = replace(
        spec,
        reduce_gradients=every,
        unshard_weights=every if gathered >= set(stages) else (),
    )
    place = [stage.rank for stage in spec.pipelines[0].stages]
    channels = _channels(table, place)
    split: set[tuple[int, ...]] = {
        operation(o)[1:] for row in table.rows for o in row if o.word == "I"
    }
    ranks = tuple(
        tuple(_RankOfTable(table, spec, place, rank, channels, split).instructions())
        for rank in range(spec.ranks)
    )
    return Program(spec, "train", tuple(channels), (), ranks)


def _channels(table: ImportedTable, place: Sequence[int]) -> dict[Channel, int]:
    found: dict[Channel, int] = {}
    for row in table.rows:
        for one in row:
            if one.word in MESSAGES and (pair := ends(result(one), place)) is not None:
                found.setdefault(Channel(*pair, TRAFFIC[WAYS[one.word].kind]), len(found))
    return found


class _RankOfTable:
    """The instructions of one row. Slots: one for each result, the rank's own first."""

    def __init__(
        self,
        table: ImportedTable,
        spec: Spec,
        place: Sequence[int],
        rank: int,
        channels: dict[Channel, int],
        split: set[tuple[int, ...]],
    ):
        self.table, self.spec, self.rank, self.channels = table, spec, rank, channels
        self.split = split
        self.place = place
        self.slots: dict[TableMessage, int] = {}
        self.left: list[int] = []  # slots of sends that are under way

    def instructions(self) -> list[Instruction]:
        found: list[Instruction] = []
        units = {unit.operations[0]: unit for unit in self.spec.written[self.rank]}
        gathered: set[int] = set()
        for one in self.table.rows[self.rank]:
            if one.word in COMPUTATIONS:
                if (unit := units.get(operation(one))) is not None:
                    found += self.computed(unit, len(found))
            elif one.word in MESSAGES:
                found.append(self.message(one))
            elif one.word == "REDUCE_GRAD":
                found.append(BeginReduction(0, one.stage))
            elif one.word == "UNSHARD" and one.stage not in gathered and self.spec.unshard_weights:
                gathered.add(one.stage)
                found.append(BeginUnshard(0, one.stage))
        for slot in self.left:
            found += [Wait(slot), Free(slot)]
        return found

    def computed(self, unit: Unit, number: int) -> list[Instruction]:
        """A unit, with the waits before it and the frees behind it."""
        before: list[Instruction] = []
        unit_number = number if len(unit.operations) > 1 else NONE
        computes: list[Instruction] = []
        after: list[Instruction] = []
        for one in unit.operations:
            reads = []
            for message, remote in self.reads(one):
                slot = self.slots.pop(message)
                reads.append(slot)
                after.append(Free(slot))
                if remote:
                    before.append(Wait(slot))
            writes = self.written(one)
            computes.append(Compute(one, tuple(reads), writes, unit_number, 0, unit.at))
        return [*before, *computes, *after]

    def reads(self, one: Operation) -> Sequence[tuple[TableMessage, bool]]:
        """The result that a computation uses, and whether it was received."""
        if one.kind == "F" and one.stage > 0:
            message: TableMessage = ("F", one.stage - 1, one.microbatch)
        elif one.kind in "BI" and one.stage + 1 < len(self.place):
            message = ("B", one.stage + 1, one.microbatch)
        else:
            return ()
        return [(message, self.place[message[1]] != self.rank)]

    def written(self, one: Operation) -> int:
        """The slot of a result that another stage uses."""
        message: TableMessage = ("F" if one.kind == "F" else "B", one.stage, one.microbatch)
        if one.kind == "W" or ends(message, self.place) is None:
            return NONE
        return self.slot(message)

    def slot(self, message: TableMessage) -> int:
        """A slot for a result that comes into being here."""
        kind, stage, microbatch = message
        many = self.spec.pipelines[0].microbatches
        number = (stage * many + microbatch) * 2 + (kind == "B")
        self.slots[message] = number
        return number

    def message(self, one: TableAction) -> Instruction:
        """A send of what was computed, or the post of a receive."""
        message = result(one)
        pair = ends(message, self.place)
        assert pair is not None, "a message that is needed"
        channel = self.channels[Channel(*pair, TRAFFIC[message[0]])]
        if WAYS[one.word].sends:
            self.left.append(self.slots.pop(message))
            return Send(self.left[-1], channel)
        kind, stage, microbatch = message
        made = Operation(kind, 0, stage, microbatch)
        if kind == "B" and made[1:] in self.split:
            made = made._replace(kind="I")
        return Receive(self.slot(message), channel, made)
