"""Why a step cannot finish: `circle` tells the shortest circle of processes (ranks, or their
streams) each of which waits for an instruction that stands behind the one at which the next waits.

There is one: every message has both its sides in the lists, and every part that is awaited stands
in its rank's list; so whoever waits, waits for a process that waits.
"""

from collections.abc import Mapping, Sequence

from stretto.compiler.diagnostics.diagnostic import Diagnostic
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.program.program import BeginUnshard, Program, Reduce
from stretto.compiler.proof.ledger import (
    AWAIT,
    MEET,
    NEED,
    SHIFT,
    TAG,
    Ledger,
    ProcessTrace,
)
from stretto.compiler.proof.messages import Location, Wording


def circle(
    program: Program,
    processes: Sequence[ProcessTrace],
    at: Sequence[int],
    met: Mapping[int, list[int]],
    ledger: Ledger,
    words: Wording,
) -> Diagnostic:
    """The circle in words, where each process has come to its event number `at`, and those in `met`
    have come to each reduction."""
    lists = _WaitingProcesses(program, processes, met, ledger)
    stuck = {
        process: lists.awaited(process, processes[process].events[k])
        for process, k in enumerate(at)
        if k < len(processes[process].events)
    }
    found = shortest({one: [lists.process(p) for p in places] for one, places in stuck.items()})
    notes, labels = [], []
    for one, other in zip(found, [*found[1:], found[0]], strict=True):
        trace = processes[one]
        here = trace.rank, trace.places[at[one]]
        there = next(place for place in stuck[one] if lists.process(place) == other)
        own = lists.own_side(one, trace.events[at[one]])
        what = "" if own is None else f" ({words.at(own)})"
        notes.append(f"{words.at(here)}{what} waits for {words.at(there)}")
        who = words.process(trace.rank, trace.stream)
        labels += words.label(here, f"{who} waits here, at instruction {here[1]}")
    circling = sorted({processes[one].rank for one in found})
    behind = sorted({processes[one].rank for one in stuck} - set(circling))
    if behind:
        notes.append(
            f"{listed('rank', behind, 8)} {'wait' if len(behind) > 1 else 'waits'} behind them"
        )
    who = listed("rank", circling, 8)
    if len(circling) < len(found):
        who = f"streams of {who}"
    text = f"this step can never finish: {who} wait for each other"
    return Diagnostic("deadlock", text, tuple(labels), tuple(notes))


class _WaitingProcesses:
    """What processes wait for."""

    def __init__(
        self,
        program: Program,
        processes: Sequence[ProcessTrace],
        met: Mapping[int, list[int]],
        ledger: Ledger,
    ):
        self.program, self.processes, self.met, self.ledger = program, processes, met, ledger
        self.width = len(processes) // len(program.ranks)

    def process(self, place: Location) -> int:
        """That of the instruction at this place."""
        rank, i = place
        return rank if self.width == 1 else rank * self.width + self.program.streams[rank][i]

    def awaited(self, process: int, event: int) -> list[Location]:
        """The instructions of others that a process which stands at `event` waits for."""
        tag, value = event & TAG, event >> SHIFT
        rank = self.processes[process].rank
        if tag == AWAIT:
            return [(rank, self.ledger.parts.placed[value])]
        if tag == NEED:
            gathers = [
                i for i, one in enumerate(self.program.ranks[rank]) if type(one) is BeginUnshard
            ]
            return [(rank, gathers[value])]
        if tag == MEET:
            come = {self.processes[one].rank for one in self.met[value]}
            missing = {copy.rank for copy in self.program.reductions[value].copies} - come
            return [(other, self._meeting(other, value)) for other in sorted(missing)]
        n, c = divmod(value, len(self.program.channels))
        source, target, *_ = self.program.channels[c]
        if rank == source:
            return [(target, self.ledger.posted_at[c][n])]
        return [(source, self.ledger.sent_at[c][n])]

    def own_side(self, process: int, event: int) -> Location | None:
        """The send or receive of its own that a process waits for."""
        if event & TAG in (MEET, AWAIT, NEED):
            return None
        n, c = divmod(event >> SHIFT, len(self.program.channels))
        rank = self.processes[process].rank
        own = rank == self.program.channels[c].source
        return rank, (self.ledger.sent_at if own else self.ledger.posted_at)[c][n]

    def _meeting(self, rank: int, number: int) -> int:
        """Where the rank sums reduction `number`."""
        return next(
            i
            for i, instruction in enumerate(self.program.ranks[rank])
            if isinstance(instruction, Reduce) and instruction.reduction == number
        )


def shortest(waits: dict[int, list[int]]) -> list[int]:
    """A shortest circle of the graph process → those that it waits for; there is one."""
    best: list[int] = []
    for root in waits:
        before: dict[int, int] = {}  # breadth first, from the root back to it
        layer, depth = [root], 0
        while layer and root not in before and (not best or depth + 1 < len(best)):
            depth += 1
            following = []
            for rank in layer:
                for other in waits.get(rank, ()):
                    if other not in before:
                        before[other] = rank
                        following.append(other)
            layer = following
        if root in before:
            best = [before[root]]
            while best[-1] != root:
                best.append(before[best[-1]])
            best.reverse()
    return best
