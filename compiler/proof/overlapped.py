"""The overlapped units of one rank, followed through its list, and the events of what is computed:
of an overlapped unit there is one, and its second half says how long."""

from typing import NamedTuple

from stretto.compiler.program.program import Compute, Free, Instruction, Operation, Send
from stretto.compiler.proof.findings import RankFindings
from stretto.compiler.proof.kinds import FORWARD
from stretto.compiler.proof.ledger import RUN, SHIFT, Events
from stretto.compiler.proof.obligations import Obligation, Obligations


class OpenUnit(NamedTuple):
    """An overlapped unit whose first half was run: its event is completed by the second."""

    unit: int
    first: Compute
    at: int
    event: int


class OverlappedUnits:
    """The unit that is open, if one is, and the units so far, with those of one computation."""

    def __init__(self, obligations: Obligations, events: Events, findings: RankFindings):
        self.obligations, self.events, self.findings = obligations, events, findings
        self.open: OpenUnit | None = None
        self.over: set[int] = set()
        self.units: list[tuple[Operation, ...]] = []

    @property
    def event(self) -> int:
        """The number of the event that the next computation belongs to."""
        return len(self.events.values) if self.open is None else self.open.event

    def half(self, i: int, compute: Compute, obligation: Obligation) -> None:
        """A computation that is half of a unit, or stands inside one."""
        unit = compute.unit
        if self.open is None:
            if unit in self.over:
                message = f"overlapped unit {unit} was already complete"
                self.findings.fault("wrong-overlap", i, message)
            if obligation.kind.bit != FORWARD:
                message = "an overlapped unit begins with its forward"
                self.findings.fault("wrong-overlap", i, message)
            self.open = OpenUnit(unit, compute, i, len(self.events.values))
            self.events.add(i, RUN, 0)
        else:
            self._complete(i, compute, self.open)

    def _complete(self, i: int, compute: Compute, opened: OpenUnit) -> None:
        """The second half."""
        first, second = opened.first.operation, compute.operation
        self.open = None
        self.over.add(opened.unit)
        self.units.append((first, second))
        if compute.unit != opened.unit:
            message = f"overlapped unit {opened.unit} is not complete"
        elif second.kind not in self.obligations.spec.overlap:
            message = f"the schedule does not let {second.kind} overlap F"
        elif (first.pipeline, first.microbatch) == (second.pipeline, second.microbatch):
            message = "both halves are of the same micro-batch"
        else:
            ticks = self.obligations.costs.pair(first, second)
            self.events.values[opened.event] = ticks << SHIFT | RUN
            return
        where = self.findings.here(opened.at, "the first half of the overlapped unit")
        self.findings.fault("wrong-overlap", i, message, where)

    def between(self, i: int, instruction: Instruction, opened: OpenUnit) -> None:
        """Between the halves the first one's result leaves, and what it read is freed; anything
        else would tear them apart."""
        first = opened.first
        leaves = type(instruction) is Send and instruction.slot == first.writes
        frees = type(instruction) is Free and instruction.slot in first.reads
        if not leaves and not frees:
            where = self.findings.here(opened.at, "its first half")
            message = "this stands inside an overlapped unit"
            self.findings.fault("wrong-overlap", i, message, where)

    def close(self) -> None:
        """After the last instruction no unit may be open."""
        if self.open is not None:
            message = "the overlapped unit has no second half"
            self.findings.fault("wrong-overlap", self.open.at, message)
