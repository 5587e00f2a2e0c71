"""How a failed proof speaks: places and instructions in the words of the plan, as in
`rank 2, instruction 17: receive of F main[1, 3] from rank 1`, with the lines of the source that
ask for them. Instructions are counted from 0 on each rank.
"""

from bisect import bisect_left
from collections.abc import Iterable

from stretto.compiler.diagnostics import Diagnostic, Label
from stretto.compiler.program import (
    Compute,
    Copy,
    Free,
    Instruction,
    Program,
    Receive,
    Reduce,
    Reduction,
    Send,
    Wait,
)
from stretto.compiler.spec import NONE, Operation, Spec, show

Place = tuple[int, int]  # rank, index of the instruction


class Words:
    """Names the places of one Program. `sent` and `sent_at` have, by channel, the results found to
    be sent on it and where the sends stand in the sender's list; they grow as ranks are walked."""

    def __init__(
        self, program: Program, sent: list[list[Operation]], sent_at: list[list[int]]
    ) -> None:
        self.program, self.sent, self.sent_at = program, sent, sent_at

    def finding(
        self,
        code: str,
        place: Place,
        message: str,
        *others: tuple[Place, str],
        notes: Iterable[str] = (),
    ) -> Diagnostic:
        """A diagnostic about the instruction at `place`, and the other places that explain it."""
        labels = [label for p, words in ((place, ""), *others) for label in self.label(p, words)]
        told = [f"{words}: {self.at(p)}" for p, words in others]
        return Diagnostic(
            code, f"{self.at(place)}: {message}", tuple(labels), tuple(told) + tuple(notes)
        )

    def at(self, place: Place) -> str:
        rank, i = place
        instruction = self.program.ranks[rank][i]
        of = " of the evaluation" if self.program.name == "eval" else ""
        return f"rank {rank}, instruction {i}{of}: {self.instruction(instruction, place)}"

    def instruction(self, instruction: Instruction, place: Place) -> str:
        match instruction:
            case Compute():
                return self.operation(instruction.operation)
            case Receive():
                what = self.operation(instruction.result)
                return f"receive of {what}{self._peer(instruction.channel, 'from')}"
            case Send():
                what = self._sent(instruction, place)
                return f"send of {what}{self._peer(instruction.channel, 'to')}"
            case Wait():
                return f"wait for slot {instruction.slot}"
            case Free():
                return f"free of slot {instruction.slot}"
            case Reduce():
                known = 0 <= instruction.reduction < len(self.program.reductions)
                if not known:
                    return f"sum number {instruction.reduction}"
                return self.reduction(self.program.reductions[instruction.reduction])

    def _sent(self, send: Send, place: Place) -> str:
        """What was found to be sent there; where nothing was, the slot."""
        rank, i = place
        channels = self.program.channels
        if 0 <= send.channel < len(channels) and channels[send.channel].source == rank:
            places = self.sent_at[send.channel]
            n = bisect_left(places, i)
            if n < len(places) and places[n] == i:
                return self.operation(self.sent[send.channel][n])
        return f"slot {send.slot}"

    def _peer(self, channel: int, way: str) -> str:
        if not 0 <= channel < len(self.program.channels):
            return f" on channel {channel}"
        source, target, _ = self.program.channels[channel]
        return f" {way} rank {source if way == 'from' else target}"

    def operation(self, operation: Operation) -> str:
        """The operation as everywhere, also where the Spec has no such pipeline."""
        return name(self.program.spec, operation)

    def reduction(self, reduction: Reduction) -> str:
        return f"sum of the gradients of {self.copies(reduction.copies)}"

    def copies(self, copies: Iterable[Copy]) -> str:
        pipelines = self.program.spec.pipelines
        named = (
            f"stage {s} of {pipelines[p].name if 0 <= p < len(pipelines) else f'pipeline {p}'} "
            f"(rank {rank})"
            for p, s, rank in copies
        )
        return ", ".join(named)

    def label(self, place: Place, words: str) -> list[Label]:
        """The line that asks for the instruction: a compute's own; for what stands around it the
        line of the compute that it serves, the one before a send or free, else the one after."""
        rank, i = place
        instructions = self.program.ranks[rank]
        behind = isinstance(instructions[i], Send | Free | Reduce)
        here = [*instructions[i::-1]] if behind else instructions[i:]
        for instruction in here:
            if isinstance(instruction, Compute):
                spans = self.program.spec.spans
                known = 0 <= instruction.at < len(spans)
                return [Label(spans[instruction.at], words)] if known else []
        return []


def name(spec: Spec, operation: Operation) -> str:
    if 0 <= operation.pipeline < len(spec.pipelines):
        text = show(spec, operation)
    else:
        text = f"{operation.kind} pipeline {operation.pipeline}"
        text += f"[{operation.stage}, {operation.microbatch}]"
    return text if operation.part == NONE else f"{text} part {operation.part}"
