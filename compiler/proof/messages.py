"""How a failed proof speaks: places and instructions in the words of the plan, as in
`rank 2, instruction 17: receive of F main[1, 3] from rank 1`, with the lines of the source that
ask for them. Instructions are counted from 0 on each rank.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.wording import listed
from stretto.compiler.problem.figures import size_figure
from stretto.compiler.problem.spec import NONE, Limit, Operation, Spec, show
from stretto.compiler.program.program import (
    Await,
    BeginReduction,
    BeginUnshard,
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
from stretto.compiler.proof.kinds import KINDS

Location = tuple[int, int]  # rank, index of the instruction


class Excess(NamedTuple):
    """A rank that holds more activations than it may: where it first does, the grains that it
    holds then and at its peak, its limit and its units."""

    place: Location
    holds: int
    peak: int
    limit: Limit
    units: Sequence[tuple[Operation, ...]]


class Wording:
    """Names the places of one Program. `sent` and `sent_at` have, by channel, the results found to
    be sent on it and the sends' places in the sender's list, as far as lists were followed."""

    def __init__(
        self, program: Program, sent: list[list[Operation]], sent_at: Sequence[Sequence[int]]
    ) -> None:
        self.program, self.sent, self.sent_at = program, sent, sent_at

    def finding(
        self,
        code: str,
        place: Location,
        message: str,
        *others: tuple[Location, str],
        notes: Iterable[str] = (),
    ) -> Diagnostic:
        """A diagnostic about the instruction at `place`, and the other places that explain it."""
        labels = [label for p, words in ((place, ""), *others) for label in self.label(p, words)]
        told = [f"{words}: {self.at(p)}" for p, words in others]
        return Diagnostic(
            code, f"{self.at(place)}: {message}", tuple(labels), tuple(told) + tuple(notes)
        )

    def at(self, place: Location) -> str:
        """The place and what stands there: `rank 2, instruction 17: wait for slot 3`."""
        rank, i = place
        instruction = self.program.ranks[rank][i]
        of = " of the evaluation" if self.program.name == "eval" else ""
        on = f" on `{self._stream(place)}`" if self.program.streams else ""
        return f"rank {rank}, instruction {i}{of}{on}: {self.instruction(instruction, place)}"

    def process(self, rank: int, stream: int) -> str:
        """The rank, or a stream of it where it has several."""
        if not self.program.streams:
            return f"rank {rank}"
        return f"`{self.program.spec.streams[stream]}` of rank {rank}"

    def _stream(self, place: Location) -> str:
        rank, i = place
        return self.program.spec.streams[self.program.streams[rank][i]]

    def instruction(self, instruction: Instruction, place: Location) -> str:
        """The instruction in words."""
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
            case BeginReduction():
                return f"average of the gradients of {self._stage(instruction)}"
            case BeginUnshard():
                return f"gathering of the weights of {self._stage(instruction)}"
            case Await():
                return f"await of {self.operation(instruction.operation)}"

    def _stage(self, one: BeginReduction | BeginUnshard) -> str:
        known = 0 <= one.pipeline < len(self.program.spec.pipelines)
        spec = self.program.spec
        name = spec.pipelines[one.pipeline].name if known else f"pipeline {one.pipeline}"
        return f"stage {one.stage} of {name}"

    def _sent(self, send: Send, place: Location) -> str:
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
        source, target, *_ = self.program.channels[channel]
        return f" {way} rank {source if way == 'from' else target}"

    def operation(self, operation: Operation) -> str:
        """The operation as everywhere, also where the Spec has no such pipeline."""
        return name(self.program.spec, operation)

    def reduction(self, reduction: Reduction) -> str:
        """The sum in words, with the copies that it is over, or the stages of the tie."""
        what = f"`{reduction.tie}` in " if reduction.tie else ""
        return f"sum of the gradients of {what}{self.copies(reduction.copies)}"

    def copies(self, copies: Iterable[Copy]) -> str:
        """The copies of a stage: `stage 0 of main (rank 1), stage 0 of back (rank 2)`."""
        pipelines = self.program.spec.pipelines
        named = (
            f"stage {s} of {pipelines[p].name if 0 <= p < len(pipelines) else f'pipeline {p}'} "
            f"(rank {rank})"
            for p, s, rank in copies
        )
        return ", ".join(named)

    def label(self, place: Location, words: str) -> list[Label]:
        """The line that asks for the instruction: a compute's own; for what stands around it the
        line of the compute that it serves, the one before a send or free, else the one after."""
        rank, i = place
        instructions = self.program.ranks[rank]
        behind = isinstance(instructions[i], Send | Free | Reduce | BeginReduction)
        here = [*instructions[i::-1]] if behind else instructions[i:]
        for instruction in here:
            if isinstance(instruction, Compute):
                spans = self.program.spec.spans
                known = 0 <= instruction.at < len(spans)
                return [Label(spans[instruction.at], words)] if known else []
        return []


def name(spec: Spec, operation: Operation) -> str:
    """The operation as in `F main[0, 3]`; by its numbers where the Spec has no such pipeline or
    part."""
    _, p, s, _, _, part = operation
    known = 0 <= p < len(spec.pipelines)
    if part != NONE:
        chained = known and p < len(spec.parts) and 0 <= s < len(spec.parts[p])
        if chained and 0 <= part < len(spec.parts[p][s]):
            return show(spec, operation)
        return f"{name(spec, operation._replace(part=NONE))} part {part}"
    if known:
        return show(spec, operation)
    return f"{operation.kind} pipeline {p}[{s}, {operation.microbatch}]"


def over_limit(words: Wording, group: Sequence[Excess]) -> Diagnostic:
    """Ranks that break one limit at one place of the text: the first of them in full."""
    spec = words.program.spec
    first, others = group[0], [excess.place[0] for excess in group[1:]]
    rank, i = first.place
    compute = words.program.ranks[rank][i]
    assert isinstance(compute, Compute)
    holds, limit = size(spec, first.holds), size(spec, first.limit.grains)
    unit = "of activations" if holds.endswith("B") else "activation" + "s" * (holds != "1")
    text = f"rank {rank} would hold {holds} {unit} at `{words.operation(compute.operation)}`"
    if not spec.written:  # a plan file, where there is no order but the list
        text += f", instruction {i}"
    most = max(group, key=lambda excess: excess.peak)
    where = f" on rank {most.place[0]}" if others else ""
    notes = [f"all of this order needs {size(spec, most.peak)}{where}"]
    if others:
        notes.insert(0, f"{listed('rank', others, 8)} {'do' if others[1:] else 'does'} the same")
    return Diagnostic(
        "over-limit",
        f"{text}; the limit is {limit}",
        (
            *words.label(first.place, f"this makes it {holds}"),
            Label(spec.spans[first.limit.at], f"the limit is {limit}"),
        ),
        tuple(notes),
        _remedy(spec, group, compute.operation),
    )


def _remedy(spec: Spec, group: Sequence[Excess], forward: Operation) -> str:
    """What the limit would have to be; and where the forward would fit into it alone, what could
    be given back before."""
    first = group[0]
    if len({excess.limit.grains for excess in group}) == 1:
        allow = f"allow {size(spec, max(excess.peak for excess in group))}"
    else:
        allow = f"allow {size_figure(spec, first.peak, 'up')} on rank {first.place[0]}"
    backwards = sorted({o.kind for unit in first.units for o in unit if KINDS[o.kind].sums})
    alone = spec.pipelines[forward.pipeline].stages[forward.stage].activation
    if not backwards or alone > first.limit.grains:
        return allow
    return f"{allow}, or run a {' or '.join(f'`{kind}`' for kind in backwards)} earlier"


def size(spec: Spec, grains: int) -> str:
    """In the units of the schedule."""
    return size_figure(spec, grains)
